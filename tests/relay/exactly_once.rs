//! Exactly once, on PostgreSQL and Apache Kafka: consumers that read what is committed see every record once.

use std::process::Command;

use rand::Rng;

use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::{machine, wait};

/// What `outboxd verify` says of a topic, for consumers that read what is committed.
fn verify(scene: &Scene, settle: &str, topic: &Topic) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["verify", "--json", "--no-duplicates", "--topic", topic.name(), "--brokers", &scene.brokers]);
    command.args(["--database-url", scene.database.url()]).env("OUTBOXD_OUTBOX__SETTLE", settle);
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said} {:?}", output.stderr))
}

/// Waits until a topic shows so many different rows, and asserts that it shows each once.
async fn holds_each_once(scene: &Scene, settle: &str, topic: &Topic, rows: u64) {
    let what = format!("{rows} rows are published");
    wait::until_true(&what, wait::LONG_PATIENCE, async || verify(scene, settle, topic)["published"] == rows).await;
    let report = verify(scene, settle, topic);
    assert_eq!(report["kept"], true, "{report}");
    assert_eq!(report["records"], rows, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_kills_under_load_every_committed_record_is_seen_once() {
    for settle in ["mark", "delete", "checkpoint"] {
        let _machine = machine::loaded().await;
        let scene = Scene::set().await;
        let relay = scene.relay().with("relay.delivery", "exactly-once").with("outbox.settle", settle);
        let mut moments = scene.seed.generator(7);
        let writers = scene.steady_writers().start(&scene.seed).await;
        for _ in 0..4 {
            let mut running = relay.start().await;
            let published = scene.topic.count().expect("the broker answers");
            scene.topic.holds(published + moments.random_range(1..1_500)).await;
            running.kill();
        }
        let mut last = relay.start().await;
        let ledger = writers.stop().await;
        holds_each_once(&scene, settle, &scene.topic, ledger.rows_of(scene.topic.name())).await;
        assert_eq!(last.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_records_and_a_missing_topic_neither_double_nor_lose_anything() {
    const ROWS: i64 = 10_000;
    for settle in ["mark", "checkpoint"] {
        let _machine = machine::loaded().await;
        let scene = Scene::set().await;
        let topic = Topic::create_with(&scene.brokers, 3, "max.message.bytes", "4096").await;
        let missing = Topic::missing(&scene.brokers, 3);
        let relay = scene.relay().with("relay.delivery", "exactly-once").with("outbox.settle", settle);
        // One key in a hundred is too large, and one row in ten is for a topic that is missing.
        let insert = "insert into outbox (topic, key, payload) \
            select case when i % 10 = 3 then $2 else $1 end, 'k' || i % 1000, \
                convert_to(repeat('x', case when i % 1000 % 100 = 0 then 5000 else 100 end), 'UTF8') \
            from generate_series(1, $3) i order by i";
        for _ in 0..3 {
            let inserted = sqlx::query(insert).bind(topic.name()).bind(missing.name()).bind(ROWS);
            inserted.execute(scene.database.pool()).await.expect("rows are inserted");
            let mut running = relay.start().await;
            let published = topic.count().expect("the broker answers");
            topic.holds(published + 1_000).await;
            running.kill();
        }
        let mut last = relay.start().await;
        missing.appear().await;
        let dead = 3 * ROWS as u64 / 100;
        let waiting = 3 * ROWS as u64 / 10;
        holds_each_once(&scene, settle, &missing, waiting).await;
        holds_each_once(&scene, settle, &topic, 3 * ROWS as u64 - waiting - dead).await;
        assert_eq!(scene.database.number("select count(*) from outbox_dead").await as u64, dead);
        assert_eq!(last.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_does_not_wait_for_the_lease_of_a_dead_leader_and_what_that_sent_is_seen_once() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let relay = scene.relay().with("relay.delivery", "exactly-once").with_long_lease();
    let mut leader = relay.start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let mut took = Vec::new();
    for _ in 0..3 {
        let standby = relay.start().await;
        scene.topic.holds(scene.topic.count().expect("the broker answers") + 1_000).await;
        let killed = tokio::time::Instant::now();
        leader.kill();
        wait::until_true("the standby publishes", wait::PATIENCE, async || {
            standby.metric("outboxd_published_total").await > 0.0
        })
        .await;
        took.push(killed.elapsed());
        leader = standby;
    }
    let ledger = writers.stop().await;
    holds_each_once(&scene, "mark", &scene.topic, ledger.rows_of(scene.topic.name())).await;
    println!("taken over in {took:?}");
    assert!(took.iter().all(|took| *took < wait::SLACK), "{took:?}");
}
