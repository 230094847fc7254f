//! Pausing, resuming and stepping down, over the real binary on both databases.

use std::process::Output;

use serde_json::Value;

use crate::daemon::small::{Small, TOPIC};
use crate::daemon::{ran, stderr, stdout};
use crate::support::daemon::{Daemon, Running};
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::wait::{self, PATIENCE};

fn command(url: &str, arguments: &[&str]) -> Output {
    ran(&[arguments, &["--database-url", url]].concat())
}

/// What a command says that is done.
fn done(url: &str, arguments: &[&str]) -> String {
    let output = command(url, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// What a command says that refuses, with this exit code.
fn refused(url: &str, arguments: &[&str], code: i32) -> String {
    let output = command(url, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {} {}", stdout(&output), stderr(&output));
    stderr(&output)
}

fn status(url: &str) -> Value {
    serde_json::from_slice(&command(url, &["status", "--json"]).stdout).expect("the status is JSON")
}

/// The first finding of `outboxd status`, besides that nobody leads.
fn finding(url: &str) -> String {
    let text = stdout(&command(url, &["status"]));
    text.lines().find(|line| line.contains("paused")).unwrap_or_default().to_owned()
}

/// The commands and subjects in the audit log, the last first.
fn audited(url: &str) -> Vec<(String, String)> {
    let entry = |line: &str| {
        let entry: Value = serde_json::from_str(line).expect("a line is JSON");
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (text("command"), text("subject"))
    };
    done(url, &["audit-log", "--json"]).lines().map(entry).collect()
}

fn what_cannot_be_done_is_refused_and_changes_nothing(url: &str) {
    assert!(refused(url, &["pause"], 2).contains("--reason"));
    assert!(refused(url, &["pause", "--reason", "r", "--topic", "a b"], 2).contains("no pattern of topics"));
    let over = ["pause", "--reason", "r", "--until", "2020-01-31T12:00:00Z"];
    assert!(refused(url, &over, 2).contains("it is over already"));
    assert!(refused(url, &["pause", "--reason", "r", "--until", "soon"], 2).contains("such as 30m"));
    assert!(refused(url, &["resume"], 1).contains("nothing is paused"));
    assert!(refused(url, &["step-down"], 1).contains("nobody leads"));
    assert_eq!(done(url, &["pause", "--reason", "r", "--dry-run"]), "would pause everything; nothing was changed\n");
    assert_eq!(status(url)["paused"], Value::Array(Vec::new()));
    assert!(audited(url).is_empty(), "nothing was changed");
}

fn pauses_are_told_and_ended_by_their_pattern(url: &str) {
    let said = done(url, &["pause", "--topic", "ord*", "--until", "2h", "--reason", "Kafka moves"]);
    assert!(
        said.starts_with("paused topics ord* until 2") && said.contains("`outboxd resume --topic 'ord*'`"),
        "{said}"
    );
    let found = finding(url);
    assert!(found.contains("topics ord* are paused since 2") && found.contains("(Kafka moves)"), "{found}");
    assert!(
        found.contains('@') && found.contains(" until 2") && found.contains("`outboxd resume --topic 'ord*'`"),
        "{found}"
    );
    let told = &status(url)["paused"];
    assert_eq!((&told[0]["topics"], &told[0]["reason"]), (&"ord*".into(), &"Kafka moves".into()), "{told}");

    let said = refused(url, &["resume"], 1);
    assert!(
        said.contains("there is no pause of everything") && said.contains("`outboxd resume --topic 'ord*'`"),
        "{said}"
    );
    assert!(refused(url, &["resume", "--topic", "orders"], 1).contains("there is no pause of topics orders"));
    // However all topics are written, and said twice.
    done(url, &["pause", "--topic", "**", "--reason", "all"]);
    assert!(done(url, &["pause", "--reason", "still all"]).contains("paused everything;"));
    assert_eq!(status(url)["paused"].as_array().map(Vec::len), Some(2));
    assert_eq!(done(url, &["resume", "--dry-run"]), "would resume everything; nothing was changed\n");
    assert!(done(url, &["resume"]).starts_with("resumed everything;"));
    assert!(done(url, &["resume", "--topic", "ord*", "--reason", "Kafka moved"]).starts_with("resumed topics ord*;"));
    assert_eq!(status(url)["paused"], Value::Array(Vec::new()));

    let log = audited(url);
    let commands: Vec<&str> = log.iter().map(|(command, _)| command.as_str()).collect();
    assert_eq!(commands, ["resume", "resume", "pause", "pause", "pause"], "{log:?}");
    assert!(log[4].1.starts_with("--topic ord* --until 2") && log[1].1 == "all", "{log:?}");
}

/// What a relay that is paused shows: over HTTP and as a metric.
async fn a_relay_shows_what_is_paused(relay: &Running, scope: &str) {
    let label = format!(",scope=\"{scope}\"}} 1");
    wait::until_true("the metric tells", PATIENCE, async || {
        relay.get("/metrics").await.is_ok_and(|answer| answer.body.contains(&label))
    })
    .await;
    let ready = relay.get("/readyz").await.expect("an answer");
    assert_eq!(ready.status, 200);
    assert!(ready.body.contains("paused"), "{}", ready.body);
    let seen = relay.get("/status").await.expect("an answer").body;
    let seen: Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!((&seen["ready"], &seen["paused"][0]["reason"]), (&true.into(), &"moving".into()), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_pauses_are_told_on_sqlite() {
    let small = Small::new().await;
    what_cannot_be_done_is_refused_and_changes_nothing(&small.url());
    pauses_are_told_and_ended_by_their_pattern(&small.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_pauses_are_told_on_postgresql() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    what_cannot_be_done_is_refused_and_changes_nothing(scene.database.url());
    pauses_are_told_and_ended_by_their_pattern(scene.database.url());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_restarts_and_everything_comes_after_it_on_sqlite() {
    let small = Small::new().await;
    for (arguments, scope) in [(&[][..], "all"), (&["--topic", TOPIC], "topics")] {
        let (sent, url) = (small.published().await, small.url());
        done(&url, &[&["pause", "--reason", "moving"], arguments].concat());
        small.write(20).await;
        let mut relay = small.daemon().start().await;
        a_relay_shows_what_is_paused(&relay, scope).await;
        assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
        let mut relay = small.daemon().start().await;
        a_relay_shows_what_is_paused(&relay, scope).await;
        assert_eq!((small.unsent().await, small.published().await), (20, sent));
        done(&url, &[&["resume"], arguments].concat());
        relay.reaches("outboxd_published_total", 20.0).await;
        wait::until_true("nothing waits", PATIENCE, async || small.unsent().await == 0).await;
        assert_eq!((relay.stop().await, small.published().await), (Some(0), sent + 20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_under_load_and_kills_harm_no_order_on_postgresql() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let (url, topic) = (scene.database.url(), scene.topic.name());
    let mut relay = scene.relay().start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    scene.topic.holds(300).await;
    for round in 0..4 {
        let pattern = if round % 2 == 0 { "*" } else { topic };
        done(url, &["pause", "--topic", pattern, "--reason", "moving"]);
        a_relay_shows_what_is_paused(&relay, if round % 2 == 0 { "all" } else { "topics" }).await;
        let waiting = "select count(*) from outbox where sent_at is null";
        wait::until_true("rows wait", PATIENCE, async || scene.database.number(waiting).await >= 300).await;
        if round >= 2 {
            relay.kill();
            relay = scene.relay().start().await;
        }
        let sent = scene.topic.count().expect("the broker answers");
        done(url, &["resume", "--topic", pattern]);
        scene.topic.holds(sent + 300).await;
    }
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_complete_and_ordered();
    let verified = command(url, &["verify", "--brokers", &scene.brokers]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
}

/// Lets the leader of two relays step down under way.
async fn one_of_two_steps_down(url: &str, relay: &Daemon) -> [Running; 2] {
    let first = relay.start().await;
    first.reaches("outboxd_leader", 1.0).await;
    assert!(stderr(&command(url, &["step-down", "--dry-run"])).contains("warning: no standby is known"));
    let second = relay.start().await;
    wait::until_true("the standby is known", PATIENCE, async || {
        status(url)["standbys"].as_array().is_some_and(|standbys| standbys.len() == 1)
    })
    .await;
    assert_eq!(stderr(&command(url, &["step-down", "--dry-run"])), "");
    let term = status(url)["leader"]["term"].clone();
    assert!(done(url, &["step-down", "--dry-run"]).starts_with("would ask "));
    assert_eq!(status(url)["leader"]["term"], term, "a dry run changes nothing");
    let said = done(url, &["step-down", "--reason", "a new kernel"]);
    assert!(said.starts_with("asked ") && said.contains(&format!("the leader of term {term}, to step down")), "{said}");
    second.reaches("outboxd_leader", 1.0).await;
    wait::until_true("the first one is standby", PATIENCE, async || {
        first.get("/readyz").await.is_ok_and(|answer| answer.body.contains("standby"))
    })
    .await;
    assert!(audited(url)[0].1.ends_with(&format!("term {term}")), "{:?}", audited(url));
    [first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_steps_down_when_it_is_asked_to_on_sqlite() {
    let small = Small::new().await;
    small.write(50).await;
    let relays = one_of_two_steps_down(&small.url(), &small.daemon().with_long_lease()).await;
    small.write(50).await;
    wait::until_true("nothing waits", PATIENCE, async || small.unsent().await == 0).await;
    for mut relay in relays {
        assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    }
    assert_eq!(small.published().await, 100, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_steps_down_when_it_is_asked_to_on_postgresql_under_load() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let relays = one_of_two_steps_down(scene.database.url(), &scene.relay().with_long_lease()).await;
    let sent = scene.topic.count().expect("the broker answers");
    scene.topic.holds(sent + 500).await;
    let ledger = writers.stop().await;
    scene.all_settled().await;
    for mut relay in relays {
        assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    }
    scene.audit(&ledger).await.assert_exact();
}
