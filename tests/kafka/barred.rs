//! Topics to which no row may be published: never asked for, never created, always rejected.

use outboxd::contract::Sink as _;
use outboxd::kafka::{OnMissingTopic, ProgressTopic};
use outboxd::outbox::{Delivery, TopicPattern};

use super::*;

/// A sink that may publish to topics of the test's own, and the topic of its progress.
fn sink(broker: &BTreeMap<String, String>, delivery: Delivery) -> (Sink, String) {
    let progress = format!("kafka-wing.progress.{}", Uuid::new_v4().simple());
    let settings = Settings {
        delivery,
        progress_topic: ProgressTopic { name: progress.clone(), replication: 1 },
        topics: vec!["kafka-wing.*".parse::<TopicPattern>().expect("a pattern")],
        on_missing_topic: OnMissingTopic::Create { partitions: 1, replication: 1 },
        ..Settings::new(broker.clone(), unique("source"))
    };
    (Sink::new(settings).expect("valid settings"), progress)
}

#[tokio::test]
async fn rows_for_topics_of_ours_and_of_kafka_and_for_others_than_named_are_rejected() {
    for delivery in Delivery::ALL {
        let (broker, topic) = (testbed(), unique("named"));
        let (mut sink, progress) = sink(&broker, delivery);
        let other = format!("other.{}", Uuid::new_v4().simple());
        let internal = format!("__{}", Uuid::new_v4().simple());
        sink.open(TERM, None).await.expect("opens");
        let barred = [
            (progress.as_str(), "reserved_topic"),
            ("__consumer_offsets", "reserved_topic"),
            ("__transaction_state", "reserved_topic"),
            (&internal, "reserved_topic"),
            (&other, "topic_not_allowed"),
        ];
        let mut batch: Vec<Record> = (0..).zip(barred).map(|(id, (topic, _))| record(id, topic, "k")).collect();
        batch.push(record(99, &topic, "k"));

        // As the relay does: prepared, looked at, and only then handed over.
        within(sink.prepare(&batch)).await.expect("there is room");
        let refusals = within(sink.examine(&batch)).await.expect("they are looked at");
        let codes: Vec<_> = refusals.iter().map(|refusal| (refusal.index, refusal.rejection.code)).collect();
        assert_eq!(codes, (0..).zip(barred.map(|(_, code)| code)).collect::<Vec<_>>(), "{delivery}");
        let outcomes = publish(&mut sink, &batch).await;
        for (outcome, (topic, code)) in outcomes.iter().zip(barred) {
            let is_rejected = matches!(outcome, Outcome::Rejected(rejection) if rejection.code == code);
            assert!(is_rejected, "{delivery}, {topic}: {outcome:?}");
            assert!(accepts(&sink, topic).await, "nothing waits for {topic}");
        }
        assert!(is_delivered(&outcomes[5]), "{delivery}: {:?}", outcomes[5]);
        assert_eq!(read(&broker, &topic).await.len(), 1);

        let known = topics(&broker).await;
        assert!(!known.contains_key(&internal) && !known.contains_key(&other), "a topic was created for a barred row");
        // The progress is the relay's own.
        assert_eq!(known.contains_key(&progress), delivery == Delivery::ExactlyOnce);
    }
}
