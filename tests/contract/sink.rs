//! Sinks: one outcome a record, order inside a lane, held topics, and beginning anew.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use outboxd::contract::{Outcome, Sink};
use outboxd::outbox::{HoldCause, Lane, Record, Term};
use uuid::Uuid;

async fn accepts(sink: &dyn Sink, topic: &str) -> bool {
    let topic = Lane::topic_of(topic);
    sink.accepts(vec![topic.clone()]).await.expect("an answer") == [topic]
}

/// A broker under test.
pub(crate) trait Broker: Sync {
    /// A sink over it, as a newly started relay makes one.
    fn sink(&self) -> Box<dyn Sink>;

    /// A topic that no other test uses, of three partitions at least.
    fn topic(&self) -> LocalBoxFuture<'_, Box<dyn Topic>>;

    /// A topic that does not exist.
    fn missing(&self) -> Box<dyn Topic>;

    /// Makes the record one that this broker rejects.
    fn spoil(&self, record: &mut Record);
}

pub(crate) trait Topic: Send + Sync {
    fn name(&self) -> &str;

    /// Creates the topic that was missing.
    fn appear(&self) -> LocalBoxFuture<'_, ()>;

    /// What consumers find in it, each partition in the order of its offsets.
    fn arrived(&self) -> LocalBoxFuture<'_, Vec<Arrival>>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<String>)>,
    pub(crate) timestamp_ms: i64,
}

/// A record whose payload is its id.
fn record(id: i64, topic: &str, key: Option<&str>) -> Record {
    Record {
        id,
        event_id: Uuid::now_v7(),
        topic: topic.into(),
        key: key.map(str::to_owned),
        payload: Some(id.to_string().into_bytes()),
        headers: Vec::new(),
        partition: None,
        created_at: chrono::DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time"),
    }
}

fn records(ids: std::ops::Range<i64>, topic: &str) -> Vec<Record> {
    let keys = ["a", "b", "c", "d", "e"];
    ids.map(|id| record(id, topic, Some(keys[id as usize % keys.len()]))).collect()
}

async fn opened(broker: &dyn Broker) -> Box<dyn Sink> {
    let mut sink = broker.sink();
    sink.open(Term(1), None).await.expect("the sink opens");
    sink
}

async fn submit(sink: &mut Box<dyn Sink>, records: &[Record]) -> Vec<Outcome> {
    sink.submit(records, None).await.expect("the sink takes the records over").await
}

fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { .. })
}

fn payload(id: i64) -> Option<Vec<u8>> {
    Some(id.to_string().into_bytes())
}

pub(crate) async fn a_receipt_tells_of_each_record_in_order(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    assert_eq!(submit(&mut sink, &[]).await, []);
    let submitted = records(0..100, topic.name());
    let outcomes = submit(&mut sink, &submitted).await;
    assert_eq!(outcomes.len(), 100);
    let arrived = topic.arrived().await;
    for (record, outcome) in submitted.iter().zip(outcomes) {
        let Outcome::Delivered { partition, offset } = outcome else { panic!("{outcome:?}") };
        let at = arrived.iter().find(|arrival| (arrival.partition, arrival.offset) == (partition, offset));
        assert_eq!(at.map(|arrival| arrival.payload.clone()), Some(record.payload.clone()));
    }
}

pub(crate) async fn a_lane_arrives_in_the_order_of_submission(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    let submitted = records(0..1_000, topic.name());
    let mut receipts = Vec::new();
    for some in submitted.chunks(37) {
        receipts.push(sink.submit(some, None).await.expect("taken over"));
    }
    for receipt in receipts.into_iter().rev() {
        assert!(receipt.await.iter().all(is_delivered));
    }
    let arrived = topic.arrived().await;
    for key in ["a", "b", "c", "d", "e"] {
        let came = arrived.iter().filter(|arrival| arrival.key.as_deref() == Some(key)).map(|arrival| &arrival.payload);
        let of_lane = submitted.iter().filter(|record| record.key.as_deref() == Some(key));
        assert!(came.eq(of_lane.map(|record| &record.payload)), "the lane of {key}");
    }
}

pub(crate) async fn a_record_arrives_as_it_was_submitted(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    let mut full = record(1, topic.name(), Some("käse ☃"));
    full.payload = Some((0..=255).collect());
    full.headers = vec![("traceparent".into(), Some("00-ü".into())), ("none".into(), None)];
    full.partition = Some(2);
    let mut tombstone = record(2, topic.name(), Some(""));
    tombstone.payload = None;
    let keyless = record(3, topic.name(), None);
    let submitted = [full, tombstone, keyless];
    assert!(submit(&mut sink, &submitted).await.iter().all(is_delivered));
    let arrived = topic.arrived().await;
    assert_eq!(arrived.len(), 3);
    for record in &submitted {
        let found = arrived.iter().find(|arrival| arrival.key == record.key).expect("the record arrived");
        assert_eq!(found.payload, record.payload);
        assert_eq!(found.timestamp_ms, record.created_at.timestamp_millis());
        assert!(record.partition.is_none_or(|partition| found.partition == partition));
        assert!(record.headers.iter().all(|header| found.headers.contains(header)), "{:?}", found.headers);
    }
}

pub(crate) async fn a_missing_topic_is_held_and_holds_up_no_other(broker: &dyn Broker) {
    let (topic, missing) = (broker.topic().await, broker.missing());
    let mut sink = opened(broker).await;
    let submitted = [
        record(0, missing.name(), Some("a")),
        record(1, topic.name(), Some("a")),
        record(2, missing.name(), None),
        record(3, topic.name(), Some("a")),
    ];
    let outcomes = submit(&mut sink, &submitted).await;
    assert_eq!(outcomes[0], Outcome::Held(HoldCause::MissingTopic));
    assert_eq!(outcomes[2], Outcome::Held(HoldCause::MissingTopic));
    assert!(is_delivered(&outcomes[1]) && is_delivered(&outcomes[3]), "{outcomes:?}");
    assert!(!accepts(&*sink, missing.name()).await);
    assert!(accepts(&*sink, topic.name()).await);
}

