//! Rows that cannot be read, or are larger than memory may be, in a file that takes anything.

use sqlx::AssertSqlSafe;

use super::File;
use crate::support::daemon::Daemon;
use crate::support::kafka::{Topic, header};
use crate::support::{machine, services, wait};

/// Rows that cannot be read, as columns and values; `TOPIC` and `LANE` stand for names of the test's.
const POISON: [(&str, &str); 18] = [
    ("topic, key, headers", "'TOPIC', 'LANE', '[]'"),
    ("topic, key, headers", "'TOPIC', 'LANE', 'nonsense'"),
    ("topic, key, headers", "'TOPIC', 'LANE', 7"),
    ("topic, key, headers", r#"'TOPIC', 'LANE', '{"a": "\ud800"}'"#),
    ("topic, key, headers", "'TOPIC', 'LANE', x'00'"),
    ("topic, key, headers", "'TOPIC', 'LANE', cast('{}' as blob)"),
    ("topic, key, headers", "'TOPIC', 'LANE', cast(x'7b2261223a22ff227d' as text)"),
    ("topic, key, created_at", "'TOPIC', 'LANE', 'whenever'"),
    ("topic, key, event_id", "'TOPIC', 'LANE', 'no UUID'"),
    ("topic, key, event_id", "'TOPIC', 'LANE', x'00112233445566778899aabbccddeeff'"),
    ("topic, key", "'TOPIC', cast(x'ff' as text)"),
    ("topic, key", "'TOPIC', x'01'"),
    ("topic, key", "x'01', 'LANE'"),
    ("topic, key", "cast(x'ff' as text), 'LANE'"),
    ("topic, key, partition", "'TOPIC', 'LANE', -1"),
    ("topic, key, partition", "'TOPIC', 'LANE', 1099511627776"),
    ("topic, key, partition", "'TOPIC', 'LANE', 1.5"),
    ("topic, key, partition", "'TOPIC', 'LANE', 'first'"),
];

/// How many of them, the first ones, say legibly in which lane they stand.
const IN_A_LANE: u64 = 10;

/// An outbox, a topic, and the relay between them.
struct Shop {
    file: File,
    topic: Topic,
    relay: Daemon,
}

impl Shop {
    async fn open() -> Self {
        let brokers = services::kafka();
        let topic = Topic::create(&brokers, 3).await;
        let file = File::migrated().await;
        // What Kafka remembers of another file of this name is none of this one's business.
        let relay = Daemon::new(&file.url(), &brokers).with("outbox.source", topic.name());
        Self { file, topic, relay }
    }

    /// Inserts a row as one may that does not care for constraints.
    async fn insert(&self, columns: &str, values: &str, lane: &str) {
        let values = values.replace("TOPIC", self.topic.name()).replace("LANE", lane);
        let sql = format!("pragma ignore_check_constraints = on; insert into outbox ({columns}) values ({values})");
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.file.connect().await).await;
        done.expect("a row is inserted");
    }

    async fn good(&self, lane: &str) {
        self.insert("topic, key, payload", "'TOPIC', 'LANE', 'good'", lane).await;
    }

    /// Of each kind one row that cannot be read, each in a lane of its own with a good row before and after it.
    async fn poison(&self) {
        for (lane, (columns, values)) in POISON.iter().enumerate() {
            let lane = format!("lane-{lane}");
            self.good(&lane).await;
            self.insert(columns, values, &lane).await;
            self.good(&lane).await;
        }
    }

    async fn answers(&self, question: &'static str, answer: u64) {
        let asked = async || self.file.number(question).await == answer as i64;
        wait::until_true(question, wait::PATIENCE, asked).await;
    }

    async fn flows(&self, records: u64) {
        self.good("another lane").await;
        self.topic.shows(records).await;
    }
}

const UNREADABLE: &str = "select count(*) from outbox_dead where code = 'unreadable' and message <> ''";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_a_dead_letter_and_every_other_row_is_published() {
    let rows = POISON.len() as u64;
    for delivery in ["at-least-once", "exactly-once"] {
        let _machine = machine::shared().await;
        let shop = Shop::open().await;
        shop.poison().await;
        let relay = shop.relay.clone().with("relay.delivery", delivery).with("dead_letter.topic", "{topic}.dlq");
        let mut running = relay.start().await;
        shop.topic.holds(2 * rows).await;
        shop.answers(UNREADABLE, rows).await;
        shop.answers("select count(*) from outbox where sent_at is null", 0).await;
        shop.answers("select count(*) from outbox_dead where dead_letter_topic is not null", 0).await;
        assert_eq!(running.stop().await, Some(0), "{delivery}");
        let mut running = relay.start().await;
        shop.flows(2 * rows + 1).await;
        assert_eq!(running.stop().await, Some(0), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_blocks_its_own_lane() {
    let _machine = machine::shared().await;
    let shop = Shop::open().await;
    shop.poison().await;
    let rows = POISON.len() as u64;
    let relay = shop.relay.clone().with("relay.on_reject", "block-key");
    let mut running = relay.start().await;
    shop.topic.holds(2 * rows - IN_A_LANE).await;
    shop.answers("select count(*) from outbox_held where cause = 'rejected'", IN_A_LANE).await;
    shop.answers(UNREADABLE, rows - IN_A_LANE).await;
    assert_eq!(running.stop().await, Some(0));
    let mut running = relay.start().await;
    shop.flows(2 * rows - IN_A_LANE + 1).await;
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_values_arrive_as_they_are_written() {
    let _machine = machine::shared().await;
    let shop = Shop::open().await;
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let values = ["1.10", "123456789012345678901234567890", "1e400", "[1,  true]", r#"["\ud800"]"#, &deep];
    let headers: Vec<_> = values.iter().enumerate().map(|(at, value)| format!("\"h{at}\": {value}")).collect();
    shop.insert("topic, headers", &format!("'TOPIC', '{{{}}}'", headers.join(", ")), "").await;
    let _relay = shop.relay.start().await;
    let mut tail = shop.topic.follow();
    let record = tail.records(1).await.last().expect("a record");
    for (at, value) in values.iter().enumerate() {
        assert_eq!(header(record, &format!("h{at}")), Some(*value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_larger_than_memory_are_dead_letters_without_being_loaded() {
    let _machine = machine::shared().await;
    let shop = Shop::open().await;
    // As many bytes of text as SQLite makes of zeros.
    let large = "replace(hex(zeroblob(20000000)), '00', 'xx')";
    shop.good("k").await;
    for values in [
        format!("'TOPIC', 'k', {large}, '{{}}'"),
        format!("'TOPIC', 'k', 'x', '{{\"a\": \"' || {large} || '\"}}'"),
        format!("'TOPIC', {large}, 'x', '{{}}'"),
    ] {
        shop.insert("topic, key, payload, headers", &values, "k").await;
        shop.good("k").await;
    }
    let mut running = shop.relay.clone().with("dead_letter.topic", "{topic}.dlq").start().await;
    shop.topic.holds(4).await;
    shop.answers("select count(*) from outbox_dead where code = 'message_too_large'", 3).await;
    shop.answers("select count(*) from outbox where sent_at is null", 0).await;
    let peak = running.peak_memory();
    println!("at most {} MB resident", peak / 1_000_000);
    assert_eq!(running.stop().await, Some(0));
    // SQLite works inside the process: to move a row it holds it twice.
    assert!(peak < (2 * 40_000_000) + (64 << 20), "{peak} bytes were resident");
}
