//! An empty read costs next to nothing, whatever lies dead in the table and whatever the planner believes.

use sqlx::Executor;
use tokio::time::Instant;

use crate::support::daemon::Running;
use crate::support::scene::Scene;
use crate::support::workload::bulk;
use crate::support::{machine, wait};

/// The promise for an empty read, a bucket of the histogram.
const QUICK: f64 = 0.005;

/// How many idle reads are looked at.
const READS: f64 = 100.0;

const HISTOGRAM: &str = "outboxd_fetch_seconds";

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_read_is_quick_among_300_000_dead_rows_under_an_old_snapshot() {
    let _machine = machine::alone().await;
    let scene = Scene::set().await;
    let mut old = scene.database.connect().await;
    old.execute("begin isolation level repeatable read").await.expect("a transaction begins");
    old.execute("select from outbox").await.expect("the snapshot is taken");

    bulk(scene.database.pool(), scene.topic.name(), 1_000, 0, 300_000, 20).await;
    let relay = scene.relay().with("outbox.settle", "delete").with("outbox.notify", "off").start().await;
    scene.topic.holds(300_000).await;
    scene.all_settled().await;
    idle_reads_are_quick(&relay).await;

    scene.insert("k", "a row after the dead ones").await;
    scene.topic.holds(300_001).await;
    old.execute("rollback").await.expect("the snapshot was held all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_read_is_quick_on_a_million_rows_that_were_never_analysed() {
    let _machine = machine::alone().await;
    let scene = Scene::set().await;
    scene.database.run("alter table outbox set (autovacuum_enabled = off, toast.autovacuum_enabled = off)").await;
    let sent = "insert into outbox (topic, key, payload, sent_at) \
        select 'long.gone', 'k' || i, 'x', now() from generate_series(1, 1000000) i";
    scene.database.run(sent).await;

    let relay = scene.relay().with("outbox.notify", "off").start().await;
    scene.insert("k", "the first row that is not sent").await;
    scene.topic.holds(1).await;
    scene.all_settled().await;
    idle_reads_are_quick(&relay).await;
}

/// Looks at stretches of idle reads until one is as promised. The machine is shared with the services and
/// whatever else runs, so a stretch may be unlucky, and of each stretch one read in twenty; without the
/// mechanism every single read is slow, 17 to 270 ms, and no stretch ever passes.
async fn idle_reads_are_quick(relay: &Running) {
    let end = Instant::now() + wait::PATIENCE;
    loop {
        let (quick, reads) = stretch(relay).await;
        if quick >= 0.95 * reads {
            return;
        }
        assert!(Instant::now() < end, "only {quick} of {reads} empty reads took less than {QUICK} s");
    }
}

/// How many reads of a stretch were quick, and how many there were.
async fn stretch(relay: &Running) -> (f64, f64) {
    let count = format!("{HISTOGRAM}_count");
    let before = relay.metrics().await;
    let begun = before.sum(&count).expect("reads are counted");
    relay.reaches(&count, begun + READS).await;
    let after = relay.metrics().await;
    let reads = after.sum(&count).expect("reads are counted") - begun;
    (after.at_most(HISTOGRAM, QUICK) - before.at_most(HISTOGRAM, QUICK), reads)
}
