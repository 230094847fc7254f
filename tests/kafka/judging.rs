//! Many records that only the broker can refuse: all are found in place, in every mode, the others flow, and the sink is
//! opened anew once and not once a record. On Apache Kafka.

use std::collections::HashSet;

use chrono::{TimeDelta, Utc};
use outboxd::contract::Sink as _;
use outboxd::outbox::{Delivery, HoldCause};

use super::rights::guarded;
use super::*;
use crate::support::wire::{Resource, deny_only};

/// What a topic takes here.
const LIMIT: &str = "3000";

/// What became of records.
#[derive(Debug, Default)]
struct Judged {
    rejected: Vec<i64>,
    held: Vec<i64>,
    /// How often the sink had to be opened anew.
    reopened: usize,
    /// How often lanes had to wait for another turn.
    turns: usize,
}

/// Publishes as the relay does: what is refused beforehand is decided, and left out; what does not get through is read
/// again, but for what waits.
async fn relay(sink: &mut Sink, records: &[Record], size: usize) -> Judged {
    let (mut judged, mut left, mut put_off) = (Judged::default(), records.to_vec(), Vec::new());
    while !left.is_empty() || !put_off.is_empty() {
        if left.is_empty() {
            let lanes: HashSet<Lane> = put_off.iter().filter_map(Record::lane).collect();
            let accepted = within(sink.accepts(lanes.iter().cloned().collect())).await.expect("an answer");
            assert_eq!(HashSet::from_iter(accepted), lanes);
            left.append(&mut put_off);
            judged.turns += 1;
        }
        let mut batch: Vec<Record> = left.drain(..left.len().min(size)).collect();
        let told = loop {
            match within(sink.examine(&batch)).await {
                Ok(refusals) if refusals.is_empty() => break publish_or_reopen(sink, &batch).await,
                Ok(refusals) => {
                    for refusal in refusals.into_iter().rev() {
                        judged.rejected.push(batch.remove(refusal.index).id);
                    }
                }
                Err(_to_be_opened_anew) => {
                    sink.abort();
                    break vec![Outcome::Unknown; batch.len()];
                }
            }
        };
        let mut again = Vec::new();
        for (record, outcome) in batch.into_iter().zip(told) {
            match outcome {
                Outcome::Delivered { .. } => {}
                Outcome::Held(HoldCause::Suspected) => put_off.push(record),
                Outcome::Held(_) => judged.held.push(record.id),
                Outcome::Rejected(_) => judged.rejected.push(record.id),
                Outcome::Unknown => again.push(record),
            }
        }
        if !again.is_empty() {
            within(opened(sink)).await;
            judged.reopened += 1;
            again.append(&mut left);
            left = again;
        }
    }
    judged.rejected.sort_unstable();
    judged
}

fn sink_of(broker: &BTreeMap<String, String>, delivery: Delivery) -> Settings {
    Settings { delivery, ..Settings::new(broker.clone(), unique("source")) }
}

