//! Records that can never be published, and limits of size.

use std::collections::HashSet;

use outboxd::contract::{Outcome, Rejection, Sink as _};
use outboxd::outbox::Record;

use super::*;

fn sized(id: i64, topic: &str, key: &str, bytes: usize) -> Record {
    Record { payload: Some(vec![b'x'; bytes]), ..record(id, topic, key) }
}

fn rejection(outcome: &Outcome) -> &Rejection {
    match outcome {
        Outcome::Rejected(rejection) => rejection,
        other => panic!("{other:?} is no rejection"),
    }
}

#[tokio::test]
async fn a_record_too_large_for_its_topic_is_rejected_unsent_and_nothing_of_its_lane_follows() {
    let (broker, topic) = (testbed(), unique("too-large"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "10000")]).await;
    let mut sink = open(settings(&broker)).await;
    let outcomes = publish(
        &mut sink,
        &[record(1, &topic, "a"), sized(2, &topic, "a", 10_000), record(3, &topic, "a"), record(4, &topic, "b")],
    )
    .await;
    assert!(is_delivered(&outcomes[0]) && is_delivered(&outcomes[3]), "{outcomes:?}");
    let rejection = rejection(&outcomes[1]);
    assert_eq!(rejection.code, "message_too_large");
    for word in [topic.as_str(), "10000", "max.message.bytes"] {
        assert!(rejection.message.contains(word), "{rejection}");
    }
    assert_eq!(outcomes[2], Outcome::Unknown);
    assert_eq!(publish(&mut sink, &[record(5, &topic, "a")]).await, [Outcome::Unknown], "nor in a later submission");
    assert_eq!(read(&broker, &topic).await.len(), 2);

    sink.open(TERM, None).await.expect("opens");
    assert!(publish(&mut sink, &[record(3, &topic, "a")]).await.iter().all(is_delivered));
}

#[tokio::test]
async fn the_largest_record_that_fits_is_published_and_one_byte_more_is_rejected() {
    let (broker, topic) = (testbed(), unique("exact-limit"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "5000")]).await;
    let mut sink = open(settings(&broker)).await;
    let (mut fits, mut too_large) = (0, 5_000);
    let mut id = 0;
    while too_large - fits > 1 {
        let middle = usize::midpoint(fits, too_large);
        id += 1;
        // A key each: a rejection blocks its lane.
        let outcomes = publish(&mut sink, &[sized(1, &topic, &format!("{id:03}"), middle)]).await;
        match &outcomes[0] {
            Outcome::Delivered { .. } => fits = middle,
            Outcome::Rejected(_) => too_large = middle,
            other => panic!("{other:?}: our arithmetic and the broker's differ"),
        }
    }
    // What the broker takes, told by a client that checks nothing.
    let sample = read(&broker, &topic).await.into_iter().last().expect("a record");
    for (size, is_taken) in [(fits, true), (too_large, false)] {
        let (broker, topic, sample) = (broker.clone(), topic.clone(), sample.clone());
        let taken = tokio::task::spawn_blocking(move || broker_takes(&broker, &topic, &sample, size));
        assert_eq!(taken.await.expect("sent"), is_taken, "{size} bytes");
    }
}

/// Whether the broker takes a record like this one with a payload of so many bytes.
fn broker_takes(broker: &BTreeMap<String, String>, topic: &str, sample: &Consumed, size: usize) -> bool {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    let mut config = rdkafka::ClientConfig::new();
    config.extend(broker.clone());
    let context = Judge::default();
    let taken = std::sync::Arc::clone(&context.taken);
    let producer: BaseProducer<Judge> = config.create_with_context(context).expect("a producer");
    let headers = sample.headers.iter().fold(rdkafka::message::OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(rdkafka::message::Header { key, value: value.as_deref() })
    });
    let payload = vec![b'x'; size];
    producer.send(BaseRecord::to(topic).key("000").payload(&payload).headers(headers)).expect("handed over");
    producer.flush(PATIENCE).expect("judged");
    let judged = taken.lock().expect("no panic").take();
    judged.expect("a report")
}

/// Hears whether the one record of a producer was delivered.
#[derive(Default)]
struct Judge {
    taken: std::sync::Arc<std::sync::Mutex<Option<bool>>>,
}

impl rdkafka::ClientContext for Judge {}

impl rdkafka::producer::ProducerContext for Judge {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        *self.taken.lock().expect("no panic") = Some(result.is_ok());
    }
}

#[tokio::test]
async fn batches_stay_below_the_smallest_limit_of_the_topics_in_use() {
    let (broker, large, small) = (testbed(), unique("large"), unique("small"));
    create_topic(&broker, &large, 2, &[]).await;
    create_topic(&broker, &small, 2, &[("max.message.bytes", "20000")]).await;
    let mut sink = open(settings(&broker)).await;
    let kilobyte = |topic: &str, ids: std::ops::Range<i64>| -> Vec<Record> {
        ids.map(|id| sized(id, topic, &format!("key-{}", id % 10), 1_000)).collect()
    };
    let first = within(sink.submit(&kilobyte(&large, 0..2_000), None)).await.expect("taken over");
    let mixed: Vec<Record> = kilobyte(&small, 0..2_000).into_iter().chain(kilobyte(&large, 2_000..4_000)).collect();
    let second = within(sink.submit(&mixed, None)).await.expect("taken over");
    assert!(within(first).await.iter().all(is_delivered));
    assert!(within(second).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&broker, &large).await, 0..4_000);
    assert_whole_and_in_order(&read(&broker, &small).await, 0..2_000);
}

