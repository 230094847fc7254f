//! `outboxd doctor` and the checks of a relay at work, over everything that they are to find.

use std::path::Path;
use std::process::Output;
use std::str::FromStr;

use outboxd::outbox::Table;
use outboxd::postgres::grants_sql;
use outboxd::{Message, sqlite};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::daemon::small::{Small, TOPIC};
use crate::daemon::{ran, stderr, stdout};
use crate::support::children;
use crate::support::daemon::Running;
use crate::support::database::Database;
use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::wait::{self, PATIENCE};
use crate::support::{machine, services};

/// What the doctor says of an outbox.
fn doctor(url: &str, brokers: &str, more: &[&str]) -> Output {
    ran(&[&["doctor", "--database-url", url, "--brokers", brokers], more].concat())
}

fn small_doctor(small: &Small, more: &[&str]) -> Output {
    doctor(&small.url(), small.broker.bootstrap_servers(), more)
}

/// How a check came out, and the rest of its line; panics where there is none.
pub(super) fn check(output: &Output, name: &str) -> (String, String) {
    let said = stdout(output);
    let lines = said.lines().filter_map(|line| {
        let (status, rest) = line.split_once(' ')?;
        let (found, told) = rest.trim_start().split_once(' ')?;
        (found == name).then(|| (status.to_owned(), told.trim().to_owned()))
    });
    let found: Vec<_> = lines.collect();
    assert_eq!(found.len(), 1, "one line for {name}: {said}{}", stderr(output));
    found.into_iter().next().expect("one")
}

fn status(output: &Output, name: &str) -> String {
    check(output, name).0
}

/// What is told of a check in a relay's `/status`.
pub(super) async fn check_of(relay: &Running, name: &str) -> Value {
    let answer = relay.get("/status").await.expect("the page is served");
    let status: Value = serde_json::from_str(&answer.body).expect("JSON");
    let checks = status["checks"].as_array().cloned().unwrap_or_default();
    checks.into_iter().find(|check| check["check"] == name).unwrap_or_default()
}

