//! What the broker refuses though it was not foreseen: exactly the records at fault are rejected, in every mode, and the
//! others flow. On Apache Kafka.

use std::collections::{HashMap, HashSet};

use outboxd::contract::Sink as _;
use outboxd::outbox::Delivery;
use tokio::time::Instant;

use super::*;

const MODES: [Delivery; 3] = Delivery::ALL;

/// Bytes that no codec makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn sink(properties: &BTreeMap<String, String>, delivery: Delivery) -> Sink {
    Sink::new(Settings { delivery, ..Settings::new(properties.clone(), unique("source")) }).expect("valid settings")
}

/// What became of records, and what it took.
#[derive(Debug, Default)]
struct Drive {
    rejected: Vec<(i64, &'static str)>,
    /// How often the sink had to be opened anew.
    reopened: usize,
    /// When the last record of a lane without a rejected one was delivered.
    others_done: Duration,
    took: Duration,
}

/// Publishes as the relay does: in submissions of so many, reading again what did not get through; a rejected record
/// is given up.
async fn drive(sink: &mut Sink, records: &[Record], size: usize) -> Drive {
    let (began, mut drive) = (Instant::now(), Drive::default());
    let mut left: Vec<Record> = records.to_vec();
    let mut delivered_at: HashMap<i64, Duration> = HashMap::new();
    while !left.is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} records do not get through", left.len());
        let mut gone = HashSet::new();
        let mut is_anew = false;
        let mut receipts = Vec::new();
        for chunk in left.chunks(size) {
            match sink.submit(chunk, None).await {
                Ok(receipt) => receipts.push((chunk, receipt)),
                Err(_to_be_opened_anew) => {
                    sink.abort();
                    is_anew = true;
                    break;
                }
            }
        }
        for (chunk, receipt) in receipts {
            for (record, outcome) in chunk.iter().zip(within(receipt).await) {
                match outcome {
                    Outcome::Delivered { .. } => {
                        gone.insert(record.id);
                        delivered_at.insert(record.id, began.elapsed());
                    }
                    Outcome::Rejected(rejection) => {
                        gone.insert(record.id);
                        drive.rejected.push((record.id, rejection.code));
                        is_anew = true;
                    }
                    Outcome::Held(_) | Outcome::Unknown => is_anew = true,
                }
            }
        }
        left.retain(|record| !gone.contains(&record.id));
        if is_anew {
            within(sink.open(TERM, None)).await.expect("opens");
            drive.reopened += 1;
        }
    }
    let bad: HashSet<i64> = drive.rejected.iter().map(|(id, _)| *id).collect();
    let bad: HashSet<&str> = records.iter().filter(|r| bad.contains(&r.id)).filter_map(|r| r.key.as_deref()).collect();
    let others = records.iter().filter(|record| !bad.contains(record.key.as_deref().unwrap_or_default()));
    drive.others_done = others.filter_map(|record| delivered_at.get(&record.id)).max().copied().unwrap_or_default();
    drive.rejected.sort_unstable();
    drive.took = began.elapsed();
    drive
}

/// That every key's first arrivals are in order, and that exactly these ids did not arrive.
fn assert_in_order_without(consumed: &[Consumed], ids: std::ops::Range<i64>, missing: &[i64]) {
    let mut seen = HashSet::new();
    for (key, arrived) in by_key(consumed) {
        let first: Vec<i64> = arrived.into_iter().filter(|id| seen.insert(*id)).collect();
        assert!(first.is_sorted(), "key {}: {first:?}", String::from_utf8_lossy(&key));
    }
    let absent: Vec<i64> = ids.filter(|id| !seen.contains(id)).collect();
    assert_eq!(absent, missing);
}

fn larger(record: &mut Record, bytes: usize) {
    record.payload = Some(noise(bytes));
}

#[tokio::test]
async fn a_limit_lowered_behind_our_back_rejects_exactly_the_records_above_it() {
    for delivery in MODES {
        let (broker, topic) = (testbed(), unique("lowered"));
        create_topic(&broker, &topic, 3, &[("max.message.bytes", "500000")]).await;
        let mut sink = sink(&broker, delivery);
        sink.open(TERM, None).await.expect("opens");
        assert!(publish(&mut sink, &records(0..300, &topic, 300)).await.iter().all(is_delivered));
        set_topic_limit(&broker, &topic, "3000").await;
        let mut batch = records(300..3_300, &topic, 100);
        [1_000, 1_001, 2_000].iter().for_each(|at: &usize| larger(&mut batch[*at], 5_000));
        let drive = drive(&mut sink, &batch, 1_000).await;
        eprintln!("{delivery}: a lowered limit: {drive:?}");
        let culprits = [1_300, 1_301, 2_300];
        assert_eq!(drive.rejected, culprits.map(|id| (id, "message_too_large")));
        assert_in_order_without(&read(&broker, &topic).await, 0..3_300, &culprits);
    }
}

