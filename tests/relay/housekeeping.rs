//! Sent rows go after the retention; unsent ones stay, however old.

use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::throwaway::Postgres;
use crate::support::workload::bulk;
use crate::support::{machine, wait};

#[tokio::test(flavor = "multi_thread")]
async fn sent_rows_go_after_the_retention_and_unsent_ones_stay_when_marking() {
    old_rows_go("mark").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_rows_go_after_the_retention_and_unsent_ones_stay_when_checkpointing() {
    old_rows_go("checkpoint").await;
}

async fn old_rows_go(settle: &str) {
    const ROWS: i64 = 30_000;
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 1);
    // Held rows below, between and above the ones that are sent.
    for from in [0, ROWS / 2] {
        bulk(scene.database.pool(), missing.name(), 1, from / ROWS, 1, 10).await;
        bulk(scene.database.pool(), scene.topic.name(), 100, from, ROWS / 2, 10).await;
    }
    bulk(scene.database.pool(), missing.name(), 1, 2, 1, 10).await;
    let relay = scene.relay().with("outbox.settle", settle).with("outbox.retention", "1s");
    let _relay = relay.start().await;
    let sent = format!("select count(*) from outbox where topic = '{}'", scene.topic.name());
    scene.topic.holds(ROWS as u64).await;
    wait::until_true("sent rows are gone", wait::LONG_PATIENCE, async || scene.database.number(&sent).await == 0).await;
    assert_eq!(scene.database.number("select count(*) from outbox").await, 3, "held rows stay");
    missing.appear().await;
    missing.holds(3).await;
    wait::until_true("the once held rows are gone too", wait::LONG_PATIENCE, async || {
        scene.database.number("select count(*) from outbox").await == 0
    })
    .await;
}

/// A table that is emptied as fast as it is filled is all dead rows, and grows for ever if no vacuum clears them away.
#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_keeps_up_with_a_table_that_is_emptied_all_the_time() {
    const ROWS: i64 = 150_000;
    let _machine = machine::loaded().await;
    let postgres = Postgres::start();
    let scene = Scene::set_on(postgres.server()).await;
    // By default it looks once a minute.
    scene.database.run("alter system set autovacuum_naptime = '1s'").await;
    scene.database.run("select pg_reload_conf()").await;
    let relay = scene.relay().with("outbox.settle", "delete").start().await;
    let ledger = scene.writers(ROWS).start(&scene.seed).await.finish().await;
    scene.topic.holds(ledger.rows_of(scene.topic.name())).await;
    let size = scene.database.number("select pg_total_relation_size('outbox')").await;
    assert!(size < 16 << 20, "after {ROWS} rows that are gone the table takes {} MB", size >> 20);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_younger_than_the_retention_stay() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let old = "insert into outbox (topic, sent_at) select 'old', now() - interval '8 days' from generate_series(1, 10)";
    scene.database.run(old).await;
    let relay = scene.relay().start().await;
    scene.insert("k", "young").await;
    scene.topic.holds(1).await;
    let count = "select count(*) from outbox where topic = 'old'";
    wait::until_true("rows sent 8 days ago are gone", wait::LONG_PATIENCE, async || {
        scene.database.number(count).await == 0
    })
    .await;
    assert_eq!(scene.database.number("select count(*) from outbox").await, 1, "the default retention is 7 days");
    drop(relay);
}
