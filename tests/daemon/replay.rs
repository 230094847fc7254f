//! Sending rows again, over the real binary on both databases.

use std::process::Output;

use serde_json::Value;

use crate::daemon::small::{Small, TOPIC};
use crate::daemon::{ran, stderr, stdout};
use crate::support::kafka::{Topic, header};
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::wait::{self, LONG_PATIENCE, PATIENCE};
use crate::support::workload::bulk;

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

/// The latest operation.
fn latest(url: &str) -> Value {
    let line = done(url, &["operations", "ls", "--json", "--limit", "1"]);
    serde_json::from_str(&line).unwrap_or(Value::Null)
}

async fn until_done(url: &str) -> Value {
    wait::until("the operation is done", LONG_PATIENCE, async || {
        Some(latest(url)).filter(|operation| operation["state"] == "done")
    })
    .await
}

fn verified(url: &str, brokers: &str) -> Value {
    let output = command(url, &["verify", "--json", "--no-duplicates", "--brokers", brokers]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{report}");
    report
}

fn what_cannot_be_sent_again_is_refused(url: &str) {
    assert!(refused(url, &["replay"], 2).contains("--topic"));
    assert!(refused(url, &["replay", "--topic", "t", "--rate", "0"], 2).contains("--rate"));
    assert!(refused(url, &["replay", "--topic", "t", "--to-topic", "a b"], 2).contains("no topic of Kafka's"));
    assert!(refused(url, &["replay", "--topic", "nothing"], 1).contains("nothing of that was sent; the table "));
    assert!(refused(url, &["operations", "cancel", "7"], 1).contains("operation 7 does not run"));
    assert!(done(url, &["operations", "ls"]).starts_with("no operator has asked"));
    assert_eq!(done(url, &["audit-log", "--json"]), "", "nothing was changed");
}

/// Asks for a replay of a topic of which so many rows were sent, and cancels it before anybody can carry it out.
fn an_operation_is_told_and_cancelled(url: &str, (topic, key): (&str, &str), rows: &str) {
    let said = done(url, &["replay", "--topic", topic, "--dry-run"]);
    assert!(
        said.starts_with(&format!("would send {rows} rows written ")) && said.ends_with("nothing was changed\n"),
        "{said}"
    );
    assert_eq!(latest(url), Value::Null, "a dry run changes nothing");
    let said = done(url, &["replay", "--topic", topic, "--since", "1h", "--dry-run"]);
    assert!(said.starts_with("would send "), "{said}");

    let arguments =
        ["replay", "--topic", topic, "--key", key, "--to-topic", "again", "--rate", "7", "--reason", "lost"];
    let said = done(url, &arguments);
    assert!(
        said.starts_with("operation 1: the leader will send ") && said.contains("again to topic again, 7 a second"),
        "{said}"
    );
    assert!(said.contains("the table has rows since 2") && said.contains("`outboxd operations cancel 1`"), "{said}");
    let operation = latest(url);
    let told = |name: &str| operation[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (told("id"), told("state"), told("to_topic"), told("reason")),
        ("1".into(), "running".into(), "again".into(), "lost".into())
    );
    let text = done(url, &["operations", "ls"]);
    assert!(
        text.contains("running, 0 %, 0 sent") && text.contains(&format!("--topic {topic} --key … --to-topic again")),
        "{text}"
    );
    assert!(!text.contains(key) && !operation.to_string().contains(key), "keys are the application's data");
    let status: Value = serde_json::from_slice(&command(url, &["status", "--json"]).stdout).expect("JSON");
    assert_eq!(status["operation"]["id"], "1");
    assert!(stdout(&command(url, &["status"])).contains("replay    operation 1: running, 0 %, 0 sent"));

    assert!(done(url, &["operations", "cancel", "1", "--dry-run"]).starts_with("would cancel operation 1"));
    assert!(done(url, &["operations", "cancel", "1", "--yes"]).starts_with("cancelled operation 1;"));
    assert_eq!(latest(url)["state"], "cancelled");
    assert!(refused(url, &["operations", "cancel", "1"], 1).contains("operation 1 does not run"));
    let log = done(url, &["audit-log"]);
    assert!(log.contains("operations cancel") && log.contains(&format!("--topic {topic} --key …")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_sent_again_on_sqlite_and_the_audit_knows_them() {
    let small = Small::new().await;
    let url = small.url();
    what_cannot_be_sent_again_is_refused(&url);
    small.write(50).await;
    let mut relay = small.daemon().start().await;
    wait::until_true("all are sent", PATIENCE, async || small.unsent().await == 0).await;
    assert_eq!(relay.stop().await, Some(0));
    an_operation_is_told_and_cancelled(&url, (TOPIC, "order-1"), "50");

    done(&url, &["replay", "--topic", TOPIC, "--yes"]);
    let mut relay = small.daemon().start().await;
    let operation = until_done(&url).await;
    assert_eq!((&operation["sent"], &operation["share"]), (&50.into(), &1.0.into()), "{operation}");
    assert!(relay.metric("outboxd_replayed_total").await >= 50.0);
    assert_eq!((relay.stop().await, small.published().await), (Some(0), 100));
    let report = verified(&url, small.broker.bootstrap_servers());
    assert_eq!((&report["replayed"], &report["published"], &report["unexpected"]), (&50.into(), &50.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_in_the_middle_of_a_replay_costs_no_row_and_no_order_on_postgresql() {
    const ROWS: i64 = 10_000;
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let (url, topic) = (scene.database.url(), scene.topic.name());
    what_cannot_be_sent_again_is_refused(url);
    bulk(scene.database.pool(), topic, 100, 0, ROWS, 20).await;
    let mut relay = scene.relay().start().await;
    scene.all_settled().await;
    relay.stop().await;
    an_operation_is_told_and_cancelled(url, (topic, "k1"), "10,000");
    let elsewhere = Topic::create(&scene.brokers, 3).await;

    let mut relay = scene.relay().start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    done(url, &["replay", "--topic", topic, "--rate", "2000", "--until", "0s"]);
    done(url, &["replay", "--topic", topic, "--to-topic", elsewhere.name(), "--rate", "100000", "--until", "0s"]);
    wait::until_true("some are sent again", PATIENCE, async || relay.metric("outboxd_replayed_total").await >= 1_500.0)
        .await;
    relay.kill();
    let sent = scene.database.number("select sent from outbox_operation where id = 2").await;
    assert!((1_000..ROWS).contains(&sent), "{sent}: the kill came too late to prove anything");
    let _relay = scene.relay().start().await;
    let operation = until_done(url).await;
    assert_eq!((&operation["id"], operation["problem"].is_null()), (&"3".into(), true), "{operation}");
    writers.stop().await;
    scene.all_settled().await;

    let (mut again, mut last) = (std::collections::BTreeSet::new(), std::collections::BTreeMap::new());
    elsewhere
        .read(|record| {
            let number =
                |name: &str| header(record, name).and_then(|value| value.parse::<i64>().ok()).expect("a number");
            assert_eq!(number("outbox-replay"), 3);
            let id = number("outbox-id");
            assert!(again.insert(id), "row {id} twice");
            let before = last.insert(rdkafka::Message::key(record).map(<[u8]>::to_vec), id).unwrap_or_default();
            assert!(before < id, "row {id} follows {before} of its key");
        })
        .await;
    assert!(again.len() as i64 >= ROWS, "{}", again.len());
    let output = command(url, &["verify", "--json", "--brokers", &scene.brokers]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["replayed"].as_i64().is_some_and(|replayed| replayed >= ROWS), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_row_does_not_pass_for_a_replay() {
    let small = Small::new().await;
    small
        .run(&format!(
            "insert into outbox (event_id, topic, key, payload, headers, created_at) values
             ('018f0000-0000-7000-8000-000000000001', '{TOPIC}', 'k', 'x', '{{\"outbox-replay\": \"7\"}}', '2026-01-31T12:00:00Z')"
        ))
        .await;
    let relay = small.daemon().start().await;
    wait::until_true("it is sent", PATIENCE, async || small.unsent().await == 0).await;
    assert!(relay.metric("outboxd_reserved_headers_dropped_total").await >= 1.0);
    let report = verified(&small.url(), small.broker.bootstrap_servers());
    assert_eq!((&report["replayed"], &report["published"]), (&0.into(), &1.into()), "{report}");
}
