//! A leader that is killed, and one that is asked to stop.

use crate::support::audit::Auditor;
use crate::support::machine;
use crate::support::wait::SLACK;
use crate::takeover::{Stage, TTL, first, last, millis, now, report};

/// How often each takeover is done.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_publishes_after_the_kill_of_the_leader_and_not_before() {
    let _machine = machine::loaded().await;
    let stage = Stage::set().await;
    let writers = stage.scene.steady_writers().start(&stage.scene.seed).await;
    let mut leader = stage.leader("relay-0").await;
    let mut kills = Vec::new();
    for round in 1..=ROUNDS {
        let standby = stage.relay(&format!("relay-{round}")).start().await;
        stage.published(1_000).await;
        kills.push(now());
        leader.kill();
        standby.reaches("outboxd_leader", 1.0).await;
        leader = standby;
    }
    stage.published(1_000).await;
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::default()).await;
    verdict.assert_complete_and_ordered();
    let took: Vec<i64> =
        kills.iter().enumerate().map(|(at, killed)| first(&records, &format!("relay-{}", at + 1)) - killed).collect();
    report("ms from the kill to the standby's first record, lease of 2 s", &took);
    assert!(took.iter().all(|took| (0..=millis(TTL + SLACK)).contains(took)), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over_at_once_and_nothing_comes_twice() {
    let _machine = machine::loaded().await;
    let stage = Stage::set().await;
    let writers = stage.scene.steady_writers().start(&stage.scene.seed).await;
    let relay = |round| stage.relay(&format!("relay-{round}")).with_long_lease();
    let mut leader = relay(0).start().await;
    leader.reaches("outboxd_leader", 1.0).await;
    for round in 1..=ROUNDS {
        let standby = relay(round).start().await;
        stage.published(1_000).await;
        assert_eq!(leader.stop().await, Some(0), "{}", leader.log());
        standby.reaches("outboxd_leader", 1.0).await;
        leader = standby;
    }
    stage.published(1_000).await;
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::default()).await;
    verdict.assert_exact();
    // From the old leader's last record to the new one's first: the drain, the release and the start together.
    let gaps: Vec<i64> = (1..=ROUNDS)
        .map(|round| first(&records, &format!("relay-{round}")) - last(&records, &format!("relay-{}", round - 1)))
        .collect();
    report("ms in which nobody published, rolling deploy", &gaps);
    assert!(gaps.iter().all(|gap| (0..=millis(SLACK)).contains(gap)), "{gaps:?}");
}
