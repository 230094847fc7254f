//! `outboxd bench`: measuring on the user's own services, and leaving nothing behind.

use std::io::{BufRead, BufReader};
use std::process::Output;

use serde_json::Value;

use crate::daemon::{outboxd, ran, stderr, stdout};
use crate::support::database::{Database, migrate};
use crate::support::kafka::Topic;
use crate::support::{machine, services};

const SMALL: [&str; 8] = ["--rows", "3000", "--rate", "200", "--seconds", "5", "--partitions", "3"];

fn bench(url: &str, arguments: &[&str]) -> Output {
    let brokers = services::kafka();
    ran(&[&["bench", "--database-url", url, "--brokers", &brokers][..], &SMALL, arguments].concat())
}

/// What was measured. Whether the rate is held is the machine's affair; that the exit code tells it is ours.
fn report(output: &Output) -> Value {
    let report: Value = serde_json::from_str(&stdout(output)).unwrap_or_else(|error| {
        panic!("not one JSON object: {error}: {}{}", stdout(output), stderr(output));
    });
    let holds = report["holds"].as_bool().expect("it says whether the rate is held");
    assert_eq!(output.status.code(), Some(if holds { 0 } else { 1 }), "{report}{}", stderr(output));
    for rate in ["write", "read", "publish", "drain"] {
        assert!(report[rate].as_f64().is_some_and(|rate| rate > 0.0), "{rate}: {report}");
    }
    let latency = |quantile: &str| report["latency_ms"][quantile].as_f64().expect("a number");
    assert!(0.0 < latency("p50") && latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{report}");
    assert!(report["try"].as_array().is_some_and(|words| !words.is_empty()), "{report}");
    report
}

/// Nothing is there any more of what the command said that it made.
async fn nothing_is_left(database: &Database, said: &str) {
    let made = said.lines().find_map(|line| line.strip_prefix("made outbox ")).expect("it says what it made");
    let (schema, topic) = made.split_once(" and topic ").expect("an outbox and a topic");
    let topic = topic.split(';').next().expect("the topic's name");
    let schemas = format!("select count(*) from pg_namespace where nspname = '{schema}'");
    assert_eq!(database.number(&schemas).await, 0, "{schema}");
    for name in [topic.to_owned(), format!("{topic}-progress")] {
        assert!(!Topic::missing_named(&services::kafka(), name.clone(), 1).exists(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_measured_on_an_outbox_and_a_topic_of_its_own_and_nothing_is_left() {
    let _machine = machine::shared().await;
    // There need not even be an outbox.
    let database = Database::empty(&services::postgres()).await;
    let output = bench(database.url(), &["--json"]);
    let report = report(&output);
    assert!(report["settle_alone"].as_f64().is_some_and(|rate| rate > 0.0), "{report}");
    nothing_is_left(&database, &stderr(&output)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_measures_with_the_settings_that_the_relay_would_have() {
    let _machine = machine::shared().await;
    let database = Database::empty(&services::postgres()).await;
    let brokers = services::kafka();
    for (settle, delivery) in [("checkpoint", "exactly-once"), ("delete", "fenced")] {
        let mut command = outboxd(&["bench", "--database-url", database.url(), "--brokers", &brokers, "--json"]);
        command.args(SMALL).env("OUTBOXD_OUTBOX__SETTLE", settle).env("OUTBOXD_RELAY__DELIVERY", delivery);
        let output = command.output().expect("the binary starts");
        let report = report(&output);
        assert_eq!((&report["settle"], &report["delivery"]), (&settle.into(), &delivery.into()));
        assert_eq!(report["settle_alone"].is_null(), settle == "checkpoint", "{report}");
        nothing_is_left(&database, &stderr(&output)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_not_reached_exits_1_and_says_so() {
    let _machine = machine::shared().await;
    let database = Database::empty(&services::postgres()).await;
    let brokers = services::kafka();
    let too_much = ["--rows", "1000", "--rate", "1000000", "--seconds", "1"];
    let output = ran(&[&["bench", "--database-url", database.url(), "--brokers", &brokers][..], &too_much].concat());
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("It is not known whether it holds 1000000 rows a second"), "{}", stdout(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_that_is_interrupted_leaves_nothing() {
    let _machine = machine::shared().await;
    let database = Database::empty(&services::postgres()).await;
    let brokers = services::kafka();
    let mut command = outboxd(&["bench", "--database-url", database.url(), "--brokers", &brokers]);
    let mut child = command.args(["--rows", "100000"]).spawn().expect("the binary starts");
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    for line in lines.by_ref() {
        said += &format!("{line}\n");
        if line.starts_with("writing alone") {
            break;
        }
    }
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill starts").success());
    said.extend(lines.map(|line| format!("{line}\n")));
    assert_eq!(child.wait().expect("it ends").code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    nothing_is_left(&database, &said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_sqlite_is_left_alone() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("app.db");
    let url = format!("sqlite:{}", file.display());
    migrate(&url);
    let before = std::fs::read(&file).expect("the database");
    report(&bench(&url, &["--json"]));
    assert!(std::fs::read(&file).expect("the database") == before);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    let names: Vec<String> = left.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().all(|name| name.starts_with("app.db") && !name.contains("outboxd_bench")), "{names:?}");
}

#[test]
fn brokers_that_do_not_answer_are_named_and_nothing_is_made() {
    let output = ran(&["bench", "--database-url", "postgres://nobody@127.0.0.1:1/x", "--brokers", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the topic that is needed cannot be made"), "{}", stderr(&output));
}