/// The ids that arrived, each key's in order, and each once where that is promised.
fn arrived(consumed: &[Consumed], delivery: Delivery) -> Vec<i64> {
    let mut ids = Vec::new();
    for (_, mut arrived) in by_key(consumed) {
        if delivery == Delivery::AtLeastOnce {
            let mut seen = HashSet::new();
            arrived.retain(|id| seen.insert(*id));
        }
        assert!(arrived.is_sorted(), "{delivery}: out of order: {arrived:?}");
        ids.append(&mut arrived);
    }
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn records_that_only_the_broker_refuses_are_found_without_opening_the_sink_for_each() {
    let (kafka, broker) = guarded();
    let plain = brokers_at(kafka.brokers());
    for (delivery, many) in [(Delivery::AtLeastOnce, 150), (Delivery::Fenced, 8), (Delivery::ExactlyOnce, 8)] {
        let (topic, other) = (unique("refusing"), unique("other"));
        create_topic(&plain, &topic, 1, &[("max.message.bytes", LIMIT)]).await;
        create_topic(&plain, &other, 1, &[]).await;
        deny_only(kafka.brokers(), "outboxd", &Resource::settings_of(&topic)).await.expect("the broker answers");
        let mut sink = open(sink_of(&broker, delivery)).await;
        let is_large = |id: i64| id % 2 == 0;
        let mut all = Vec::new();
        for id in 0..2 * many {
            let mut record = record(id, &topic, &format!("key-{}", id / 2 % 50));
            if is_large(id) {
                record.payload = Some(vec![b'x'; 5_000]);
            }
            all.push(record);
            all.push(self::record(10_000 + id, &other, "k"));
        }
        let judged = relay(&mut sink, &all, 500).await;
        assert_eq!(judged.rejected, (0..2 * many).filter(|id| is_large(*id)).collect::<Vec<_>>(), "{delivery}");
        assert!(judged.reopened <= 2, "{delivery}: opened anew {} times", judged.reopened);
        let small: Vec<i64> = (0..2 * many).filter(|id| !is_large(*id)).collect();
        assert_eq!(arrived(&read(&plain, &topic).await, delivery), small, "{delivery}");
        assert_eq!(
            arrived(&read(&plain, &other).await, delivery),
            (10_000..10_000 + 2 * many).collect::<Vec<_>>(),
            "{delivery}"
        );
    }
}

#[tokio::test]
async fn refused_records_of_one_key_are_judged_in_turns_between_which_the_others_flow() {
    let (kafka, broker) = guarded();
    let plain = brokers_at(kafka.brokers());
    for (delivery, many) in [(Delivery::AtLeastOnce, 250), (Delivery::ExactlyOnce, 8)] {
        let (topic, other) = (unique("refusing"), unique("other"));
        create_topic(&plain, &topic, 1, &[("max.message.bytes", LIMIT)]).await;
        create_topic(&plain, &other, 1, &[]).await;
        deny_only(kafka.brokers(), "outboxd", &Resource::settings_of(&topic)).await.expect("the broker answers");
        let mut sink = open(sink_of(&broker, delivery)).await;
        let large = |id| Record { payload: Some(vec![b'x'; 5_000]), ..record(id, &topic, "one key") };
        let mut all: Vec<Record> = (0..many).map(large).collect();
        all.push(record(many, &topic, "one key"));
        all.push(record(10_000, &other, "k"));
        let judged = relay(&mut sink, &all, 2_000).await;
        assert_eq!(judged.rejected, (0..many).collect::<Vec<_>>(), "{delivery}");
        assert!(judged.turns > 0, "{delivery}: all others waited for {many} refusals");
        assert_eq!(arrived(&read(&plain, &topic).await, delivery), [many], "{delivery}");
        let others = read(&plain, &other).await;
        assert_eq!(arrived(&others, delivery), [10_000], "{delivery}");
    }
}

#[tokio::test]
async fn a_time_that_the_topic_does_not_take_is_no_fault_of_the_record() {
    let (kafka, broker) = guarded();
    let plain = brokers_at(kafka.brokers());
    for (delivery, is_secret) in [
        (Delivery::AtLeastOnce, false),
        (Delivery::AtLeastOnce, true),
        (Delivery::Fenced, true),
        (Delivery::ExactlyOnce, false),
        (Delivery::ExactlyOnce, true),
    ] {
        let topic = unique("times");
        create_topic(&plain, &topic, 1, &[("message.timestamp.before.max.ms", "3600000")]).await;
        if is_secret {
            deny_only(kafka.brokers(), "outboxd", &Resource::settings_of(&topic)).await.expect("the broker answers");
        }
        let mut sink = open(sink_of(&broker, delivery)).await;
        let ages = [TimeDelta::hours(-2), TimeDelta::zero(), TimeDelta::hours(2)];
        let now = Utc::now();
        let written = |id: i64| now + ages[(id % 3) as usize];
        let all = |ids: std::ops::Range<i64>| -> Vec<Record> {
            let dated = |record: Record| Record { created_at: written(record.id), ..record };
            records(ids, &topic, 4).into_iter().map(dated).collect()
        };
        let judged = relay(&mut sink, &all(0..12), 100).await;
        assert!(judged.rejected.is_empty() && judged.reopened <= 1, "{delivery}, {is_secret}: {judged:?}");
        let consumed = read(&plain, &topic).await;
        assert_eq!(arrived(&consumed, delivery), (0..12).collect::<Vec<_>>(), "{delivery}");
        for record in &consumed {
            let id: i64 = record.header("outbox-id").expect("the row's id").parse().expect("a number");
            let original = record.header("outbox-created-at").map(|time| time.parse::<DateTime<Utc>>());
            let expected = (id % 3 != 1).then(|| written(id));
            assert_eq!(original.map(|time| millis(time.expect("a time"))), expected.map(millis), "{delivery}: {id}");
        }
    }
}

#[tokio::test]
async fn a_topic_that_may_not_be_written_to_is_held_and_the_others_flow() {
    let (kafka, broker) = guarded();
    let plain = brokers_at(kafka.brokers());
    for delivery in Delivery::ALL {
        let (topic, other) = (unique("unwritable"), unique("other"));
        create_topic(&plain, &topic, 1, &[]).await;
        create_topic(&plain, &other, 1, &[]).await;
        deny_only(kafka.brokers(), "outboxd", &Resource::writing_to(&topic)).await.expect("the broker answers");
        let mut sink = open(sink_of(&broker, delivery)).await;
        let mut all = records(0..20, &topic, 2);
        all.extend(records(20..40, &other, 2));
        all.sort_by_key(|record| record.id % 20);
        let judged = relay(&mut sink, &all, 10).await;
        assert_eq!(judged.held.len(), 20, "{delivery}: {judged:?}");
        assert!(judged.reopened <= 3, "{delivery}: {judged:?}");
        assert_eq!(arrived(&read(&plain, &other).await, delivery), (20..40).collect::<Vec<_>>(), "{delivery}");
        assert!(read(&plain, &topic).await.is_empty(), "{delivery}");
    }
}
