//! Logs never hold a payload, a key, a header's value or a password.

use crate::support::daemon::Running;
use crate::support::kafka::Topic;
use crate::support::machine;
use crate::support::scene::Scene;

const CANARIES: [&str; 3] = ["canary-key-7f3a", "canary-payload-7f3a", "canary-header-7f3a"];

#[tokio::test(flavor = "multi_thread")]
async fn the_text_log_tells_nothing_of_the_data() {
    let log = log_of_a_busy_relay("text", "halt").await;
    assert!(log.lines().count() > 2, "the relay says something: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_log_is_json_and_tells_nothing_of_the_data() {
    for line in log_of_a_busy_relay("json", "dead-letter").await.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(event.get("level").is_some() && event.get("timestamp").is_some(), "{line}");
    }
}

/// Goes through delivery, a missing topic, a poisonous row and the end, at the most talkative level.
async fn log_of_a_busy_relay(format: &str, on_reject: &str) -> String {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let missing = Topic::missing(&scene.brokers, 1);
    let relay = scene
        .relay()
        .argument("--log-format")
        .argument(format)
        .with("log.level", "trace")
        .with("relay.on_reject", on_reject);
    let mut relay = relay.start().await;
    insert(&scene, scene.topic.name(), 1).await;
    scene.topic.follow().records(1).await;
    insert(&scene, missing.name(), 1).await;
    relay.reaches("outboxd_held_lanes", 1.0).await;
    // Larger than any broker takes by default.
    insert(&scene, scene.topic.name(), 100_000).await;
    if on_reject == "halt" {
        assert_eq!(relay.ended().await.code(), Some(1), "a record that can never be published stops the relay");
    } else {
        relay.reaches("outboxd_dead_letters", 1.0).await;
        assert_eq!(relay.stop().await, Some(0));
    }
    tells_nothing(&relay)
}

fn tells_nothing(relay: &Running) -> String {
    let log = relay.log();
    for canary in CANARIES {
        let line =
            log.lines().find(|line| line.contains(canary)).map(|line| line.chars().take(400).collect::<String>());
        assert_eq!(line, None, "{canary} is in the log");
    }
    log
}

async fn insert(scene: &Scene, topic: &str, times: i32) {
    let [key, payload, value] = CANARIES;
    let insert = sqlx::query(
        "insert into outbox (topic, key, payload, headers) \
         values ($1, $2, convert_to(repeat($3, $4), 'UTF8'), jsonb_build_object('h', $5))",
    );
    let inserted =
        insert.bind(topic).bind(key).bind(payload).bind(times).bind(value).execute(scene.database.pool()).await;
    inserted.expect("a row is inserted");
}
