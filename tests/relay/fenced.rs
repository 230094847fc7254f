//! Fenced delivery, end to end: a former leader is shut out, so that no standby waits for its lease, and what looks
//! like being shut out ends by itself.

use tokio::time::Instant;

use crate::support::audit::Auditor;
use crate::support::daemon::{Daemon, Running};
use crate::support::kafka::header;
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::services;
use crate::support::throwaway::Kafka;
use crate::support::wait;

fn fenced(scene: &Scene) -> Daemon {
    scene.relay().with("relay.delivery", "fenced")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_does_not_wait_for_the_lease_of_a_leader_that_was_killed() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let relay = fenced(&scene).with_long_lease();
    let mut leader = relay.start().await;
    leader.reaches("outboxd_leader", 1.0).await;
    let mut standby = relay.start().await;
    let mut took = Vec::new();
    for _ in 0..3 {
        scene.topic.holds(scene.topic.count().expect("the broker answers") + 1_000).await;
        let killed = Instant::now();
        leader.kill();
        publishes(&standby).await;
        took.push(killed.elapsed());
        leader = std::mem::replace(&mut standby, relay.start().await);
    }
    println!("takeovers after a kill, fenced: {took:?}");
    assert!(took.iter().all(|took| *took < wait::SLACK), "{took:?}");
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_complete_and_ordered();
}

/// Waits until the relay has published something.
async fn publishes(relay: &Running) {
    let what = "the standby publishes";
    wait::until_true(what, wait::PATIENCE, async || relay.metric("outboxd_published_total").await > 0.0).await;
}

/// The old leader is stopped in the middle of its work, with a lease that it believes in for long, and is woken while
/// the next one works.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_appends_nothing_once_the_next_one_has_begun() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let mut old = fenced(&scene).with("lease.ttl", "1s").start().await;
    for _ in 0..3 {
        scene.topic.holds(scene.topic.count().expect("the broker answers") + 1_000).await;
        old.signal("STOP");
        let next = fenced(&scene).with("lease.ttl", "1s").start().await;
        publishes(&next).await;
        old.signal("CONT");
        scene.topic.holds(scene.topic.count().expect("the broker answers") + 1_000).await;
        assert!(next.metric("outboxd_leader").await > 0.0, "the next one leads on");
        old.kill();
        old = next;
    }
    let ledger = writers.stop().await;
    scene.all_settled().await;
    // In every partition a record that comes again comes in a rewind: behind the first record of a later leader there is
    // none of an earlier one, which would show as a lane whose last record is not its highest.
    let mut last = std::collections::HashMap::new();
    let mut auditor = Auditor::default();
    scene
        .topic
        .read(|record| {
            auditor.see(record);
            use rdkafka::Message as _;
            let id: i64 = header(record, "outbox-id").expect("the row's id").parse().expect("a number");
            last.insert(record.key().map(<[u8]>::to_vec), id);
        })
        .await;
    auditor.judge(&ledger, &[scene.topic.name()]).assert_complete_and_ordered();
    let highest = scene.database.pool();
    let rows: Vec<(String, i64)> = sqlx::query_as("select key, max(id) from outbox where key is not null group by key")
        .fetch_all(highest)
        .await
        .expect("the rows can be read");
    for (key, id) in rows {
        assert_eq!(last.get(&Some(key.clone().into_bytes())), Some(&id), "the last record of {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_a_transaction_may_be_costs_only_time() {
    let _machine = machine::loaded().await;
    let kafka = Kafka::start();
    let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    let mut relay = fenced(&scene).with("kafka.transaction_timeout_ms", "2000").start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    scene.topic.holds(1_000).await;
    kafka.stop();
    relay.reaches("outboxd_oldest_unsent_seconds", 8.0).await;
    kafka.restart();
    let ledger = writers.stop().await;
    scene.all_settled().await;
    assert!(relay.exited().is_none(), "the relay ended");
    for metric in ["outboxd_rejected_total", "outboxd_dead_letters", "outboxd_late_messages_total"] {
        assert_eq!(relay.metric(metric).await, 0.0, "{metric}");
    }
    scene.audit(&ledger).await.assert_complete_and_ordered();
    assert_eq!(relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_deploy_publishes_nothing_twice() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let mut leader = fenced(&scene).with_long_lease().start().await;
    for _ in 0..3 {
        scene.topic.holds(scene.topic.count().expect("the broker answers") + 1_000).await;
        let next = fenced(&scene).with_long_lease().start().await;
        assert_eq!(leader.stop().await, Some(0));
        publishes(&next).await;
        leader = next;
    }
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_exact();
}
