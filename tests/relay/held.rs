//! A topic that is missing waits; it holds up neither the others nor the memory of what was sent.

use crate::support::kafka::{Topic, text};
use crate::support::ledger::Ledger;
use crate::support::scene::{self, Scene};
use crate::support::workload::bulk;
use crate::support::{machine, wait};

/// The most records that may be between reading and settling; a kill repeats at most these.
const IN_FLIGHT: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_costs_no_duplicates_and_comes_out_in_order_when_it_appears() {
    const ROWS: i64 = 200_000;
    const CHUNKS: i64 = 10;
    const MISSING_ROWS: i64 = 5_000;
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 3);
    let mut ledger = Ledger::default();
    ledger.committed_evenly(scene.topic.name(), 1_000, ROWS);
    ledger.committed_evenly(missing.name(), 50, MISSING_ROWS);
    for chunk in 0..CHUNKS {
        let (rows, held) = (ROWS / CHUNKS, MISSING_ROWS / CHUNKS);
        bulk(scene.database.pool(), missing.name(), 50, chunk * held, held, 20).await;
        bulk(scene.database.pool(), scene.topic.name(), 1_000, chunk * rows, rows, 100).await;
    }

    let relay = scene.relay().with("relay.in_flight.records", &IN_FLIGHT.to_string());
    let mut first = relay.start().await;
    scene.topic.holds(ROWS as u64 / 2).await;
    first.kill();
    let published = scene.topic.count().expect("the broker answers");
    assert!(published < ROWS as u64, "the kill came too late to prove anything");
    let second = relay.start().await;
    let unsent = format!("select count(*) from outbox where sent_at is null and topic <> '{}'", missing.name());
    wait::until_true("all rows of the topic that exists are settled", wait::LONG_PATIENCE, async || {
        scene.database.number(&unsent).await == 0
    })
    .await;
    let verdict = scene.audit(&ledger).await;
    verdict.assert_complete_and_ordered();
    println!("{} duplicates after the kill, {IN_FLIGHT} in flight at most", verdict.duplicates);
    assert!(verdict.duplicates < IN_FLIGHT, "{} duplicates, {IN_FLIGHT} in flight at most", verdict.duplicates);

    assert!(second.metric("outboxd_held_lanes").await >= 1.0, "the held topic shows in the metrics");
    assert!(!missing.exists(), "the broker's auto-creation was triggered");
    missing.appear().await;
    missing.holds(MISSING_ROWS as u64).await;
    scene.all_settled().await;
    scene::audit(&missing, &ledger).await.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_while_their_topic_appears_follow_those_that_waited() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 6);
    let relay = scene.relay().with_long_lease().start().await;
    let mut workload = scene.steady_writers();
    workload.topics.push(missing.name().to_owned());
    let writers = workload.start(&scene.seed).await;
    relay.reaches("outboxd_held_lanes", 1.0).await;
    scene.topic.holds(1_500).await;

    missing.appear().await;
    missing.holds(1_500).await;
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_exact();
    scene::audit(&missing, &ledger).await.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_topic_is_remembered_across_a_restart() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 1);
    let insert = "insert into outbox (topic, key, payload) values ($1, 'k', convert_to($2, 'UTF8'))";
    let mut relay = scene.relay().start().await;
    for (row, restart) in [("one", true), ("two", true), ("three", false)] {
        let inserted = sqlx::query(insert).bind(missing.name()).bind(row).execute(scene.database.pool()).await;
        inserted.expect("a row is inserted");
        relay.reaches("outboxd_held_lanes", 1.0).await;
        if restart {
            assert_eq!(relay.stop().await, Some(0));
            relay = scene.relay().start().await;
        }
    }
    missing.appear().await;
    let mut tail = missing.follow();
    let seen = tail.until("the held rows come out", wait::PATIENCE, |seen| seen.len() >= 3).await;
    assert_eq!(seen.iter().map(text).collect::<Vec<_>>(), ["one", "two", "three"]);
}