pub(crate) async fn a_held_topic_stays_held_until_it_is_asked_for(broker: &dyn Broker) {
    let missing = broker.missing();
    let mut sink = opened(broker).await;
    let held = Outcome::Held(HoldCause::MissingTopic);
    assert_eq!(submit(&mut sink, &[record(0, missing.name(), Some("a"))]).await, std::slice::from_ref(&held));
    missing.appear().await;
    let early = submit(&mut sink, &[record(1, missing.name(), Some("a"))]).await;
    assert_eq!(early, [held], "what was read before the hold must not overtake what is held");
    while !accepts(&*sink, missing.name()).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = [record(0, missing.name(), Some("a")), record(1, missing.name(), Some("a"))];
    assert!(submit(&mut sink, &again).await.iter().all(is_delivered));
    let arrived: Vec<_> = missing.arrived().await.into_iter().map(|arrival| arrival.payload).collect();
    assert_eq!(arrived, [payload(0), payload(1)]);
}

pub(crate) async fn a_rejected_record_is_followed_by_none_of_its_lane(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    let mut submitted: Vec<Record> = (0..4).map(|id| record(id, topic.name(), Some("a"))).collect();
    broker.spoil(&mut submitted[1]);
    let outcomes = submit(&mut sink, &submitted).await;
    assert!(is_delivered(&outcomes[0]), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Rejected(_)), "{outcomes:?}");
    assert!(!outcomes[2..].iter().any(is_delivered), "{outcomes:?}");
    if let Ok(receipt) = sink.submit(&[record(4, topic.name(), Some("a"))], None).await {
        assert!(!receipt.await.iter().any(is_delivered), "nothing follows in a later submission either");
    }
    sink.open(Term(1), None).await.expect("the sink opens again");
    assert!(submit(&mut sink, &submitted[2..]).await.iter().all(is_delivered));
    let arrived: Vec<_> = topic.arrived().await.into_iter().map(|arrival| arrival.payload).collect();
    assert_eq!(arrived, [payload(0), payload(2), payload(3)]);
}

pub(crate) async fn an_aborted_sink_tells_and_opens_again(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    let receipt = sink.submit(&records(0..500, topic.name()), None).await.expect("taken over");
    sink.abort();
    let outcomes = receipt.await;
    assert_eq!(outcomes.len(), 500);
    assert!(outcomes.iter().all(|outcome| is_delivered(outcome) || *outcome == Outcome::Unknown), "{outcomes:?}");
    sink.open(Term(2), None).await.expect("the sink opens again");
    assert!(submit(&mut sink, &records(500..600, topic.name())).await.iter().all(is_delivered));
    let arrived = topic.arrived().await;
    assert!(arrived.len() >= 100 + outcomes.iter().filter(|outcome| is_delivered(outcome)).count());
}

pub(crate) async fn opening_an_open_sink_does_no_harm(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    for term in 1..4 {
        sink.open(Term(term), None).await.expect("the sink opens");
        assert!(submit(&mut sink, &records(term..term + 1, topic.name())).await.iter().all(is_delivered));
    }
    assert_eq!(topic.arrived().await.len(), 3);
}

pub(crate) async fn closing_lets_everything_submitted_arrive(broker: &dyn Broker) {
    let topic = broker.topic().await;
    let mut sink = opened(broker).await;
    let receipt = sink.submit(&records(0..500, topic.name()), None).await.expect("taken over");
    let (outcomes, ()) = tokio::join!(receipt, sink.close(Duration::from_secs(30)));
    assert!(outcomes.iter().all(is_delivered));
    assert_eq!(topic.arrived().await.len(), 500);
}

/// Makes a test of each promise for the broker, in the module where it stands.
macro_rules! promises {
    ($broker:expr) => {
        promises! { $broker;
            a_receipt_tells_of_each_record_in_order,
            a_lane_arrives_in_the_order_of_submission,
            a_record_arrives_as_it_was_submitted,
            a_missing_topic_is_held_and_holds_up_no_other,
            a_held_topic_stays_held_until_it_is_asked_for,
            a_rejected_record_is_followed_by_none_of_its_lane,
            an_aborted_sink_tells_and_opens_again,
            opening_an_open_sink_does_no_harm,
            closing_lets_everything_submitted_arrive,
        }
    };
    ($broker:expr; $($promise:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let broker = $broker;
                let promise = super::$promise(&broker);
                tokio::time::timeout($crate::contract::PATIENCE, promise).await.expect("the promise is kept in time");
            }
        )+
    };
}

mod memory {
    promises!(crate::contract::fixtures::memory::Broker::default());
}

mod kafka {
    promises!(crate::contract::fixtures::kafka::Kafka(outboxd::outbox::Delivery::AtLeastOnce));
}

mod kafka_fenced {
    promises!(crate::contract::fixtures::kafka::Kafka(outboxd::outbox::Delivery::Fenced));
}

mod kafka_exactly_once {
    promises!(crate::contract::fixtures::kafka::Kafka(outboxd::outbox::Delivery::ExactlyOnce));
}

/// The same faults that tests script must not break what the sink behind them promises.
mod scripted {
    promises!(crate::contract::fixtures::memory::Broker::scripted());
}

/// Nor must spans around it.
#[cfg(feature = "otel")]
mod traced {
    promises!(crate::contract::fixtures::memory::Broker::traced());
}
