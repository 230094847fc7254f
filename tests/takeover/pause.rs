//! A leader that is paused beyond its lease, as by a stalled virtual machine, and wakes up as if nothing had happened.

use crate::support::audit::Auditor;
use crate::support::machine;
use crate::support::wait::{self, PATIENCE};
use crate::takeover::{Stage, now, report, stale};

/// How many milliseconds of its work a leader may have handed over ahead, with some room for a busy machine.
const AHEAD: i64 = 500 + 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_sends_little_when_it_wakes_and_becomes_standby() {
    let _machine = machine::alone().await;
    let stage = Stage::set().await;
    let mut writers = stage.scene.steady_writers();
    writers.writers = 16;
    let writers = writers.start(&stage.scene.seed).await;
    let old = stage.leader("old").await;
    let mut new = stage.relay("new").start().await;
    stage.published(1_500).await;
    old.signal("STOP");
    let paused = now();
    new.reaches("outboxd_leader", 1.0).await;
    stage.published(1_500).await;
    let resumed = now();
    old.signal("CONT");
    wait::until_true("the old leader is a standby", PATIENCE, async || {
        old.get("/status").await.is_ok_and(|answer| answer.body.contains("standby"))
    })
    .await;
    stage.published(1_500).await;
    assert!(new.exited().is_none() && new.metric("outboxd_leader").await == 1.0, "the new leader leads on");
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::of_first_occurrences()).await;
    verdict.assert_complete_and_ordered();
    let stale = stale(&records, "old", "new");
    let until = stale.iter().map(|record| record.at - resumed).max();
    let took = records.iter().filter(|record| record.by == "new").map(|record| record.at).min().unwrap() - paused;
    report("ms from the pause to the standby's first record, lease of 2 s", took);
    report("stale records of the paused leader, and ms after it woke up", (stale.len(), until));
    assert!(until.is_none_or(|until| until <= AHEAD), "it went on for {until:?} ms");
}
