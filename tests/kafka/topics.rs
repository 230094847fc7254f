//! Topics that are missing, refused, or change.

use outboxd::contract::{Outcome, Sink as _};
use outboxd::kafka::OnMissingTopic;
use outboxd::outbox::{HoldCause, Record};

use super::*;

#[tokio::test]
async fn a_missing_topic_is_held_and_never_created_by_us_while_others_flow_and_goes_on_once_it_exists() {
    let (broker, missing, present) = (testbed(), unique("missing"), unique("present"));
    create_topic(&broker, &present, 2, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let mixed = [record(1, &missing, "a"), record(2, &present, "a"), record(3, &missing, "b")];
    let outcomes = publish(&mut sink, &mixed).await;
    assert_eq!(outcomes[0], Outcome::Held(HoldCause::MissingTopic));
    assert!(is_delivered(&outcomes[1]), "{outcomes:?}");
    assert_eq!(outcomes[2], Outcome::Held(HoldCause::MissingTopic));
    assert!(!accepts(&sink, &missing).await);
    assert!(!topic_names(&broker).await.contains(&missing), "the broker creates topics by itself when asked wrongly");

    create_topic(&broker, &missing, 2, &[]).await;
    let still = publish(&mut sink, &mixed[..1]).await;
    assert_eq!(still, [Outcome::Held(HoldCause::MissingTopic)], "held until it was said that it is accepted");
    assert!(accepts(&sink, &missing).await);
    assert!(publish(&mut sink, &[record(1, &missing, "a"), record(3, &missing, "b")]).await.iter().all(is_delivered));
}

#[tokio::test]
async fn the_broker_of_the_testbed_would_create_topics_so_that_the_test_above_can_fail() {
    let (broker, topic) = (testbed(), unique("auto"));
    let mut config = rdkafka::ClientConfig::new();
    config.extend(broker.clone());
    let careless: rdkafka::producer::BaseProducer = config.create().expect("a producer");
    let asked = topic.clone();
    let ask = move || {
        use rdkafka::producer::Producer as _;
        careless.client().fetch_metadata(Some(&asked), PATIENCE).map(drop)
    };
    tokio::task::spawn_blocking(ask).await.expect("asked").expect("an answer");
    within(async {
        while !topic_names(&broker).await.contains(&topic) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn in_create_mode_a_missing_topic_is_created_with_the_partitions_that_are_configured() {
    let (broker, topic) = (testbed(), unique("create"));
    let create = OnMissingTopic::Create { partitions: 5, replication: 1 };
    let mut sink = open(Settings { on_missing_topic: create, ..settings(&broker) }).await;
    assert!(publish(&mut sink, &records(0..100, &topic, 20)).await.iter().all(is_delivered));
    assert_eq!(partition_count(&broker, &topic).await, 5);
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..100);
}

#[tokio::test]
async fn a_topic_that_cannot_be_created_is_held() {
    let (broker, topic) = (testbed(), unique("too-many-replicas"));
    let create = OnMissingTopic::Create { partitions: 1, replication: 99 };
    let mut sink = open(Settings { on_missing_topic: create, ..settings(&broker) }).await;
    assert_eq!(publish(&mut sink, &[record(1, &topic, "a")]).await, [Outcome::Held(HoldCause::MissingTopic)]);
}

#[tokio::test]
async fn a_row_that_names_a_partition_added_meanwhile_is_published_there() {
    let (broker, topic) = (testbed(), unique("added"));
    create_topic(&broker, &topic, 1, &[]).await;
    let mut sink = open(settings(&broker)).await;
    assert!(publish(&mut sink, &[record(1, &topic, "a")]).await.iter().all(is_delivered));
    add_partitions(&broker, &topic, 3).await;
    let placed = [Record { partition: Some(2), ..record(2, &topic, "a") }];
    let arrived = async {
        loop {
            // A topic is asked for again for such a row, but not at every row; an impossible one would block its lane.
            let outcomes = publish(&mut sink, &placed).await;
            if is_delivered(&outcomes[0]) {
                return outcomes;
            }
            sink.open(TERM, None).await.expect("opens");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let outcomes = within(arrived).await;
    assert!(matches!(outcomes[..], [Outcome::Delivered { partition: 2, .. }]), "{outcomes:?}");
}

#[tokio::test]
async fn many_topics_at_once_are_each_known_for_what_they_are_and_their_new_partitions_too() {
    const TOPICS: usize = 40;
    let (broker, prefix) = (testbed(), unique("many"));
    let names: Vec<String> = (0..TOPICS).map(|n| format!("{prefix}.{n}")).collect();
    let new: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "2000"))
        .collect();
    let created = admin(&broker).create_topics(&new, &AdminOptions::new()).await.expect("an answer");
    created.into_iter().for_each(|topic| drop(topic.expect("the topic is created")));
    wait_for_partitions(&broker, &names, 1).await;
    let mut sink = open(settings(&broker)).await;

    let mut records: Vec<Record> = names.iter().zip(1..).map(|(name, id)| record(id, name, "a")).collect();
    records[TOPICS / 2].payload = Some(vec![b'x'; 3_000]);
    records.push(record(1_000, &format!("{prefix}.missing"), "a"));
    records.push(record(1_001, "not a topic", "a"));
    let refused = within(sink.examine(&records)).await.expect("the topics are known");
    let refused: Vec<_> = refused.iter().map(|refusal| (refusal.index, refusal.rejection.code)).collect();
    assert_eq!(refused, [(TOPICS / 2, "message_too_large"), (TOPICS + 1, "invalid_topic")]);
    records.remove(TOPICS + 1);
    records.remove(TOPICS / 2);
    let outcomes = publish(&mut sink, &records).await;
    let (last, others) = outcomes.split_last().expect("outcomes");
    assert_eq!(*last, Outcome::Held(HoldCause::MissingTopic));
    assert!(others.iter().all(is_delivered), "{others:?}");
    assert!(!topic_names(&broker).await.contains(&format!("{prefix}.missing")), "nobody was to create it");

    let more: Vec<NewPartitions<'_>> = names.iter().map(|name| NewPartitions::new(name, 3)).collect();
    let added = admin(&broker).create_partitions(&more, &AdminOptions::new()).await.expect("an answer");
    added.into_iter().for_each(|topic| drop(topic.expect("partitions are added")));
    wait_for_partitions(&broker, &names, 3).await;
    let placed: Vec<Record> =
        names.iter().zip(1..).map(|(name, id)| Record { partition: Some(2), ..record(id, name, "b") }).collect();
    within(async {
        // A topic is asked for again for such a row, but not at once.
        while !sink.examine(&placed).await.expect("the topics are known").is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let outcomes = publish(&mut sink, &placed).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Delivered { partition: 2, .. })), "{outcomes:?}");
}

#[tokio::test]
async fn a_topic_to_which_writing_is_not_allowed_is_held_and_not_tried_again_at_once() {
    const TOPIC_AUTHORIZATION_FAILED: i32 = 29;
    let (broker, properties) = in_process("refused", 1);
    broker.refuse_appends(&[TOPIC_AUTHORIZATION_FAILED]).expect("prepared");
    let mut sink = open(settings(&properties)).await;
    let refused = [record(1, "refused", "a")];
    // The first record of a partition goes alone, so the submission itself hears of it.
    within(sink.submit(&refused, None)).await.err().expect("to be opened anew");
    sink.abort();
    within(sink.open(TERM, None)).await.expect("opens");
    assert_eq!(publish(&mut sink, &refused).await, [Outcome::Held(HoldCause::NotAuthorised)]);
    assert!(!accepts(&sink, "refused").await);
}

#[tokio::test]
async fn a_topic_deleted_under_way_is_held_and_its_records_come_in_order_once_it_is_back() {
    let (broker, topic) = (testbed(), unique("deleted"));
    create_topic(&broker, &topic, 1, &[]).await;
    let mut properties = broker.clone();
    properties.insert("topic.metadata.propagation.max.ms".to_owned(), "500".to_owned());
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &records(0..10, &topic, 3)).await.iter().all(is_delivered));
    delete_topic(&broker, &topic).await;

    let lost = records(10..20, &topic, 3);
    let outcomes = publish_or_reopen(&mut sink, &lost).await;
    assert!(outcomes.iter().all(|outcome| !is_delivered(outcome)), "{outcomes:?}");
    within(sink.submit(&lost, None)).await.err().expect("to be opened anew");
    sink.abort();
    within(sink.open(TERM, None)).await.expect("opens");
    let outcomes = publish(&mut sink, &lost).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Held(HoldCause::MissingTopic)), "{outcomes:?}");

    create_topic(&broker, &topic, 2, &[]).await;
    assert!(accepts(&sink, &topic).await);
    assert!(publish(&mut sink, &lost).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&broker, &topic).await, 10..20);
}
