//! What arrives, and in which order.

use std::collections::HashSet;

use outboxd::contract::{Outcome, Sink as _};
use outboxd::outbox::Record;
use rdkafka::producer::{BaseRecord, Producer as _};

use super::*;

#[tokio::test]
async fn bytes_headers_partition_and_time_arrive_exactly_as_written() {
    let (broker, topic) = (testbed(), unique("exact"));
    create_topic(&broker, &topic, 3, &[]).await;
    let full = Record {
        payload: Some((0..=255).collect()),
        headers: vec![
            ("traceparent".to_owned(), Some("00-ab-cd-01".to_owned())),
            ("null".to_owned(), None),
            ("empty".to_owned(), Some(String::new())),
            ("id".to_owned(), Some("written past the checks".to_owned())),
        ],
        ..record(9_000_000_000_000, &topic, "schlüssel")
    };
    let tombstone = Record { payload: None, ..record(2, &topic, "gone") };
    let empty = Record { payload: Some(Vec::new()), key: Some(String::new()), ..record(3, &topic, "") };
    let placed = Record { partition: Some(2), key: None, ..record(4, &topic, "") };
    let records = [full, tombstone, empty, placed];
    let mut sink = open(settings(&broker)).await;
    let outcomes = publish(&mut sink, &records).await;

    let consumed = read(&broker, &topic).await;
    assert_eq!(consumed.len(), records.len());
    for (record, outcome) in records.iter().zip(outcomes) {
        let Outcome::Delivered { partition, offset } = outcome else { panic!("{outcome:?}") };
        let found =
            consumed.iter().find(|c| (c.partition, c.offset) == (partition, offset)).expect("where it was reported");
        assert_eq!(found.key.as_deref(), record.key.as_deref().map(str::as_bytes));
        assert_eq!(found.payload, record.payload);
        assert_eq!(found.timestamp, Some(millis(record.created_at)));
        if let Some(partition) = record.partition {
            assert_eq!(found.partition, partition);
        }
        let own = [
            ("id", record.event_id.hyphenated().to_string()),
            ("outbox-id", record.id.to_string()),
            ("outbox-source", "shop.public.outbox".to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), Some(value)));
        // What a row calls like one of the relay's headers is left out.
        let expected: Vec<(String, Option<Vec<u8>>)> = record
            .headers
            .iter()
            .filter(|(name, _)| name != "id")
            .cloned()
            .chain(own)
            .map(|(name, value)| (name, value.map(String::into_bytes)))
            .collect();
        assert_eq!(found.headers, expected);
        assert_eq!(found.header("id"), Some(record.event_id.hyphenated().to_string().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_keeps_its_order_over_many_submissions_under_way_at_once() {
    let (broker, topic) = (testbed(), unique("order"));
    create_topic(&broker, &topic, 6, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let mut receipts = Vec::new();
    for begin in (0..40_000).step_by(400) {
        let records = records(begin..begin + 400, &topic, 50);
        receipts.push(within(sink.submit(&records, None)).await.expect("taken over"));
    }
    for receipt in receipts {
        assert!(within(receipt).await.iter().all(is_delivered));
    }
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..40_000);
}

#[tokio::test]
async fn records_without_a_key_reach_every_partition() {
    let (broker, topic) = (testbed(), unique("spread"));
    create_topic(&broker, &topic, 4, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let keyless: Vec<Record> =
        records(0..4_000, &topic, 1).into_iter().map(|record| Record { key: None, ..record }).collect();
    publish(&mut sink, &keyless).await;
    let consumed = read(&broker, &topic).await;
    assert_eq!(consumed.len(), keyless.len());
    assert!(consumed.iter().all(|record| record.key.is_none()));
    assert_eq!(consumed.iter().map(|record| record.partition).collect::<HashSet<_>>().len(), 4);
}

#[tokio::test]
async fn keys_go_to_the_partitions_that_the_client_itself_would_choose() {
    let (_broker, properties) = in_process("ours", 7);
    let records = records(0..300, "ours", 300);
    let mut sink = open(settings(&properties)).await;
    publish(&mut sink, &records).await;

    let mut config = rdkafka::ClientConfig::new();
    config.extend(properties.clone());
    let producer: rdkafka::producer::BaseProducer =
        config.set("partitioner", "murmur2_random").create().expect("a producer of the client's own");
    for record in &records {
        let key = record.key.as_deref().expect("a key");
        producer.send(BaseRecord::to("ours").key(key).payload("theirs")).expect("sent");
    }
    producer.flush(PATIENCE).expect("delivered");
    let consumed = read(&properties, "ours").await;
    assert_eq!(consumed.len(), 600);
    let places: HashSet<_> = consumed.iter().map(|record| (record.key.clone(), record.partition)).collect();
    assert_eq!(places.len(), 300, "each key is on one partition, whoever published it");
}

#[tokio::test]
async fn closing_waits_for_everything_that_was_submitted() {
    let (broker, topic) = (testbed(), unique("close"));
    create_topic(&broker, &topic, 3, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let receipt = within(sink.submit(&records(0..5_000, &topic, 10), None)).await.expect("taken over");
    within(sink.close(PATIENCE)).await;
    assert!(within(receipt).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..5_000);
}

#[tokio::test]
async fn a_read_topic_is_read_to_its_end_and_what_comes_later_is_read_on() {
    let (_broker, properties) = in_process("t", 3);
    let mut sink = open(settings(&properties)).await;
    publish(&mut sink, &records(0..10, "t", 10)).await;
    let asked = properties.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut consumer = outboxd::kafka::Consumer::open(&asked, "t", IsolationLevel::ReadUncommitted).expect("opens");
        let mut ids = 0;
        while !consumer.is_at_end() {
            ids += usize::from(consumer.next(PATIENCE).expect("reads").is_some());
        }
        (consumer, ids)
    });
    let (mut consumer, ids) = within(read).await.expect("read");
    assert_eq!(ids, 10);
    publish(&mut sink, &[record(10, "t", "k")]).await;
    let next = tokio::task::spawn_blocking(move || consumer.next(PATIENCE));
    let next = within(next).await.expect("read").expect("reads").expect("a record");
    assert_eq!(next.header("outbox-id"), Some("10"));
}
