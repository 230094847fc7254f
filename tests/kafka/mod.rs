//! The Kafka wing, on the testbed's Apache Kafka, and on the client's in-process broker for outages and errors.

mod barred;
mod judging;
mod outages;
mod progress;
mod publishing;
mod quarantine;
mod rejections;
mod rights;
mod strays;
mod tail;
mod terms;
mod topics;
mod transactions;
mod unavailable;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use outboxd::contract::{Outcome, Sink as _, SinkError};
use outboxd::kafka::{Broker, Consumed, IsolationLevel, Settings, Sink, read_to_end};
use outboxd::outbox::{Lane, Record, Term};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use uuid::Uuid;

use crate::support::kafka::transactions_ended;

const TERM: Term = Term(1);

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The testbed's broker.
fn testbed() -> BTreeMap<String, String> {
    let brokers = std::env::var("OUTBOXD_TEST_KAFKA")
        .expect("OUTBOXD_TEST_KAFKA is not set: start the testbed (testbed/up) and source its env file");
    brokers_at(&brokers)
}

fn brokers_at(brokers: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("bootstrap.servers".to_owned(), brokers.to_owned())])
}

/// A topic name that no other test uses.
fn unique(name: &str) -> String {
    format!("kafka-wing.{name}.{}", Uuid::new_v4().simple())
}

fn settings(properties: &BTreeMap<String, String>) -> Settings {
    Settings::new(properties.clone(), "shop.public.outbox")
}

async fn open(settings: Settings) -> Sink {
    let mut sink = Sink::new(settings).expect("valid settings");
    within(opened(&mut sink)).await;
    sink
}

/// Opens a sink as the relay does: again for as long as the brokers are not there yet.
async fn opened(sink: &mut Sink) {
    loop {
        match sink.open(TERM, None).await {
            Ok(_) => return,
            Err(SinkError::Unavailable { .. }) => sink.abort(),
            Err(error) => panic!("the sink does not open: {error}"),
        }
    }
}

/// Whether the sink takes records of a topic that was held.
async fn accepts(sink: &Sink, topic: &str) -> bool {
    let topic = Lane::topic_of(topic);
    within(sink.accepts(vec![topic.clone()])).await.expect("an answer") == [topic]
}

/// An in-process broker with one topic.
fn in_process(topic: &str, partitions: i32) -> (Broker, BTreeMap<String, String>) {
    let broker = Broker::start(1).expect("an in-process broker");
    broker.create_topic(topic, partitions).expect("a topic");
    let properties = brokers_at(broker.bootstrap_servers());
    (broker, properties)
}

fn record(id: i64, topic: &str, key: &str) -> Record {
    Record {
        id,
        event_id: Uuid::now_v7(),
        topic: topic.into(),
        key: Some(key.to_owned()),
        payload: Some(format!("payload {id}").into_bytes()),
        headers: Vec::new(),
        partition: None,
        created_at: DateTime::from_timestamp_millis(1_700_000_000_000 + id % 1_000_000).expect("a time"),
    }
}

/// Records with rising ids, spread over so many keys.
fn records(ids: std::ops::Range<i64>, topic: &str, keys: i64) -> Vec<Record> {
    ids.map(|id| record(id, topic, &format!("key-{}", id % keys))).collect()
}

async fn publish(sink: &mut Sink, records: &[Record]) -> Vec<Outcome> {
    within(async {
        let receipt = sink.submit(records, None).await.expect("the records are taken over");
        receipt.await
    })
    .await
}

/// As the relay does: an error of the submission says that nothing is known.
async fn publish_or_reopen(sink: &mut Sink, records: &[Record]) -> Vec<Outcome> {
    match within(sink.submit(records, None)).await {
        Ok(receipt) => within(receipt).await,
        Err(_unavailable) => {
            sink.abort();
            vec![Outcome::Unknown; records.len()]
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("done in time")
}

fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { .. })
}

