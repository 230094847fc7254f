//! An outage costs time and nothing else.

use crate::support::daemon::{Daemon, Running};
use crate::support::kafka::Topic;
use crate::support::machine;
use crate::support::proxy::{Mode, Proxy};
use crate::support::scene::Scene;
use crate::support::services;
use crate::support::throwaway::{Kafka, Postgres};
use crate::support::wait;
use crate::support::wire::move_leaders;

/// How long the broker is away. More takes no more of anything: what is in flight is bounded from the first second on.
const AWAY: f64 = 20.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_costs_only_time_and_the_table_drains_to_empty() {
    let _machine = machine::loaded().await;
    let kafka = Kafka::start();
    let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    let mut relay = scene.relay().with("outbox.settle", "delete").start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    scene.topic.holds(2_000).await;
    let before = relay.peak_memory();

    kafka.stop();
    // The gauge is by the database's clock, so it also says how long the broker was away.
    relay.reaches("outboxd_oldest_unsent_seconds", AWAY).await;
    // It can be less than before: Linux counts pages by processor and adds them up roughly.
    let after = relay.peak_memory();
    assert!(after < before + (16 << 20), "{} MB grew to {} MB while the broker was away", before >> 20, after >> 20);
    kafka.restart();
    let ledger = writers.stop().await;
    wait::until_true("the table is empty", wait::LONG_PATIENCE, async || {
        scene.database.number("select count(*) from outbox").await == 0
    })
    .await;
    nothing_was_given_up(&mut relay).await;
    assert_eq!(scene.database.number("select count(*) from outbox_dead").await, 0);
    scene.audit(&ledger).await.assert_complete_and_ordered();
}

#[tokio::test(flavor = "multi_thread")]
async fn that_kafka_is_away_is_told_while_nothing_waits_too() {
    let _machine = machine::shared().await;
    let kafka = Kafka::start();
    let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    let relay = scene.relay().start().await;
    scene.insert("k", "x").await;
    scene.topic.holds(1).await;
    let is_up = async |is_up: bool| {
        let told = async || relay.metric("outboxd_kafka_up").await == f64::from(u8::from(is_up));
        wait::until_true("the gauge tells", wait::LONG_PATIENCE, told).await;
    };
    is_up(true).await;
    kafka.stop();
    is_up(false).await;
    kafka.restart();
    is_up(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_load_costs_only_time() {
    let _machine = machine::loaded().await;
    let postgres = Postgres::start();
    let scene = Scene::set_on(postgres.server()).await;
    let mut relay = scene.relay().start().await;
    let mut workload = scene.steady_writers();
    workload.outages = true;
    let writers = workload.start(&scene.seed).await;
    for round in 0..4 {
        let published = scene.topic.count().expect("the broker answers");
        scene.topic.holds(published + 1_000).await;
        if round % 2 == 0 {
            postgres.kill();
        }
        postgres.restart();
    }
    let published = scene.topic.count().expect("the broker answers");
    scene.topic.holds(published + 1_000).await;
    let ledger = writers.stop().await;
    scene.all_settled().await;
    nothing_was_given_up(&mut relay).await;
    scene.audit(&ledger).await.assert_complete_and_ordered();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_starts_before_its_broker_and_database_waits_for_them() {
    let _machine = machine::loaded().await;
    let (kafka, postgres) = (Kafka::start(), Postgres::start());
    let scene = Scene::set_between(postgres.server(), kafka.brokers()).await;
    scene.insert("k", "written before").await;
    kafka.stop();
    postgres.kill();
    let mut relay = scene.relay().spawn();
    wait::until_true("the relay turns", wait::PATIENCE, async || {
        relay.get("/livez").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    postgres.restart();
    kafka.restart();
    scene.topic.holds(1).await;
    nothing_was_given_up(&mut relay).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_rises_while_the_database_does_not_answer_though_nothing_waited() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    scene.insert("k", "published before").await;
    let proxy = Proxy::before(scene.database.url()).await;
    let relay = Daemon::new(&proxy.url(scene.database.url()), &scene.brokers).start().await;
    scene.all_settled().await;
    let lags = async |is_so: fn(f64) -> bool| {
        wait::until_true("the lag is told", wait::PATIENCE, async || {
            is_so(relay.metric("outboxd_oldest_unsent_seconds").await)
        })
        .await;
    };
    lags(|lag| lag == 0.0).await;
    proxy.all(Mode::Stall);
    // More than the pause between two looks at an empty outbox.
    lags(|lag| lag > 15.0).await;
    proxy.all(Mode::Flow);
    lags(|lag| lag == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leader_tells_nothing_of_what_another_holds() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 1);
    let proxy = Proxy::before(scene.database.url()).await;
    let former = Daemon::new(&proxy.url(scene.database.url()), &scene.brokers).start().await;
    former.reaches("outboxd_leader", 1.0).await;
    let insert = "insert into outbox (topic, key, payload) values ($1, 'k', 'x')";
    sqlx::query(insert).bind(missing.name()).execute(scene.database.pool()).await.expect("a row is inserted");
    former.reaches("outboxd_held_lanes", 1.0).await;
    let heir = scene.relay().start().await;
    proxy.all(Mode::Stall);
    heir.reaches("outboxd_leader", 1.0).await;
    heir.reaches("outboxd_held_lanes", 1.0).await;
    for gauge in ["outboxd_held_lanes", "outboxd_in_flight_messages"] {
        wait::until_true(gauge, wait::PATIENCE, async || former.metric(gauge).await == 0.0).await;
    }
    proxy.all(Mode::Flow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_and_created_again_is_published_to_as_before() {
    let _machine = machine::shared().await;
    let kafka = Kafka::start_three(&[]);
    let mut scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    scene.topic = Topic::create_replicated(&scene.brokers, 3, 3).await;
    let mut relay = scene.relay().start().await;
    // The client is to know later epochs of its leaders than a new topic has.
    for turn in 1..=4 {
        lead(&scene, turn).await;
    }
    publish(&scene, 0).await;
    scene.topic.disappear().await;
    wait::until_true("the topic is gone", wait::PATIENCE, async || !scene.topic.exists()).await;
    scene.topic.appear().await;
    lead(&scene, 5).await;
    publish(&scene, 1).await;
    nothing_was_given_up(&mut relay).await;
}

/// Commits and awaits a record for each partition, and more.
async fn publish(scene: &Scene, round: u64) {
    for key in 0..20 {
        scene.insert(&format!("key-{round}-{key}"), "x").await;
    }
    scene.topic.holds(20).await;
}

/// Moves the partitions to other leaders, in turns.
async fn lead(scene: &Scene, turn: i32) {
    let broker = scene.brokers.split(',').next().expect("there are three");
    let leaders: Vec<i32> = (0..3).map(|partition| (partition + turn) % 3 + 1).collect();
    wait::until_true("others lead", wait::PATIENCE, async || {
        move_leaders(broker, scene.topic.name(), 3, turn).await.expect("the broker answers");
        tokio::task::block_in_place(|| scene.topic.leaders()).is_ok_and(|found| found == leaders)
    })
    .await;
}

/// The relay is the same process as at the start, and no record was rejected.
async fn nothing_was_given_up(relay: &mut Running) {
    assert!(relay.exited().is_none(), "the relay ended");
    for metric in ["outboxd_rejected_total", "outboxd_dead_letters", "outboxd_late_messages_total"] {
        assert_eq!(relay.metric(metric).await, 0.0, "{metric}");
    }
}
