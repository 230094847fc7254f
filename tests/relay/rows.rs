//! Rows that cannot be read, or are larger than memory may be: they concern their own lanes, and the process goes on.

use std::time::Duration;

use rdkafka::Message;

use crate::support::daemon::Running;
use crate::support::kafka::{Topic, header, text};
use crate::support::scene::Scene;
use crate::support::{machine, services, wait};

/// Rows that cannot be read, as columns and values; `TOPIC` and `LANE` stand for names of the test's. The outbox's own
/// checks let none of them in: they were dropped.
const POISON: [(&str, &str); 7] = [
    ("topic, key, headers", "'TOPIC', 'LANE', '[1]'"),
    ("topic, key, headers", "'TOPIC', 'LANE', '7'"),
    ("topic, key, headers", "'TOPIC', 'LANE', 'null'"),
    ("topic, key, headers", r#"'TOPIC', 'LANE', '"{}"'"#),
    ("topic, key, partition", "'TOPIC', 'LANE', -1"),
    ("topic, key, partition", "'TOPIC', 'LANE', -2147483648"),
    ("topic, key", "repeat('t', 250), 'LANE'"),
];

/// How many of them, the first ones, say legibly in which lane they stand.
const IN_A_LANE: u64 = 4;

const DROPPED: &str = "alter table outbox drop constraint headers_are_an_object, drop constraint topic_is_a_kafka_topic, \
    drop constraint partition_is_not_negative";

/// Of each kind one row that cannot be read, each in a lane of its own with a good row before and after it.
async fn poisoned() -> Scene {
    let scene = Scene::set().await;
    scene.database.run(DROPPED).await;
    for (lane, (columns, values)) in POISON.iter().enumerate() {
        let lane = format!("lane-{lane}");
        scene.insert(&lane, "before").await;
        let values = values.replace("TOPIC", scene.topic.name()).replace("LANE", &lane);
        scene.database.run(&format!("insert into outbox ({columns}) values ({values})")).await;
        scene.insert(&lane, "after").await;
    }
    scene
}

/// Waits until a question has this answer, and no other one after it.
async fn answers(scene: &Scene, question: &str, answer: u64) {
    let asked = async || scene.database.number(question).await == answer as i64;
    wait::until_true(question, wait::PATIENCE, asked).await;
}

/// A row of a lane that nothing is wrong with still flows.
async fn flows(scene: &Scene, records: u64) {
    scene.insert("another lane", "healthy").await;
    scene.topic.shows(records).await;
}

const UNREADABLE: &str = "select count(*) from outbox_dead where code = 'unreadable' and message <> ''";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_a_dead_letter_and_every_other_row_is_published() {
    let rows = POISON.len() as u64;
    for delivery in ["at-least-once", "fenced", "exactly-once"] {
        let _machine = machine::shared().await;
        let scene = poisoned().await;
        let relay = scene.relay().with("relay.delivery", delivery).with("dead_letter.topic", "{topic}.dlq");
        let mut running = relay.start().await;
        scene.topic.holds(2 * rows).await;
        answers(&scene, UNREADABLE, rows).await;
        scene.all_settled().await;
        running.reaches("outboxd_rejected_total", rows as f64).await;
        // The relay could not publish them to their topic either, and they say so.
        answers(&scene, "select count(*) from outbox_dead where dead_letter_topic is not null", 0).await;

        // After a restart nothing comes again and the rest flows on.
        assert_eq!(running.stop().await, Some(0), "{delivery}");
        let mut running = relay.start().await;
        flows(&scene, 2 * rows + 1).await;
        assert_eq!(running.stop().await, Some(0), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_blocks_its_own_lane_until_it_is_corrected() {
    let _machine = machine::shared().await;
    let scene = poisoned().await;
    let rows = POISON.len() as u64;
    let relay = scene.relay().with("relay.on_reject", "block-key");
    let mut running = relay.start().await;
    scene.topic.holds(2 * rows - IN_A_LANE).await;
    answers(&scene, "select count(*) from outbox_held where cause = 'rejected'", IN_A_LANE).await;
    // What stands in no lane is a dead letter.
    answers(&scene, UNREADABLE, rows - IN_A_LANE).await;
    assert_eq!(running.stop().await, Some(0));
    let mut running = relay.start().await;
    flows(&scene, 2 * rows - IN_A_LANE + 1).await;

    // Once they are corrected and released they come, in order.
    let correct = "update outbox set headers = '{}', payload = 'corrected' where sent_at is null and payload is null";
    scene.database.run(correct).await;
    scene.database.run("update outbox_held set release_requested = true").await;
    scene.topic.holds(2 * rows + IN_A_LANE + 1).await;
    let mut lane = Vec::new();
    let of_a_lane = |record: &rdkafka::message::BorrowedMessage<'_>| record.key() == Some(&b"lane-0"[..]);
    scene.topic.read(|record| lane.extend(of_a_lane(record).then(|| text(record)))).await;
    assert_eq!(lane, ["before", "corrected", "after"]);
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_halts_for_a_row_that_cannot_be_read_says_which_and_why() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    scene.database.run(DROPPED).await;
    scene.insert("k", "before").await;
    let poison =
        format!("insert into outbox (topic, key, headers) values ('{}', 'k', '\"secret\"')", scene.topic.name());
    scene.database.run(&poison).await;
    let mut running = scene.relay().with("relay.on_reject", "halt").spawn();
    assert_eq!(running.ended().await.code(), Some(1));
    let log = running.log();
    assert!(log.contains("record 2") && log.contains("unreadable") && log.contains("JSON object"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_values_arrive_as_the_database_writes_them() {
    let deep = "[".repeat(1_000) + &"]".repeat(1_000);
    let large = format!("1{}", "0".repeat(400));
    // As it is written into the row, and as it arrives.
    let values = [
        ("1.10", "1.10"),
        ("-0.0", "0.0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e400", &large),
        ("true", "true"),
        (r#"[1, {"a": "ü"}]"#, r#"[1, {"a": "ü"}]"#),
        (&deep, &deep),
        (r#""te\"xt""#, "te\"xt"),
    ];
    for server in [services::postgres(), services::postgres_13()] {
        let _machine = machine::shared().await;
        let scene = Scene::set_on(&server).await;
        let headers: Vec<_> =
            values.iter().enumerate().map(|(at, (written, _))| format!("\"h{at}\": {written}")).collect();
        let insert = sqlx::query("insert into outbox (topic, key, headers) values ($1, 'k', $2::jsonb)");
        let insert = insert.bind(scene.topic.name()).bind(format!("{{{}}}", headers.join(", ")));
        insert.execute(scene.database.pool()).await.expect("a row is inserted");
        let _relay = scene.relay().start().await;
        let mut tail = scene.topic.follow();
        let record = tail.records(1).await.last().expect("a record");
        for (at, (_, arrives)) in values.iter().enumerate() {
            assert_eq!(header(record, &format!("h{at}")), Some(*arrives));
        }
    }
}

/// More memory than the relay may take with rows of any size.
const MEMORY: u64 = 128 << 20;

/// Rows of which one alone would be more.
const LARGE: [(&str, &str); 4] = [
    ("payload", "convert_to(repeat('x', 120000000), 'UTF8')"),
    ("headers", "jsonb_build_object('x', repeat('y', 100000000))"),
    // A number of 12 bytes is 131,072 long as text.
    ("headers", "jsonb_build_object('x', array(select 1e131071 from generate_series(1, 2000)))"),
    ("key", "repeat('k', 100000000)"),
];

#[tokio::test(flavor = "multi_thread")]
async fn rows_larger_than_memory_are_dead_letters_without_being_loaded() {
    for server in [services::postgres(), services::postgres_13()] {
        let _machine = machine::shared().await;
        let scene = Scene::set_on(&server).await;
        let letters = Topic::missing_named(&scene.brokers, format!("{}.dlq", scene.topic.name()), 3);
        letters.appear().await;
        scene.insert("k", "before").await;
        for (column, value) in LARGE {
            let insert = format!("insert into outbox (topic, {column}) values ('{}', {value})", scene.topic.name());
            scene.database.run(&insert).await;
            scene.insert("k", "after").await;
        }
        let rows = LARGE.len() as u64;
        let relay = scene.relay().with("dead_letter.topic", "{topic}.dlq");
        let mut running = relay.start().await;
        scene.topic.holds(rows + 1).await;
        let question = "select count(*) from outbox_dead where code = 'message_too_large' \
            and message like '%relay.record.bytes%' and message like '%not published to%'";
        answers(&scene, question, rows).await;
        scene.all_settled().await;
        let kept = "select count(*) from outbox_dead where octet_length(payload) = 120000000 \
            or octet_length(key) = 100000000 or octet_length(headers::text) > 100000000";
        answers(&scene, kept, rows).await;
        let peak = peak(&running);
        assert!(peak < MEMORY, "{peak} bytes were resident");
        assert_eq!(running.stop().await, Some(0));
    }
}

fn peak(running: &Running) -> u64 {
    let peak = running.peak_memory();
    println!("at most {} MB resident", peak / 1_000_000);
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_rows_and_dead_letters_take_no_more_memory_than_one() {
    const ROWS: u64 = 60;
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let topic = Topic::create_with(&scene.brokers, 3, "max.message.bytes", "12000000").await;
    let letters = Topic::missing_named(&scene.brokers, format!("{}.dlq", topic.name()), 3);
    letters.make(&[("max.message.bytes", "20000000")]).await;
    // Half of them fit their topic, half only that of the dead letters; a key and headers as large as a payload.
    let insert = "insert into outbox (topic, key, payload, headers) \
        select $1, case when n % 4 = 0 then repeat('k', 10000000) end, \
            case n % 4 when 1 then convert_to(repeat('x', 10000000), 'UTF8') when 3 then convert_to(repeat('x', 13000000), 'UTF8') end, \
            case when n % 4 = 2 then jsonb_build_object('x', repeat('y', 13000000)) else '{}' end \
        from generate_series(1, $2) n";
    let inserted = sqlx::query(insert).bind(topic.name()).bind(ROWS as i32).execute(scene.database.pool()).await;
    inserted.expect("rows are inserted");
    let mut running = scene.relay().with("dead_letter.topic", "{topic}.dlq").start().await;
    topic.holds(ROWS / 2).await;
    letters.holds(ROWS / 2).await;
    wait::until_true("all are recorded", Duration::from_secs(60), async || {
        scene.database.number("select count(*) from outbox_dead where published_at is not null").await
            == ROWS as i64 / 2
    })
    .await;
    let peak = peak(&running);
    // In flight, in the client of the records and in that of the dead letters, and one of each on its way.
    assert!(peak < 3 * MEMORY, "{peak} bytes were resident");
    assert_eq!(running.stop().await, Some(0));
}
