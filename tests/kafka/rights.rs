//! Rights that are taken and given back: they cost time and nothing else. On an Apache Kafka that asks who may do what.

use outboxd::contract::Sink as _;
use outboxd::kafka::ProgressTopic;
use outboxd::outbox::Delivery;

use super::*;
use crate::support::services::variable;
use crate::support::throwaway::Kafka;
use crate::support::wire::{Resource, deny, permit};

/// Who the relay is.
const USER: &str = "outboxd";

/// A broker where every user may do everything that is not denied, and how the relay gets there.
pub(crate) fn guarded() -> (Kafka, BTreeMap<String, String>) {
    let kafka = Kafka::start_guarded();
    let mut properties = brokers_at(&kafka.secure());
    let ca = variable("OUTBOXD_TEST_CA");
    for (name, value) in [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", USER),
        ("sasl.password", "outboxd"),
        ("ssl.ca.location", &ca),
    ] {
        properties.insert(name.to_owned(), value.to_owned());
    }
    (kafka, properties)
}

/// Publishes a record as a session of the relay does, which opens the sink first. Says whether it was delivered.
async fn attempt(sink: &mut Sink, records: &[Record]) -> bool {
    within(sink.open(TERM, None)).await.is_ok() && publish_or_reopen(sink, records).await.iter().all(is_delivered)
}

/// Attempts until the outcome is as wanted; each record has an id of its own.
async fn attempt_until(sink: &mut Sink, topic: &str, next: &mut i64, wanted: bool) {
    let attempts = async {
        loop {
            let delivered = attempt(sink, &[record(*next, topic, "k")]).await;
            *next += 1;
            if delivered == wanted {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(2 * PATIENCE, attempts).await;
    assert!(in_time.is_ok(), "no record was {}", if wanted { "delivered" } else { "refused" });
}

#[tokio::test]
async fn what_was_denied_and_is_permitted_again_costs_only_time() {
    let (kafka, broker) = guarded();
    let plain = brokers_at(kafka.brokers());
    for (delivery, denies_progress) in
        [(Delivery::Fenced, false), (Delivery::ExactlyOnce, false), (Delivery::ExactlyOnce, true)]
    {
        let topic = unique("rights");
        create_topic(&plain, &topic, 1, &[]).await;
        let (source, progress) = (unique("source"), format!("progress-{}", Uuid::new_v4().simple()));
        let progress_topic = ProgressTopic { name: progress.clone(), replication: 1 };
        let settings = Settings { delivery, progress_topic, ..Settings::new(broker.clone(), source.clone()) };
        let mut sink = open(settings).await;
        let mut next = 0;
        attempt_until(&mut sink, &topic, &mut next, true).await;

        let denied = match denies_progress {
            false => Resource::transactional_id(&format!("outboxd-1-{source}")),
            true => Resource::topic(&progress),
        };
        deny(kafka.brokers(), USER, &denied).await.expect("the broker answers");
        attempt_until(&mut sink, &topic, &mut next, false).await;
        // What was refused once is refused to every client by now.
        sink.abort();
        assert!(!attempt(&mut sink, &[record(next, &topic, "k")]).await, "{delivery}: denied {denied:?}");
        next += 1;

        permit(kafka.brokers(), USER, &denied).await.expect("the broker answers");
        attempt_until(&mut sink, &topic, &mut next, true).await;
        let (arrived, last) = (read(&plain, &topic).await, next - 1);
        assert!(by_key(&arrived)[&b"k".to_vec()].contains(&last), "{delivery}: {denied:?}");
    }
}