#[tokio::test]
async fn a_topic_that_takes_larger_records_gets_them() {
    let (broker, topic) = (testbed(), unique("huge"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "8000000")]).await;
    let mut sink = open(settings(&broker)).await;
    let records = [record(1, &topic, "a"), sized(2, &topic, "a", 5_000_000), record(3, &topic, "a")];
    assert!(publish(&mut sink, &records).await.iter().all(is_delivered));
    let consumed = read(&broker, &topic).await;
    assert_eq!(consumed.iter().map(|record| record.payload.as_ref().map_or(0, Vec::len)).max(), Some(5_000_000));
    assert_whole_and_in_order(&consumed, 1..4);
}

#[tokio::test]
async fn the_clients_own_limit_is_kept_where_it_is_set() {
    let (broker, topic) = (testbed(), unique("client-limit"));
    create_topic(&broker, &topic, 1, &[]).await;
    let mut properties = broker.clone();
    properties.insert("message.max.bytes".to_owned(), "3000".to_owned());
    let mut sink = open(settings(&properties)).await;
    let outcomes = publish(&mut sink, &[sized(1, &topic, "a", 4_000), record(2, &topic, "b")]).await;
    assert!(rejection(&outcomes[0]).message.contains("message.max.bytes of [kafka]"), "{outcomes:?}");
    assert!(is_delivered(&outcomes[1]));
}

#[tokio::test]
async fn with_compression_the_broker_judges_whether_a_large_record_fits() {
    let (broker, topic) = (testbed(), unique("compressed"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "10000")]).await;
    let mut properties = broker.clone();
    properties.insert("compression.type".to_owned(), "zstd".to_owned());
    let mut sink = open(settings(&properties)).await;
    let outcomes = publish(&mut sink, &[record(1, &topic, "a"), sized(2, &topic, "a", 100_000)]).await;
    assert!(outcomes.iter().all(is_delivered), "{outcomes:?}");
}

#[tokio::test]
async fn names_and_partitions_that_cannot_be_are_rejected_with_what_would_do() {
    let (broker, topic) = (testbed(), unique("partitions"));
    create_topic(&broker, &topic, 2, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let placed = Record { partition: Some(2), ..record(2, &topic, "a") };
    let outcomes = publish(&mut sink, &[record(1, "no such name", "a"), placed, record(3, &topic, "a")]).await;
    assert_eq!(rejection(&outcomes[0]).code, "invalid_topic");
    assert_eq!(rejection(&outcomes[1]).code, "unknown_partition");
    assert!(rejection(&outcomes[1]).message.contains("has 2"), "{outcomes:?}");
    assert!(is_delivered(&outcomes[2]));
}

/// The topic's limit shrinks behind our back: the broker refuses a whole batch, of which one record is at fault.
#[tokio::test]
async fn a_record_that_shares_a_batch_with_one_at_fault_is_not_rejected_and_nothing_passes_it() {
    let (broker, topic) = (testbed(), unique("shrunk"));
    create_topic(&broker, &topic, 1, &[("max.message.bytes", "500000")]).await;
    let mut sink = open(settings(&broker)).await;
    assert!(publish(&mut sink, &[record(0, &topic, "warm")]).await.iter().all(is_delivered));
    set_topic_limit(&broker, &topic, "3000").await;
    let mut batch = records(1..200, &topic, 40);
    batch[100] = sized(101, &topic, "key-21", 5_000);
    let first = publish_or_reopen(&mut sink, &batch).await;
    assert!(!first.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))), "{first:?}");

    within(sink.open(TERM, None)).await.expect("opens");
    let first: BTreeMap<i64, Outcome> = batch.iter().map(|record| record.id).zip(first).collect();
    batch.retain(|record| !is_delivered(&first[&record.id]));
    let second = publish_or_reopen(&mut sink, &batch).await;
    for (record, outcome) in batch.iter().zip(&second) {
        match record.id {
            101 => assert_eq!(rejection(outcome).code, "message_too_large"),
            141 | 181 => assert_eq!(*outcome, Outcome::Unknown, "of the same key"),
            id => assert!(is_delivered(outcome), "record {id}: {outcome:?}"),
        }
    }
    for (_, arrived) in by_key(&read(&broker, &topic).await) {
        let mut seen = HashSet::new();
        let first_arrivals: Vec<i64> = arrived.into_iter().filter(|id| seen.insert(*id)).collect();
        assert!(first_arrivals.is_sorted(), "{first_arrivals:?}");
        assert!(!first_arrivals.iter().any(|id| [101, 141, 181].contains(id)), "{first_arrivals:?}");
    }
}

#[tokio::test]
async fn settings_that_cannot_keep_the_promises_are_refused_all_at_once() {
    let properties = [("bootstrap.servers", "localhost:1"), ("acks", "1"), ("lingr.ms", "5")];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let error = Sink::new(Settings::new(properties, "shop")).err().expect("refused").to_string();
    assert!(error.contains("acks") && error.contains("lingr.ms"), "{error}");
}
