//! A second relay waits as standby, and takes over.

use crate::support::daemon::{Daemon, Running};
use crate::support::machine;
use crate::support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_after_a_clean_end_and_nothing_comes_twice() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let (mut leader, mut standby) = two(&scene.relay().with_long_lease()).await;
    for _ in 0..3 {
        let published = scene.topic.count().expect("the broker answers");
        scene.topic.holds(published + 1_000).await;
        assert_eq!(standby.metric("outboxd_leader").await, 0.0, "there is one leader");
        assert_eq!(leader.stop().await, Some(0));
        standby.reaches("outboxd_leader", 1.0).await;
        leader = std::mem::replace(&mut standby, scene.relay().with_long_lease().start().await);
    }
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_after_a_kill_and_nothing_is_lost() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    let (mut leader, mut standby) = two(&scene.relay()).await;
    for _ in 0..3 {
        let published = scene.topic.count().expect("the broker answers");
        scene.topic.holds(published + 1_000).await;
        leader.kill();
        standby.reaches("outboxd_leader", 1.0).await;
        leader = std::mem::replace(&mut standby, scene.relay().start().await);
    }
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_complete_and_ordered();
}

/// A leader, and a standby that is connected.
async fn two(relay: &Daemon) -> (Running, Running) {
    let leader = relay.start().await;
    leader.reaches("outboxd_leader", 1.0).await;
    (leader, relay.start().await)
}
