//! `outboxd verify`: a sound system passes, and every kind of damage is found and named.

mod explaining;
mod requeued;
mod settings;
mod sqlite;
mod transactions;

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use uuid::Uuid;

use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::workload::bulk;
use crate::support::{machine, wait};

/// What an audit said.
struct Verdict {
    code: Option<i32>,
    report: Value,
    peak_kib: u64,
}

impl Verdict {
    fn count(&self, name: &str) -> u64 {
        self.report[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.report))
    }

    /// All kinds of damage, in one order.
    fn damage(&self) -> [u64; 5] {
        ["lost", "reordered", "unexpected", "duplicates", "stale_last"].map(|name| self.count(name))
    }
}

/// Runs `outboxd verify --json` on the scene.
fn verify(scene: &Scene, settle: &str, arguments: &[&str]) -> Verdict {
    verify_between(scene.database.url(), &scene.brokers, settle, arguments)
}

/// Runs `outboxd verify --json` between a database and brokers.
fn verify_between(database: &str, brokers: &str, settle: &str, arguments: &[&str]) -> Verdict {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["verify", "--json", "--database-url", database, "--brokers", brokers]);
    command.args(arguments).env("OUTBOXD_OUTBOX__SETTLE", settle).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let code = loop {
        if let Some(ended) = child.try_wait().expect("a child can be waited for") {
            break ended.code();
        }
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_default();
        peak_kib = peak_kib.max(kib);
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
    let report = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}, exit {code:?}"));
    Verdict { code, report, peak_kib }
}

/// What the header `outbox-source` says by default.
async fn source(scene: &Scene) -> String {
    let name: String =
        sqlx::query_scalar("select current_database()").fetch_one(scene.database.pool()).await.expect("a name");
    format!("{name}.public.outbox")
}

/// Rows that are recorded as published and that no relay has published: their ids and event ids.
async fn sent_rows(scene: &Scene, key: &str, rows: i32) -> Vec<(i64, Uuid)> {
    let insert = "insert into outbox (topic, key, payload, sent_at) \
        select $1, $2, 'x', now() from generate_series(1, $3) returning id, event_id";
    let inserted = sqlx::query_as(insert).bind(scene.topic.name()).bind(key).bind(rows);
    inserted.fetch_all(scene.database.pool()).await.expect("rows are inserted")
}

/// Publishes records by hand, in this order, to one partition.
fn publish(scene: &Scene, source: &str, key: &str, rows: &[(i64, Uuid)]) {
    publish_to(&scene.topic, &scene.brokers, source, key, rows);
}

/// As [`publish`], to another topic.
fn publish_to(topic: &Topic, brokers: &str, source: &str, key: &str, rows: &[(i64, Uuid)]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer can be set up");
    send(&producer, topic.name(), source, key, rows);
    producer.flush(wait::PATIENCE).expect("the broker takes them");
}

/// A producer that is initialised for transactions.
fn transactional(scene: &Scene) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &scene.brokers).set("transactional.id", scene.topic.name());
    let producer: BaseProducer = config.create().expect("a producer can be set up");
    producer.init_transactions(wait::PATIENCE).expect("initialised");
    producer
}

