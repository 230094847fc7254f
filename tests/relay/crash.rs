//! A relay that dies loses nothing and reorders nothing; one that is asked to stop repeats nothing.

use rand::Rng;

use crate::support::machine;
use crate::support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn ten_sigkills_under_load_lose_nothing_and_reorder_no_lane() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let relay = scene.relay().with("lease.ttl", "2s");
    let mut moments = scene.seed.generator(99);
    let writers = scene.steady_writers().start(&scene.seed).await;
    for _ in 0..10 {
        let mut running = relay.start().await;
        let published = scene.topic.count().expect("the broker answers");
        scene.topic.holds(published + moments.random_range(1..2_000)).await;
        running.kill();
    }
    let _last = relay.start().await;
    let ledger = writers.stop().await;
    scene.all_settled().await;
    scene.audit(&ledger).await.assert_complete_and_ordered();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sigterm_under_load_and_a_restart_publish_nothing_twice() {
    for settle in ["mark", "delete", "checkpoint"] {
        let _machine = machine::loaded().await;
        let scene = Scene::set().await;
        let relay = scene.relay().with_long_lease().with("outbox.settle", settle);
        let writers = scene.steady_writers().start(&scene.seed).await;
        for _ in 0..3 {
            let mut running = relay.start().await;
            let published = scene.topic.count().expect("the broker answers");
            scene.topic.holds(published + 1_000).await;
            assert_eq!(running.stop().await, Some(0), "a graceful end with settle = {settle}");
        }
        let mut last = relay.start().await;
        let ledger = writers.stop().await;
        scene.topic.holds(ledger.rows_of(scene.topic.name())).await;
        assert_eq!(last.stop().await, Some(0));
        scene.audit(&ledger).await.assert_exact();
    }
}
