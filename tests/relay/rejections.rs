//! Records that Kafka can never take: what becomes of them, and that nothing overtakes them.

use std::process::Command;

use tokio::time::Instant;

use crate::support::daemon::Daemon;
use crate::support::kafka::{Topic, header, text};
use crate::support::scene::Scene;
use crate::support::throwaway::Kafka;
use crate::support::wire::{Resource, deny_only};
use crate::support::{machine, services, wait};

/// A limit that kilobytes pass and ten of them do not.
const LIMIT: &str = "4096";

/// A payload of its own that is too large for [`LIMIT`].
fn too_large(name: &str) -> String {
    format!("{name} {}", "x".repeat(10_000))
}

/// Runs a command on the scene's database and returns what it printed.
fn command(scene: &Scene, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    let output = command.args(arguments).args(["--database-url", scene.database.url()]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

async fn insert_all(scene: &Scene, topic: &str, rows: &[(&str, &str)]) {
    let insert = "insert into outbox (topic, key, payload) \
        select $1, k, convert_to(p, 'UTF8') from unnest($2::text[], $3::text[]) with ordinality r (k, p, n) order by n";
    let (keys, payloads): (Vec<&str>, Vec<&str>) = rows.iter().copied().unzip();
    let inserted = sqlx::query(insert).bind(topic).bind(keys).bind(payloads).execute(scene.database.pool()).await;
    inserted.expect("rows are inserted");
}

/// The first words of what a topic holds, by key.
async fn arrived(topic: &Topic, key: &str) -> Vec<String> {
    let mut seen = Vec::new();
    topic
        .read(|record| {
            use rdkafka::Message;
            if record.key() == Some(key.as_bytes()) {
                seen.push(text(record).split(' ').next().unwrap_or_default().to_owned());
            }
        })
        .await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_records_of_one_key_the_second_too_large_consumers_see_the_first_and_the_third() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let topic = Topic::create_with(&scene.brokers, 3, "max.message.bytes", LIMIT).await;
    let letters = Topic::missing_named(&scene.brokers, format!("{}.dlq", topic.name()), 3);
    letters.appear().await;
    let large = too_large("2");
    insert_all(&scene, topic.name(), &[("k", "1"), ("k", &large), ("k", "3"), ("other", "1")]).await;
    let relay = scene.relay().with("dead_letter.topic", "{topic}.dlq").start().await;
    topic.holds(3).await;
    assert_eq!(arrived(&topic, "k").await, ["1", "3"]);
    scene.all_settled().await;

    // It is kept whole, with its cause.
    let kept = "select count(*) from outbox_dead where key = 'k' and code = 'message_too_large' \
        and octet_length(payload) = 10002 and message like '%max.message.bytes%'";
    assert_eq!(scene.database.number(kept).await, 1);
    assert_eq!(scene.database.number("select count(*) from outbox").await, 3);
    relay.reaches("outboxd_dead_letters", 1.0).await;
    relay.reaches("outboxd_rejected_total", 1.0).await;

    // And published to the topic of dead letters, whose limit is larger.
    letters.holds(1).await;
    letters
        .read(|record| {
            assert_eq!(text(record), large);
            assert_eq!(header(record, "outbox-error-code"), Some("message_too_large"));
            assert_eq!(header(record, "outbox-original-topic"), Some(topic.name()));
            assert!(header(record, "outbox-error-message").is_some_and(|message| message.contains("4096")));
        })
        .await;
    wait::until_true("it is recorded as published", wait::PATIENCE, async || {
        scene.database.number("select count(*) from outbox_dead where published_at is not null").await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_key_waits_for_days_and_comes_out_in_order_when_it_is_released() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let topic = Topic::create_with(&scene.brokers, 3, "max.message.bytes", LIMIT).await;
    let large = too_large("2");
    insert_all(&scene, topic.name(), &[("k", "1"), ("k", &large), ("k", "3"), ("other", "1")]).await;
    let mut relay = scene.relay().with("relay.on_reject", "block-key").start().await;
    topic.holds(2).await;
    relay.reaches("outboxd_held_lanes", 1.0).await;
    wait::until_true("the held lane is stored", wait::PATIENCE, async || {
        scene.database.number("select count(*) from outbox_held where key = 'k' and from_id = 2").await == 1
    })
    .await;
    assert_eq!(relay.stop().await, Some(0));

    // A restart remembers it; what is written meanwhile waits behind it, and others flow.
    let _relay = scene.relay().with("relay.on_reject", "block-key").start().await;
    insert_all(&scene, topic.name(), &[("k", "4"), ("other", "2")]).await;
    topic.holds(3).await;
    assert_eq!(
        (arrived(&topic, "k").await, arrived(&topic, "other").await),
        (vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
    assert_eq!(scene.database.number("select count(*) from outbox_dead").await, 0);

    let listed = command(&scene, &["held", "ls"]);
    assert!(listed.contains(topic.name()) && listed.contains("key \"k\"") && listed.contains("rejected"), "{listed}");
    topic.set("max.message.bytes", "100000").await;
    let said = command(&scene, &["held", "release", "--topic", topic.name(), "--key", "k"]);
    assert!(said.contains("release of 1"), "{said}");
    topic.holds(6).await;
    assert_eq!(arrived(&topic, "k").await, ["1", "2", "3", "4"]);
    wait::until_true("nothing is held", wait::PATIENCE, async || {
        command(&scene, &["held", "ls"]).starts_with("nothing")
    })
    .await;
    scene.all_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_smaller_than_a_batch_rejects_nobody() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let topic = Topic::create_with(&scene.brokers, 1, "max.message.bytes", LIMIT).await;
    let payload = "x".repeat(1_000);
    let rows: Vec<(&str, &str)> = (0..1_000).map(|_| ("k", payload.as_str())).collect();
    insert_all(&scene, topic.name(), &rows).await;
    let _relay = scene.relay().start().await;
    topic.holds(1_000).await;
    scene.all_settled().await;
    assert_eq!(scene.database.number("select count(*) from outbox_dead").await, 0);
    assert_eq!(topic.count().expect("the broker answers"), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_keys_cost_no_session_each_and_none_of_the_others_dies() {
    const KEYS: i64 = 3_000;
    const ROWS: i64 = 30_000;
    let _machine = machine::shared().await;
    for policy in ["dead-letter", "block-key"] {
        let scene = Scene::set().await;
        let topic = Topic::create_with(&scene.brokers, 6, "max.message.bytes", LIMIT).await;
        let insert = "insert into outbox (topic, key, payload) \
            select $1, 'k' || i % $2, convert_to(repeat('x', case when i % $2 % 100 = 0 then 5000 else 300 end), 'UTF8') \
            from generate_series(1, $3) i order by i";
        let inserted =
            sqlx::query(insert).bind(topic.name()).bind(KEYS).bind(ROWS).execute(scene.database.pool()).await;
        inserted.expect("rows are inserted");
        let poison = ROWS as u64 / 100;
        let relay = scene.relay().with_long_lease().with("relay.on_reject", policy).start().await;
        topic.holds(ROWS as u64 - poison).await;
        // A few may be for other causes, but not one for each of the rows.
        for metric in ["outboxd_sessions_total", "outboxd_producer_rebuilds_total"] {
            let count = relay.metric(metric).await;
            assert!(count < poison as f64 / 10.0, "{policy}: {metric} is {count} after {poison} rejections");
        }
        let dead = "select count(*) from outbox_dead where octet_length(payload) = 300";
        assert_eq!(scene.database.number(dead).await, 0, "a healthy record was given up");
        let given_up = scene.database.number("select count(*) from outbox_dead").await as u64;
        assert_eq!(given_up, if policy == "dead-letter" { poison } else { 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_only_the_broker_can_refuse_are_all_given_up_while_other_topics_flow() {
    let _machine = machine::loaded().await;
    let kafka = Kafka::start_guarded();
    // In a transaction each refusal costs the others of the transaction another one.
    for (delivery, refused) in [("at-least-once", 300), ("exactly-once", 10)] {
        let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
        let topic = Topic::create_with(&scene.brokers, 1, "max.message.bytes", LIMIT).await;
        // The relay cannot know beforehand what is too large.
        let settings = Resource::settings_of(topic.name());
        deny_only(&scene.brokers, "outboxd", &settings).await.expect("the broker answers");
        let insert = "insert into outbox (topic, key, payload) \
            select $1, 'k' || i / 2 % 50, convert_to(repeat('x', case i % 2 when 0 then 5000 else 300 end), 'UTF8') \
            from generate_series(1, 2 * $2) i order by i";
        let inserted = sqlx::query(insert).bind(topic.name()).bind(refused).execute(scene.database.pool()).await;
        inserted.expect("rows are inserted");
        let writers = scene.steady_writers().start(&scene.seed).await;
        let relay = Daemon::new(scene.database.url(), &kafka.secure()).with_login("PLAIN", "outboxd");
        let relay = relay.with_long_lease().with("relay.delivery", delivery).start().await;
        let began = Instant::now();
        let kept = "select count(*) from outbox_dead where code = 'message_too_large' and octet_length(payload) = 5000";
        wait::until_true("all are given up", wait::LONG_PATIENCE, async || {
            scene.database.number(kept).await == i64::from(refused)
        })
        .await;
        let (took, others) = (began.elapsed(), scene.topic.count().expect("the broker answers"));
        let ledger = writers.stop().await;
        let written = ledger.rows_of(scene.topic.name());
        println!(
            "{delivery}: {refused} given up in {took:?}; {others} of {written} of another topic published by then"
        );
        scene.all_settled().await;
        scene.audit(&ledger).await.assert_complete_and_ordered();
        assert_eq!(scene.database.number("select count(*) from outbox_dead").await, i64::from(refused), "{delivery}");
        // With exactly-once the position moves on in a session of its own once a lane has come out.
        if delivery == "at-least-once" {
            let sessions = relay.metric("outboxd_sessions_total").await;
            assert!(sessions < 10.0, "{sessions} sessions for {refused} refusals");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_would_forge_the_progress_is_a_dead_letter_and_nothing_is_lost() {
    let _machine = machine::shared().await;
    for delivery in ["at-least-once", "fenced", "exactly-once"] {
        let scene = Scene::set().await;
        let progress = Topic::missing(&scene.brokers, 16);
        let relay = scene.relay().with("relay.delivery", delivery).with("relay.progress_topic", progress.name());
        let relay = relay.with("outbox.source", "victim").with("relay.on_missing_topic", "create");
        let mut first = relay.start().await;
        scene.insert("k", "1").await;
        scene.topic.holds(1).await;
        // It says that everything up to far ahead is published.
        let forged = r#"{"version":1,"term":1,"partitions":16,"position":"1:99999999:","beyond":[]}"#;
        insert_all(&scene, progress.name(), &[("victim", forged)]).await;
        first.reaches("outboxd_rejected_total", 1.0).await;
        first.kill();
        scene.insert("k", "2").await;
        let _second = relay.start().await;
        // What marks the end of a transaction takes an offset, too, so that these do not tell.
        wait::until_true("the second row arrives", wait::PATIENCE, async || {
            arrived(&scene.topic, "k").await.len() >= 2
        })
        .await;
        assert_eq!(arrived(&scene.topic, "k").await, ["1", "2"], "{delivery}");
        let kept = "select count(*) from outbox_dead where code = 'reserved_topic'";
        assert_eq!(scene.database.number(kept).await, 1, "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_for_topics_that_the_operator_has_not_named_are_dead_letters() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let other = Topic::create(&scene.brokers, 1).await;
    let relay = scene.relay().with("outbox.topics", scene.topic.name()).start().await;
    insert_all(&scene, other.name(), &[("k", "1")]).await;
    scene.insert("k", "2").await;
    scene.topic.holds(1).await;
    relay.reaches("outboxd_dead_letters", 1.0).await;
    assert_eq!(other.count().expect("the broker answers"), 0);
    let kept = "select count(*) from outbox_dead where code = 'topic_not_allowed' and message like '%outbox.topics%'";
    assert_eq!(scene.database.number(kept).await, 1);
}