fn send(producer: &BaseProducer, topic: &str, source: &str, key: &str, rows: &[(i64, Uuid)]) {
    for (id, event_id) in rows {
        let headers =
            [("id", event_id.to_string()), ("outbox-id", id.to_string()), ("outbox-source", source.to_owned())];
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
        let record = BaseRecord::to(topic).key(key).payload("x").partition(0).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("the client takes it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_system_passes_in_every_settle_mode_and_under_load() {
    for settle in ["mark", "delete", "checkpoint"] {
        let _machine = machine::shared().await;
        let scene = Scene::set().await;
        let mut relay = scene.relay().with("outbox.settle", settle).start().await;
        let writers = scene.steady_writers().start(&scene.seed).await;
        for round in 1..=3 {
            scene.topic.holds(round * 1_000).await;
            let verdict = verify(&scene, settle, &["--topic", scene.topic.name()]);
            assert_eq!((verdict.code, verdict.damage()), (Some(0), [0; 5]), "{settle}: {}", verdict.report);
            assert!(verdict.count("records") >= 1_000, "{settle}: {}", verdict.report);
        }
        let ledger = writers.stop().await;
        let rows = ledger.rows_of(scene.topic.name());
        scene.topic.holds(rows).await;
        assert_eq!(relay.stop().await, Some(0));
        let verdict = verify(&scene, settle, &["--topic", scene.topic.name(), "--no-duplicates"]);
        assert_eq!((verdict.code, verdict.damage()), (Some(0), [0; 5]), "{settle}: {}", verdict.report);
        assert_eq!(verdict.count("published"), rows, "{settle}");
        if settle != "delete" {
            assert_eq!((verdict.count("rows"), verdict.count("not_published_yet")), (rows, 0), "{settle}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_recorded_as_published_that_kafka_does_not_hold_is_lost() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 3).await;
    publish(&scene, &source(&scene).await, "k", &[rows[0], rows[2]]);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [1, 0, 0, 0, 0]), "{}", verdict.report);
    assert_eq!(verdict.report["examples"]["lost"][0]["id"], rows[1].0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_follows_a_later_one_of_its_lane_is_disorder() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let (a, b) = (sent_rows(&scene, "a", 3).await, sent_rows(&scene, "b", 2).await);
    let source = source(&scene).await;
    publish(&scene, &source, "a", &[a[0], a[2], a[1]]);
    publish(&scene, &source, "b", &b);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [0, 1, 0, 0, 1]), "{}", verdict.report);
    assert_eq!(verdict.report["examples"]["reordered"][0]["id"], a[1].0);
    // The header alone tells as much where rows are gone.
    let verdict = verify(&scene, "delete", &["--topic", scene.topic.name()]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [0, 1, 0, 0, 1]), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_stale_ends_break_the_promise_of_exactly_once_only() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 3).await;
    publish(&scene, &source(&scene).await, "k", &[rows[0], rows[1], rows[2], rows[1]]);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(0), [0, 0, 0, 1, 1]), "{}", verdict.report);
    assert_eq!(verify(&scene, "mark", &["--no-duplicates"]).code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_committed_row_explains_is_unexpected() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 1).await;
    let source = source(&scene).await;
    let rolled_back = (rows[0].0 + 7, Uuid::new_v4());
    publish(&scene, &source, "k", &[rows[0], rolled_back]);
    publish(&scene, "another.outbox", "k", &[rolled_back]);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [0, 0, 1, 0, 0]), "{}", verdict.report);
    assert_eq!(
        (verdict.count("foreign"), &verdict.report["examples"]["unexpected"][0]["id"]),
        (1, &rolled_back.0.into())
    );

    // Another event under the id of a committed row is as unexpected.
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 1).await;
    publish(&scene, &self::source(&scene).await, "k", &[(rows[0].0, Uuid::new_v4())]);
    assert_eq!(verify(&scene, "mark", &[]).count("unexpected"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn since_leaves_older_damage_out() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    sent_rows(&scene, "lost", 1).await;
    let now: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(scene.database.pool()).await.expect("a time");
    let fine = sent_rows(&scene, "k", 1).await;
    publish(&scene, &source(&scene).await, "k", &fine);
    assert_eq!(verify(&scene, "mark", &["--since", "1h"]).count("lost"), 1);
    let verdict = verify(&scene, "mark", &["--since", &now.to_rfc3339()]);
    assert_eq!((verdict.code, verdict.count("rows")), (Some(0), 1), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_are_audited_in_bounded_memory() {
    const ROWS: i64 = 1_000_000;
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let topic = Topic::create(&scene.brokers, 2).await;
    bulk(scene.database.pool(), topic.name(), 500_000, 0, ROWS, 20).await;
    let mut relay = scene.relay().with_long_lease().start().await;
    topic.holds(ROWS as u64).await;
    scene.all_settled().await;
    assert_eq!(relay.stop().await, Some(0));
    let began = tokio::time::Instant::now();
    let verdict = verify(&scene, "mark", &["--no-duplicates"]);
    println!("{ROWS} records of 500,000 lanes audited in {:?}, peak {} KiB", began.elapsed(), verdict.peak_kib);
    assert_eq!((verdict.code, verdict.count("published")), (Some(0), ROWS as u64), "{}", verdict.report);
    assert!(verdict.peak_kib < 200 * 1024, "{} KiB", verdict.peak_kib);
}