async fn read(properties: &BTreeMap<String, String>, topic: &str) -> Vec<Consumed> {
    let partitions = i32::try_from(partition_count(properties, topic).await).expect("few partitions");
    transactions_ended(&properties["bootstrap.servers"], topic, partitions).await;
    within(read_to_end(properties, topic, IsolationLevel::ReadCommitted)).await.expect("the topic can be read")
}

/// The row ids of each key, in the order of the topic.
fn by_key(consumed: &[Consumed]) -> BTreeMap<Vec<u8>, Vec<i64>> {
    let mut keys: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
    for record in consumed {
        let id = record.header("outbox-id").expect("the row's id").parse().expect("a number");
        keys.entry(record.key.clone().unwrap_or_default()).or_default().push(id);
    }
    keys
}

/// That every id of the range arrived exactly once, each key's in rising order.
fn assert_whole_and_in_order(consumed: &[Consumed], ids: std::ops::Range<i64>) {
    let keys = by_key(consumed);
    for (key, arrived) in &keys {
        assert!(arrived.is_sorted(), "key {} came out of order: {arrived:?}", String::from_utf8_lossy(key));
    }
    let mut all: Vec<i64> = keys.into_values().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, ids.collect::<Vec<_>>());
}

fn admin(properties: &BTreeMap<String, String>) -> AdminClient<DefaultClientContext> {
    let mut config = rdkafka::ClientConfig::new();
    config.extend(properties.clone());
    config.create().expect("an admin client")
}

async fn create_topic(properties: &BTreeMap<String, String>, topic: &str, partitions: i32, config: &[(&str, &str)]) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let new = config.iter().fold(new, |new, (key, value)| new.set(key, value));
    let created = admin(properties).create_topics([&new], &AdminOptions::new()).await.expect("an answer");
    created.into_iter().for_each(|topic| drop(topic.expect("the topic is created")));
    // The controller answers before the broker knows.
    within(async {
        while !topic_names(properties).await.contains(&topic.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn add_partitions(properties: &BTreeMap<String, String>, topic: &str, partitions: usize) {
    let new = NewPartitions::new(topic, partitions);
    let added = admin(properties).create_partitions([&new], &AdminOptions::new()).await.expect("an answer");
    added.into_iter().for_each(|topic| drop(topic.expect("partitions are added")));
    wait_for_partitions(properties, &[topic.to_owned()], partitions).await;
}

async fn delete_topic(properties: &BTreeMap<String, String>, topic: &str) {
    let deleted = admin(properties).delete_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    deleted.into_iter().for_each(|topic| drop(topic.expect("the topic is deleted")));
    within(async {
        while topic_names(properties).await.contains(&topic.to_owned()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn set_topic_limit(properties: &BTreeMap<String, String>, topic: &str, bytes: &str) {
    set_topic(properties, topic, "max.message.bytes", bytes).await;
}

async fn set_topic(properties: &BTreeMap<String, String>, topic: &str, name: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let changed = admin(properties).alter_configs([&change], &AdminOptions::new()).await.expect("an answer");
    changed.into_iter().for_each(|topic| drop(topic.expect("the setting is changed")));
}

/// All topics of the broker, with their numbers of partitions; asked in a way that creates none.
async fn topics(properties: &BTreeMap<String, String>) -> BTreeMap<String, usize> {
    let admin = admin(properties);
    let topics = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, PATIENCE).expect("the broker answers");
        metadata.topics().iter().map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
    });
    topics.await.expect("an answer")
}

async fn topic_names(properties: &BTreeMap<String, String>) -> Vec<String> {
    topics(properties).await.into_keys().collect()
}

async fn partition_count(properties: &BTreeMap<String, String>, topic: &str) -> usize {
    topics(properties).await.get(topic).copied().unwrap_or_default()
}

/// Waits until the broker knows of these topics, with so many partitions each.
async fn wait_for_partitions(properties: &BTreeMap<String, String>, names: &[String], partitions: usize) {
    within(async {
        loop {
            let known = topics(properties).await;
            if names.iter().all(|name| known.get(name) == Some(&partitions)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

fn millis(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis()
}
