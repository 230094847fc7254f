//! The progress, wherever in its topic it was left: partitions are added, the topic is deleted. On Apache Kafka.

use outboxd::contract::Sink as _;
use outboxd::kafka::ProgressTopic;
use outboxd::outbox::{Delivery, Position};

use super::*;

/// Settings of an outbox whose progress is in this topic.
fn remembering(broker: &BTreeMap<String, String>, name: &str) -> Settings {
    let progress_topic = ProgressTopic { name: name.to_owned(), replication: 1 };
    let delivery = Delivery::ExactlyOnce;
    Settings { delivery, progress_topic, ..Settings::new(broker.clone(), unique("source")) }
}

async fn publish_after(sink: &mut Sink, records: &[Record], after: &str) {
    let after = Position::new(after);
    let published = async { sink.submit(records, Some(&after)).await.expect("taken over").await };
    assert!(within(published).await.iter().all(is_delivered));
}

/// What the next leader finds.
async fn found(settings: &Settings, term: i64) -> (Sink, Option<String>) {
    let mut heir = Sink::new(settings.clone()).expect("valid settings");
    let progress = within(heir.open(Term(term), None)).await.expect("opens");
    let position = progress.and_then(|progress| progress.position);
    (heir, position.map(|position| position.as_str().to_owned()))
}

#[tokio::test]
async fn the_progress_is_found_when_partitions_were_added_to_its_topic() {
    let (broker, topic, progress) = (testbed(), unique("topic"), unique("progress"));
    create_topic(&broker, &topic, 1, &[]).await;
    create_topic(&broker, &progress, 1, &[("cleanup.policy", "compact")]).await;
    // Of several outboxes some certainly move.
    for _ in 0..4 {
        let settings = remembering(&broker, &progress);
        let mut first = open(settings.clone()).await;
        publish_after(&mut first, &records(0..10, &topic, 5), "first").await;
        add_partitions(&broker, &progress, partition_count(&broker, &progress).await + 4).await;
        // A session goes on where it began.
        publish_after(&mut first, &records(10..20, &topic, 5), "second").await;
        drop(first);
        let (mut heir, position) = found(&settings, 2).await;
        assert_eq!(position.as_deref(), Some("second"));

        // The next one goes on where its key belongs now, and the old record is old from then on.
        publish_after(&mut heir, &records(20..30, &topic, 5), "third").await;
        within(heir.close(PATIENCE)).await;
        let (again, position) = found(&settings, 2).await;
        assert_eq!(position.as_deref(), Some("third"), "in the same term");
        drop(again);
        add_partitions(&broker, &progress, partition_count(&broker, &progress).await + 3).await;
        let (_, position) = found(&settings, 3).await;
        assert_eq!(position.as_deref(), Some("third"), "three partitions may hold a record of it");
    }
}

#[tokio::test]
async fn a_topic_of_progress_that_was_deleted_is_made_again_and_publishing_goes_on() {
    let (broker, topic, progress) = (testbed(), unique("topic"), unique("progress"));
    create_topic(&broker, &topic, 1, &[]).await;
    let settings = remembering(&broker, &progress);
    let mut sink = open(settings.clone()).await;
    publish_after(&mut sink, &records(0..10, &topic, 5), "before").await;
    delete_topic(&broker, &progress).await;
    let after = Position::new("after");
    let again = async {
        loop {
            if sink.open(TERM, None).await.is_ok()
                && let Ok(receipt) = sink.submit(&records(10..20, &topic, 5), Some(&after)).await
                && receipt.await.iter().all(is_delivered)
            {
                return;
            }
            // As the relay does when a submission failed.
            sink.abort();
        }
    };
    tokio::time::timeout(2 * PATIENCE, again).await.expect("it goes on");
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..20);
    let (_, position) = found(&settings, 2).await;
    assert_eq!(position.as_deref(), Some("after"));
}