#[tokio::test]
async fn where_only_the_broker_can_tell_exactly_the_records_at_fault_are_rejected_and_the_others_flow() {
    for delivery in MODES {
        let (mut broker, topic) = (testbed(), unique("compressed"));
        create_topic(&broker, &topic, 3, &[("max.message.bytes", "20000")]).await;
        broker.insert("compression.type".to_owned(), "zstd".to_owned());
        let mut sink = sink(&broker, delivery);
        sink.open(TERM, None).await.expect("opens");
        let mut batch = records(0..3_000, &topic, 100);
        [1_000, 1_050, 2_000].iter().for_each(|at: &usize| larger(&mut batch[*at], 30_000));
        let drive = drive(&mut sink, &batch, 1_000).await;
        eprintln!("{delivery}: only the broker can tell: {drive:?}");
        let culprits = [1_000, 1_050, 2_000];
        assert_eq!(drive.rejected, culprits.map(|id| (id, "message_too_large")));
        assert_in_order_without(&read(&broker, &topic).await, 0..3_000, &culprits);
    }
}

#[tokio::test]
async fn a_key_that_is_refused_again_and_again_costs_one_producer() {
    for delivery in MODES {
        let (mut broker, topic) = (testbed(), unique("poisoned"));
        create_topic(&broker, &topic, 3, &[("max.message.bytes", "20000")]).await;
        broker.insert("compression.type".to_owned(), "zstd".to_owned());
        let mut sink = sink(&broker, delivery);
        sink.open(TERM, None).await.expect("opens");
        let mut batch = records(0..2_000, &topic, 100);
        let culprits: Vec<i64> = (0..2_000).filter(|id| id % 100 == 7).collect();
        culprits.iter().for_each(|id| larger(&mut batch[*id as usize], 30_000));
        let began = Instant::now();
        let mut rebuilt = 0;
        let mut rejected = Vec::new();
        for chunk in batch.chunks(100) {
            let drive = drive(&mut sink, chunk, 100).await;
            // Opened anew for each rejection, as the contract has it; beyond that only while no record was suspected.
            rebuilt += drive.reopened - drive.rejected.len();
            rejected.extend(drive.rejected.into_iter().map(|(id, _)| id));
        }
        eprintln!("{delivery}: a poisoned key: {:?} for {} rejections", began.elapsed(), culprits.len());
        assert_eq!(rejected, culprits);
        assert_eq!(rebuilt, 1);
        assert_in_order_without(&read(&broker, &topic).await, 0..2_000, &culprits);
    }
}

#[tokio::test]
async fn a_record_without_a_key_to_a_compacted_topic_is_rejected_before_it_is_sent() {
    let (broker, topic) = (testbed(), unique("compacted"));
    create_topic(&broker, &topic, 1, &[("cleanup.policy", "compact")]).await;
    let mut sink = sink(&broker, Delivery::AtLeastOnce);
    sink.open(TERM, None).await.expect("opens");
    let keyless = Record { key: None, ..record(2, &topic, "") };
    let batch = [record(1, &topic, "a"), keyless, record(3, &topic, "a")];
    let refusals = within(sink.examine(&batch)).await.expect("examined");
    assert!(matches!(&refusals[..], [refusal] if refusal.index == 1 && refusal.rejection.code == "missing_key"));
    let outcomes = publish(&mut sink, &batch).await;
    assert!(is_delivered(&outcomes[0]) && is_delivered(&outcomes[2]), "{outcomes:?}");
    assert!(matches!(&outcomes[1], Outcome::Rejected(rejection) if rejection.message.contains("cleanup.policy")));
}

#[tokio::test]
async fn a_topic_that_was_compacted_behind_our_back_rejects_exactly_the_records_without_a_key() {
    for delivery in MODES {
        let (broker, topic) = (testbed(), unique("turned"));
        create_topic(&broker, &topic, 1, &[]).await;
        let mut sink = sink(&broker, delivery);
        sink.open(TERM, None).await.expect("opens");
        assert!(publish(&mut sink, &records(0..10, &topic, 10)).await.iter().all(is_delivered));
        set_topic(&broker, &topic, "cleanup.policy", "compact").await;
        let mut batch = records(10..510, &topic, 50);
        let culprits = [200, 333];
        culprits.iter().for_each(|id: &i64| batch[*id as usize - 10].key = None);
        let drive = drive(&mut sink, &batch, 500).await;
        eprintln!("{delivery}: compacted meanwhile: {drive:?}");
        assert_eq!(drive.rejected.iter().map(|(id, _)| *id).collect::<Vec<_>>(), culprits);
        assert_in_order_without(&read(&broker, &topic).await, 0..510, &culprits);
    }
}