/// Waits until a relay says so of a check, in its status and in its metrics.
pub(super) async fn comes_out(relay: &Running, name: &str, status: &str) {
    wait::until_true(&format!("{name} is {status}"), PATIENCE, async || {
        let metrics = relay.get("/metrics").await.map(|answer| answer.body).unwrap_or_default();
        let series = |status: &str| format!(",check=\"{name}\",status=\"{status}\"}} ");
        let others = ["ok", "warning", "failed", "unknown"].into_iter().filter(|other| *other != status);
        check_of(relay, name).await["status"] == status
            && metrics.contains(&(series(status) + "1\n"))
            && others.map(series).all(|other| metrics.contains(&(other + "0\n")))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well_before_a_relay_runs_and_beside_one() {
    let small = Small::new().await;
    let before = small_doctor(&small, &[]);
    assert_eq!(before.status.code(), Some(0), "{}", stdout(&before));
    assert_eq!(status(&before, "lease"), "warning");
    assert_eq!(check(&before, "brokers"), ("ok".to_owned(), "1 broker answers".to_owned()));

    let relay = small.daemon().start().await;
    small.write(3).await;
    relay.reaches("outboxd_published_total", 3.0).await;
    let beside = small_doctor(&small, &[]);
    assert_eq!(beside.status.code(), Some(0), "{}", stdout(&beside));
    for name in ["database", "schema", "rights", "setup", "lease", "reader", "brokers", "topics", "retention"] {
        assert_eq!(status(&beside, name), "ok", "{name}: {}", stdout(&beside));
    }
    assert_eq!(status(&beside, "producer"), "unknown");
    assert!(!stdout(&beside).contains("vacuum"), "SQLite has none, which is never shown as well");
    for name in ["database", "schema", "rights", "lease", "reader", "brokers", "topics", "producer", "retention"] {
        comes_out(&relay, name, "ok").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_has_the_same_checks_the_worst_first() {
    let small = Small::without_tables();
    let output = small_doctor(&small, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["failed"], &told["checks"][0]["check"]), (&true.into(), &"database".into()));
    assert_eq!(told["checks"][0]["command"], "run `outboxd migrate`, or check `database.url`");
    let statuses: Vec<&str> =
        told["checks"].as_array().expect("a list").iter().filter_map(|c| c["status"].as_str()).collect();
    let rank = |status: &&str| ["failed", "warning", "unknown", "ok"].iter().position(|word| word == status);
    assert!(statuses.is_sorted_by_key(rank), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_missing_are_told_with_the_command_that_makes_them_and_nothing_else_is_guessed() {
    let _machine = machine::shared().await;
    let small = Small::without_tables();
    let create = sqlx::sqlite::SqliteConnectOptions::from_str(&small.url()).expect("a URL").create_if_missing(true);
    let mut connection = create.connect().await.expect("the file is made");
    sqlx::raw_sql("create table other (id integer)").execute(&mut connection).await.expect("made");
    let database = Database::empty(&services::postgres()).await;
    for (url, brokers) in
        [(small.url(), small.broker.bootstrap_servers().to_owned()), (database.url().to_owned(), services::kafka())]
    {
        for more in [&[][..], &["--quick"]] {
            let output = doctor(&url, &brokers, more);
            assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
            let (status_of_schema, told) = check(&output, "schema");
            assert!(status_of_schema == "failed" && told.contains("outboxd migrate"), "{told}");
            assert_eq!([status(&output, "database"), status(&output, "brokers")], ["ok", "ok"]);
            assert_eq!(status(&output, "rights"), "unknown", "{}", stdout(&output));
            assert_eq!(stdout(&output).contains("lease"), more.is_empty());
        }
        assert_eq!(status(&doctor(&url, &brokers, &[]), "lease"), "unknown");
    }
}

/// A role with the least rights on a scene, and the URL by which it connects.
pub(super) async fn least_role(scene: &Scene) -> (String, String) {
    let role = format!("{}_doctor", scene.database.name());
    let create = format!("create role {role} login password 'secret'");
    scene.database.run(&create).await;
    scene.database.run(&grants_sql(&Table::default(), &role, &role).expect("a role's name")).await;
    let url = scene.database.url().replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);
    // The application's rights, which are granted to the same role, are more than the relay needs.
    scene
        .database
        .run(&format!("revoke insert (event_id, topic, key, payload, headers, partition) on outbox from {role}"))
        .await;
    (role, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_told_with_its_grant_and_one_too_many_is_a_warning() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let (role, url) = least_role(&scene).await;
    let least = doctor(&url, &scene.brokers, &[]);
    assert_eq!(status(&least, "rights"), "ok", "{}", stdout(&least));
    assert_eq!(least.status.code(), Some(0));

    scene.database.run(&format!("grant insert, truncate on outbox to {role}; alter role {role} createrole")).await;
    let (warning, told) = check(&doctor(&url, &scene.brokers, &["--quick"]), "rights");
    assert!(warning == "warning" && told.contains("createrole") && told.contains("insert, truncate on"), "{told}");
    let (warning, told) = check(&doctor(scene.database.url(), &scene.brokers, &["--quick"]), "rights");
    assert!(warning == "warning" && told.contains("superuser"), "{told}");

    scene.database.run(&format!("revoke delete on outbox from {role}")).await;
    for more in [&[][..], &["--quick"]] {
        let output = doctor(&url, &scene.brokers, more);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let (failed, told) = check(&output, "rights");
        assert!(failed == "failed" && told.contains("lacks delete") && told.contains("grant delete on"), "{told}");
    }
    scene.database.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_the_oldest_snapshot_is_named_and_what_it_runs_only_by_the_doctor() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let options = PgConnectOptions::from_str(scene.database.url()).expect("a URL").application_name("nightly-report");
    let mut report = PgConnection::connect_with(&options).await.expect("it connects");
    sqlx::raw_sql("begin isolation level repeatable read; select 'a-secret-of-ours'")
        .execute(&mut report)
        .await
        .expect("it reads");
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid() /* a-secret-of-ours */")
        .fetch_one(&mut report)
        .await
        .expect("a number");
    let (ok, told) = check(&doctor(scene.database.url(), &scene.brokers, &[]), "old_snapshot");
    assert_eq!(ok, "ok", "it is not old: {told}");
    assert!(told.starts_with(&format!("pid {pid} (nightly-report, user outboxd, idle in transaction) ")), "{told}");
    assert!(told.contains("a-secret-of-ours"), "{told}");

    let relay = scene.relay().start().await;
    let named = "nightly-report, user outboxd, idle in transaction";
    wait::until_true("the relay names it", PATIENCE, async || {
        check_of(&relay, "old_snapshot").await["evidence"].as_str().is_some_and(|told| told.contains(named))
    })
    .await;
    let status = relay.get("/status").await.expect("served").body;
    assert!(!status.contains("a-secret-of-ours") && !relay.log().contains("a-secret-of-ours"), "{status}");
    for name in ["old_snapshot", "vacuum", "clock", "retention"] {
        comes_out(&relay, name, "ok").await;
    }
    report.close().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_told_with_what_the_client_says() {
    let small = Small::new().await;
    let relay = small.daemon().start().await;
    small.write(1).await;
    comes_out(&relay, "brokers", "ok").await;
    children::take_down(&small.broker).expect("the broker obeys");
    small.write(1).await;
    comes_out(&relay, "brokers", "failed").await;
    let output = small_doctor(&small, &["--quick"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert_eq!([status(&output, "database"), status(&output, "schema")], ["ok", "ok"]);
    let (failed, told) = check(&output, "brokers");
    assert!(failed == "failed" && told.contains(small.broker.bootstrap_servers()), "the broker is named: {told}");
    small.broker.up().expect("the broker obeys");
    comes_out(&relay, "brokers", "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_fails_and_leaves_the_rest_unknown() {
    let small = Small::new().await;
    let output = doctor("postgres://nobody@127.0.0.1:1/nothing", small.broker.bootstrap_servers(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!([status(&output, "database"), status(&output, "brokers")], ["failed", "ok"]);
    for name in ["schema", "rights", "setup", "lease", "reader", "held_lanes", "dead_letters"] {
        assert_eq!(status(&output, name), "unknown", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_named_before_a_relay_runs_and_while_one_holds_it() {
    let _machine = machine::shared().await;
    let small = Small::new().await;
    let message = Message::to("oders").key("order-1").text("{}").expect("valid");
    sqlite::enqueue(&mut small.connection().await, &message).await.expect("a message is written");
    let output = small_doctor(&small, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let expected = "oders: missing_topic; their messages wait, and come out in order by themselves \
                    -> kafka-topics.sh --create --topic oders, or correct the rows";
    assert_eq!(check(&output, "topics"), ("failed".to_owned(), expected.to_owned()));
    let relay = small.daemon().start().await;
    comes_out(&relay, "topics", "failed").await;
    comes_out(&relay, "held_lanes", "ok").await;
    assert_eq!(check(&small_doctor(&small, &[]), "topics"), ("failed".to_owned(), expected.to_owned()));
    small.broker.create_topic("oders", 1).expect("the topic can be created");
    comes_out(&relay, "topics", "ok").await;

    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 1);
    let insert = format!("insert into outbox (topic, key) values ('{}', 'k')", missing.name());
    scene.database.run(&insert).await;
    let (failed, told) = check(&doctor(scene.database.url(), &scene.brokers, &[]), "topics");
    assert!(failed == "failed" && told.contains(&format!("{}: missing_topic", missing.name())), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_lanes_that_wait_for_an_operator_are_warnings() {
    let small = Small::new().await;
    let relay = small.daemon().with("relay.record.bytes", "4096").start().await;
    let large = Message::to(TOPIC).key("order-1").text("x".repeat(5_000)).expect("valid");
    sqlite::enqueue(&mut small.connection().await, &large).await.expect("a message is written");
    comes_out(&relay, "dead_letters", "warning").await;
    let output = small_doctor(&small, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let (warning, told) = check(&output, "dead_letters");
    assert!(warning == "warning" && told.starts_with("1; ") && told.contains("from outbox_dead"), "{told}");
    drop(relay);

    let relay = small.daemon().with("relay.record.bytes", "4096").with("relay.on_reject", "block-key");
    let relay = relay.start().await;
    sqlite::enqueue(&mut small.connection().await, &large).await.expect("a message is written");
    comes_out(&relay, "held_lanes", "warning").await;
    let stored = async || status(&small_doctor(&small, &[]), "held_lanes") == "warning";
    wait::until_true("the lane is stored", PATIENCE, stored).await;
    let (_, told) = check(&small_doctor(&small, &[]), "held_lanes");
    assert!(told.starts_with("1 rejected; ") && told.ends_with("-> outboxd held ls"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_kept_beyond_their_retention_are_told() {
    let _machine = machine::shared().await;
    let small = Small::new().await;
    small.write(3).await;
    let mut relay = small.daemon().start().await;
    relay.reaches("outboxd_published_total", 3.0).await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(status(&small_doctor(&small, &[]), "retention"), "ok");
    small.run("update outbox set sent_at = '2020-01-01T00:00:00.000Z' where id = 2").await;
    assert_eq!(status(&small_doctor(&small, &[]), "retention"), "warning");

    let scene = Scene::set().await;
    for _ in 0..3 {
        scene.insert("k", "v").await;
    }
    scene.database.run("update outbox set sent_at = now() - interval '9 days' where id = 2").await;
    let (warning, told) = check(&doctor(scene.database.url(), &scene.brokers, &[]), "retention");
    assert!(warning == "warning" && told.starts_with("a published row is there 2days "), "{told}");
    scene.database.run("update outbox set sent_at = now() - interval '6 days' where id = 2").await;
    assert_eq!(status(&doctor(scene.database.url(), &scene.brokers, &[]), "retention"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_fails_and_its_end_is_a_metric() {
    let small = Small::new().await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/certificate/ended.pem");
    let property = format!("ssl.ca.location={}", file.display());
    let output = small_doctor(&small, &["-X", &property]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    let (failed, told) = check(&output, "certificates");
    assert!(failed == "failed" && told.starts_with("kafka.ssl.ca.location ended on 2025-02-03"), "{told}");
    let relay = small.daemon().argument("-X").argument(&property).start().await;
    comes_out(&relay, "certificates", "failed").await;
    assert_eq!(relay.metric("outboxd_certificate_not_after_timestamp_seconds").await, 1_738_555_506.0);
}

#[test]
fn a_configuration_that_cannot_be_used_exits_2() {
    let output = ran(&["doctor", "--quick", "--database-url", "sqlite:a.db"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("kafka.bootstrap.servers"), "{}", stderr(&output));
}
