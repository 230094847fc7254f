//! Memory is bounded, whatever the backlog.

use crate::support::ledger::Ledger;
use crate::support::scene::{self, Scene};
use crate::support::workload::bulk;
use crate::support::{kafka::Topic, machine};

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_a_million_rows_drains_in_150_megabytes() {
    const ROWS: i64 = 1_000_000;
    const MEGABYTES: u64 = 150;
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let live = Topic::create(&scene.brokers, 6).await;
    bulk(scene.database.pool(), scene.topic.name(), 1_000, 0, ROWS, 200).await;
    let mut ledger = Ledger::default();
    ledger.committed_evenly(scene.topic.name(), 1_000, ROWS);

    let mut workload = scene.steady_writers();
    workload.topics = vec![live.name().to_owned()];
    let writers = workload.start(&scene.seed).await;
    let mut relay = scene.relay().with_long_lease().start().await;
    scene.topic.holds(ROWS as u64).await;
    ledger.merge(writers.stop().await);
    scene.all_settled().await;
    let peak = relay.peak_memory();
    assert_eq!(relay.stop().await, Some(0));

    scene.audit(&ledger).await.assert_exact();
    scene::audit(&live, &ledger).await.assert_exact();
    println!("at most {} MB resident", peak / 1_000_000);
    assert!(peak < MEGABYTES * 1_000_000, "{peak} bytes were resident");
}
