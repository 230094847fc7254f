//! A partition that takes nothing: its own lanes wait, and all others flow.

use crate::support::database::Database;
use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::throwaway::Kafka;
use crate::support::{machine, services, wait};

/// Rows with keys for all partitions of a topic of three.
const ROWS: i64 = 30;

/// Commits rows of the topic, each with a key of its own and the next number of that key.
async fn write(database: &Database, topic: &Topic, number: i64) {
    let name = topic.name();
    let rows =
        format!("select '{name}', 'key ' || n, convert_to('{number}', 'UTF8') from generate_series(1, {ROWS}) n");
    database.run(&format!("insert into outbox (topic, key, payload) {rows}")).await;
}

/// Waits until what is unsent of a topic is what is held of it, and that is not all: where the machine was too busy to deliver
/// anything for a while, lanes of healthy partitions are held, too, for a moment.
async fn others_are_settled(database: &Database, topic: &Topic) {
    let name = topic.name();
    let others = format!(
        "select count(*) from outbox o where sent_at is null and topic = '{name}'
         and not exists (select from outbox_held h where h.topic = o.topic and h.key = o.key)"
    );
    let held = format!("select count(*) from outbox_held where topic = '{name}'");
    wait::until_true("the others are settled, and not all lanes are held", wait::LONG_PATIENCE, async || {
        database.number(&others).await == 0 && (1..ROWS).contains(&database.number(&held).await)
    })
    .await;
}

/// Waits until lanes are held for their partition.
async fn is_held(database: &Database, topic: &Topic) {
    let name = topic.name();
    let held = format!("select count(*) from outbox_held where cause = 'unavailable_partition' and topic = '{name}'");
    wait::until_true("lanes are held for their partition", wait::LONG_PATIENCE, async || {
        database.number(&held).await > 0
    })
    .await;
}

/// What consumers see, by key: each number once, in order, but for repeats.
async fn assert_in_order(topic: &Topic, numbers: i64) {
    use rdkafka::Message as _;
    let mut seen = std::collections::BTreeMap::<Vec<u8>, i64>::new();
    topic
        .read(|record| {
            let number: i64 = crate::support::kafka::text(record).parse().expect("a number");
            let last = seen.entry(record.key().expect("a key").to_vec()).or_default();
            assert!(number <= *last + 1, "{number} came after {last}");
            *last = number.max(*last);
        })
        .await;
    assert_eq!(seen.len() as i64, ROWS);
    assert!(seen.values().all(|last| *last == numbers), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_broker_hangs_or_is_down_what_others_lead_flows_and_its_own_comes_in_order_afterwards() {
    let _machine = machine::shared().await;
    let kafka = Kafka::start_three(&["min.insync.replicas=1"]);
    let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    let database = &scene.database;
    let topics = [Topic::create(&scene.brokers, 3).await, Topic::create(&scene.brokers, 3).await];
    let mut relay = scene.relay().start().await;
    for topic in &topics {
        write(database, topic, 1).await;
        topic.holds(ROWS as u64).await;
    }
    for (fault, numbers) in [("hangs", 2..5), ("is down", 5..8)] {
        match fault {
            "hangs" => kafka.pause_broker(3),
            _ => kafka.kill_broker(3),
        }
        write(database, &topics[0], numbers.start).await;
        is_held(database, &topics[0]).await;
        // The broker's other partitions wait without having been tried, and no other lane stands because of them.
        for number in numbers.clone() {
            write(database, &topics[1], number).await;
        }
        is_held(database, &topics[1]).await;
        others_are_settled(database, &topics[0]).await;
        others_are_settled(database, &topics[1]).await;
        match fault {
            "hangs" => kafka.resume_broker(3),
            _ => kafka.restart_broker(3),
        }
        scene.all_settled().await;
        let held = async || database.number("select count(*) from outbox_held").await;
        wait::until_true("nothing is held", wait::LONG_PATIENCE, async || held().await == 0).await;
        // The next number of the first topic, which had only one.
        for number in numbers.skip(1) {
            write(database, &topics[0], number).await;
        }
        scene.all_settled().await;
    }
    for topic in &topics {
        assert_in_order(topic, 7).await;
    }
    assert!(relay.exited().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_too_few_replicas_follow_holds_its_lanes_alone_until_they_do() {
    let _machine = machine::shared().await;
    let kafka = Kafka::start_three(&[]);
    let mut scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    scene.topic = Topic::create_replicated(&scene.brokers, 3, 3).await;
    let starved = Topic::create_replicated(&scene.brokers, 3, 3).await;
    starved.set("min.insync.replicas", "3").await;
    let relay = scene.relay().start().await;
    write(&scene.database, &starved, 1).await;
    starved.shows(ROWS as u64).await;
    kafka.kill_broker(3);
    write(&scene.database, &starved, 2).await;
    is_held(&scene.database, &starved).await;
    scene.insert("another topic", "flows").await;
    scene.topic.shows(1).await;
    relay.reaches("outboxd_held_lanes", ROWS as f64).await;
    // What is written while they wait waits too.
    write(&scene.database, &starved, 3).await;
    kafka.restart_broker(3);
    scene.all_settled().await;
    assert_in_order(&starved, 3).await;
}
