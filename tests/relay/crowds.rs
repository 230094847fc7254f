//! Thousands of topics and lanes that wait: the others notice nothing of them.

use std::process::Command;

use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::{machine, wait};

/// More lanes than any statement is told of one by one.
const LANES: i64 = 3_000;

async fn counts(scene: &Scene, what: &str, count: i64) {
    let question = format!("select count(*) from {what}");
    let has_come = async || scene.database.number(&question).await == count;
    wait::until_true(&question, wait::LONG_PATIENCE, has_come).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_held_lanes_are_stored_and_released_under_one_lease_while_others_flow() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let topic = Topic::create_with(&scene.brokers, 3, "max.message.bytes", "1000").await;
    let insert = |rows: &str| {
        let name = topic.name();
        format!(
            "insert into outbox (topic, key, payload) select '{name}', 'key ' || n, convert_to(repeat(n || ' ', 1 + {rows}), 'UTF8') from generate_series(1, {LANES}) n"
        )
    };
    scene.database.run(&insert("1000")).await;
    let mut relay = scene.relay().with("relay.on_reject", "block-key").start().await;
    counts(&scene, "outbox_held where cause = 'rejected'", LANES).await;
    relay.reaches("outboxd_held_lanes", LANES as f64).await;
    // What follows in the lanes waits too, and others flow.
    scene.database.run(&insert("0")).await;
    scene.insert("another lane", "healthy").await;
    scene.topic.holds(1).await;
    assert_eq!(topic.count().expect("the broker answers"), 0);

    // A restart finds them all again.
    assert_eq!(relay.stop().await, Some(0));
    let mut relay = scene.relay().with("relay.on_reject", "block-key").start().await;
    relay.reaches("outboxd_held_lanes", LANES as f64).await;
    let term = scene.database.number("select term from outbox_lease").await;

    // The large ones are made smaller, and all are released.
    scene.database.run("update outbox set payload = 'small' where octet_length(payload) > 1000").await;
    let mut release = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    release.args(["held", "release", "--topic", topic.name(), "--database-url", scene.database.url()]);
    assert!(release.status().expect("it starts").success());
    topic.holds(2 * LANES as u64).await;
    counts(&scene, "outbox_held", 0).await;
    scene.all_settled().await;
    assert_eq!(scene.database.number("select term from outbox_lease").await, term, "the lease was lost meanwhile");
    assert_eq!(relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_missing_topics_are_held_and_the_others_flow_and_each_goes_on_once_it_exists() {
    for delivery in ["at-least-once", "exactly-once"] {
        let _machine = machine::shared().await;
        let scene = Scene::set().await;
        let missing = Topic::missing(&scene.brokers, 3);
        let name = missing.name();
        let rows = format!(
            "select '{name}' || case n when {LANES} then '' else '.' || n end, 'key', 'x' from generate_series(1, {LANES}) n"
        );
        scene.database.run(&format!("insert into outbox (topic, key, payload) {rows}")).await;
        let mut relay = scene.relay().with("relay.delivery", delivery).start().await;
        counts(&scene, "outbox_held where cause = 'missing_topic'", LANES).await;
        scene.insert("a lane", "healthy").await;
        scene.topic.shows(1).await;
        assert!(!missing.exists(), "the broker's auto-creation was triggered");

        missing.appear().await;
        missing.shows(1).await;
        counts(&scene, "outbox_held", LANES - 1).await;
        assert_eq!(relay.stop().await, Some(0), "{delivery}");
    }
}
