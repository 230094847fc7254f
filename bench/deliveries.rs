//! `cargo bench --bench deliveries -- [RECORDS]`: how fast the Kafka sink publishes with each strength of delivery, by
//! the size of a submission, with the services of `testbed/env`.
//!
//! With at-least-once delivery many submissions are under way at once; with the other two each is a transaction, and
//! the next begins when it is committed. All sizes of one strength are run in turn with those of the others.

use std::collections::{BTreeMap, VecDeque};

use outboxd::contract::{Outcome, Sink as _};
use outboxd::kafka::{ProgressTopic, Settings, Sink};
use outboxd::outbox::{Delivery, Position, Record, Term};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio::time::Instant;
use uuid::Uuid;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const PARTITIONS: i32 = 12;
const SIZES: [usize; 5] = [10, 100, 1_000, 5_000, 10_000];

/// Records that may be under way at once, as in the relay.
const IN_FLIGHT: usize = 30_000;

#[tokio::main]
async fn main() -> Fallible<()> {
    let most: usize = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(300_000);
    let brokers = std::env::var("OUTBOXD_TEST_KAFKA").map_err(|_| "OUTBOXD_TEST_KAFKA is not set: use `make bench`")?;
    println!("{PARTITIONS} partitions, records of 300 bytes with 3 headers of their own and 3 of the relay's.\n");
    println!("| records a submission | {} |", Delivery::ALL.map(Delivery::as_str).join(" | "));
    println!("|---|---|---|---|");
    for size in SIZES {
        let mut row = Vec::new();
        for delivery in Delivery::ALL {
            // Small transactions are slow: a few hundred of them say as much.
            let records = most.min(if delivery.fences() { size * 300 } else { size * 30_000 });
            let (rate, each) = run(&brokers, delivery, size, records).await?;
            row.push(format!("{rate:.0}/s ({each:.1} ms each)"));
        }
        println!("| {size} | {} |", row.join(" | "));
    }
    Ok(())
}

/// Records a second, and milliseconds from one submission to the next.
async fn run(brokers: &str, delivery: Delivery, size: usize, records: usize) -> Fallible<(f64, f64)> {
    let name = format!("bench.deliveries.{}", Uuid::new_v4().simple());
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topic = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await?;
    let properties = BTreeMap::from([("bootstrap.servers".to_owned(), brokers.to_owned())]);
    let progress_topic = ProgressTopic { name: "bench.progress".to_owned(), replication: 1 };
    let mut sink = Sink::new(Settings { delivery, progress_topic, ..Settings::new(properties, name.clone()) })?;
    sink.open(Term(1), None).await?;

    let batch: Vec<Record> = (0..size).map(|number| record(&name, number)).collect();
    let mut receipts = VecDeque::new();
    let mut began = Instant::now();
    let submissions = records.div_ceil(size);
    let warm_up = submissions.div_ceil(10);
    for number in 0..warm_up + submissions {
        if number == warm_up {
            drain(&mut receipts).await;
            began = Instant::now();
        }
        let after = Position::new(format!("{number}:{number}:"));
        receipts.push_back(sink.submit(&batch, Some(&after)).await?);
        if receipts.len() * size > IN_FLIGHT {
            let oldest = receipts.pop_front().ok_or("it was just pushed")?;
            all_delivered(&oldest.await);
        }
    }
    drain(&mut receipts).await;
    let took = began.elapsed().as_secs_f64();
    drop(sink);
    admin.delete_topics(&[&name], &AdminOptions::new()).await?;
    Ok(((submissions * size) as f64 / took, took * 1e3 / submissions as f64))
}

async fn drain(receipts: &mut VecDeque<outboxd::contract::Receipt>) {
    while let Some(receipt) = receipts.pop_front() {
        all_delivered(&receipt.await);
    }
}

fn all_delivered(outcomes: &[Outcome]) {
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered { .. })), "a record was not delivered");
}

fn record(topic: &str, number: usize) -> Record {
    let header = |name: &str| (name.to_owned(), Some("0af7651916cd43dd8448eb211c80319c".to_owned()));
    Record {
        id: number as i64,
        event_id: Uuid::now_v7(),
        topic: topic.into(),
        key: Some(format!("key-{}", number % 10_000)),
        payload: Some(vec![b'x'; 300]),
        headers: vec![header("a"), header("b"), header("c")],
        partition: None,
        created_at: chrono::DateTime::from_timestamp_millis(1_700_000_000_000).expect("a time"),
    }
}
