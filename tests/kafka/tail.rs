//! A topic as it grows: from its end on, and without a gap.

use outboxd::contract::{Heard, Tail as _};
use outboxd::kafka::Tail;

use super::rights::guarded;
use super::*;
use crate::support::wire::{Resource, deny, permit};

/// Waits until it reads, and tells the records that it heard before that.
async fn reads(tail: &mut Tail) -> Vec<Uuid> {
    let mut heard = Vec::new();
    loop {
        match within(tail.hear()).await {
            Heard::Record { event_id, .. } => heard.push(event_id),
            Heard::Reads => return heard,
            Heard::Deaf(_why) => {}
        }
    }
}

/// The next records, as many as these. It may say in between that it reads.
async fn next(tail: &mut Tail, records: usize) -> Vec<Uuid> {
    let mut heard = Vec::new();
    while heard.len() < records {
        match within(tail.hear()).await {
            Heard::Record { event_id, .. } => heard.push(event_id),
            Heard::Reads => {}
            Heard::Deaf(why) => panic!("it is deaf: {why}"),
        }
    }
    heard.sort_unstable();
    heard
}

/// Publishes records of so many keys, and tells their event ids, sorted.
async fn published(sink: &mut Sink, topic: &str, ids: std::ops::Range<i64>) -> Vec<Uuid> {
    let records = records(ids, topic, 10);
    assert!(publish(sink, &records).await.iter().all(is_delivered));
    let mut ids: Vec<Uuid> = records.iter().map(|record| record.event_id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_topic_is_heard_from_its_end_on_with_the_partitions_that_it_gets_later() {
    let (broker, topic) = (testbed(), unique("tail"));
    create_topic(&broker, &topic, 2, &[]).await;
    let mut sink = open(settings(&broker)).await;
    published(&mut sink, &topic, 0..20).await;
    let mut tail = Tail::open(&broker, &topic);
    assert!(reads(&mut tail).await.is_empty(), "what was there before is not told");
    let sent = published(&mut sink, &topic, 20..40).await;
    assert_eq!(next(&mut tail, 20).await, sent);

    add_partitions(&broker, &topic, 6).await;
    let mut another = open(settings(&broker)).await;
    let sent = published(&mut another, &topic, 40..80).await;
    assert_eq!(next(&mut tail, 40).await, sent, "of new partitions as well");
}

#[tokio::test]
async fn a_topic_that_does_not_exist_yet_is_heard_from_its_first_record_on_and_is_not_made() {
    let (broker, topic) = (testbed(), unique("tail-missing"));
    let mut tail = Tail::open(&broker, &topic);
    assert!(reads(&mut tail).await.is_empty());
    assert!(!topic_names(&broker).await.contains(&topic));
    create_topic(&broker, &topic, 3, &[]).await;
    let sent = published(&mut open(settings(&broker)).await, &topic, 0..20).await;
    assert_eq!(next(&mut tail, 20).await, sent);
}

#[tokio::test]
async fn records_of_transactions_are_heard_once_they_are_committed() {
    let (broker, topic) = (testbed(), unique("tail-transactions"));
    create_topic(&broker, &topic, 2, &[]).await;
    let source = unique("source");
    let fenced = Settings { delivery: outboxd::outbox::Delivery::Fenced, ..Settings::new(broker.clone(), source) };
    let mut sink = open(fenced).await;
    published(&mut sink, &topic, 0..10).await;
    // Until brokers have marked them as committed they are still to come.
    transactions_ended(&broker["bootstrap.servers"], &topic, 2).await;
    let mut tail = Tail::open(&broker, &topic);
    assert!(reads(&mut tail).await.is_empty());
    let sent = published(&mut sink, &topic, 10..20).await;
    assert_eq!(next(&mut tail, 10).await, sent);
}

#[tokio::test]
async fn an_outage_of_the_brokers_leaves_no_record_out_and_is_no_deafness() {
    let topic = "tail";
    let (broker, properties) = in_process(topic, 2);
    let mut sink = open(settings(&properties)).await;
    published(&mut sink, topic, 0..10).await;
    let mut tail = Tail::open(&properties, topic);
    reads(&mut tail).await;
    for outage in 1..4 {
        crate::support::children::take_down(&broker).expect("the broker obeys");
        let sending = records(outage * 10..outage * 10 + 10, topic, 10);
        let receipt = within(sink.submit(&sending, None)).await.expect("taken over");
        broker.up().expect("the broker obeys");
        assert!(within(receipt).await.iter().all(is_delivered));
        let mut sent: Vec<Uuid> = sending.iter().map(|record| record.event_id).collect();
        sent.sort_unstable();
        assert_eq!(next(&mut tail, 10).await, sent);
    }
}

#[tokio::test]
async fn what_came_while_it_was_not_allowed_to_read_is_heard_afterwards_before_it_says_that_it_reads() {
    let (kafka, broker) = guarded();
    let (plain, topic) = (brokers_at(kafka.brokers()), unique("tail-rights"));
    create_topic(&plain, &topic, 2, &[]).await;
    let mut sink = open(settings(&plain)).await;
    let mut tail = Tail::open(&broker, &topic);
    reads(&mut tail).await;
    let denied = Resource::topic(&topic);
    deny(kafka.brokers(), "outboxd", &denied).await.expect("the broker answers");
    let mut sent = Vec::new();
    let (mut id, mut heard) = (0, Vec::new());
    // Brokers refuse what is fetched next, which a fetch that waits is not.
    loop {
        sent.extend(published(&mut sink, &topic, id..id + 2).await);
        id += 2;
        match tokio::time::timeout(Duration::from_millis(500), tail.hear()).await {
            Ok(Heard::Record { event_id, .. }) => heard.push(event_id),
            Ok(Heard::Deaf(why)) => {
                assert!(why.to_lowercase().contains("authoriz"), "{why}");
                break;
            }
            Ok(Heard::Reads) | Err(_) => {}
        }
    }
    sent.extend(published(&mut sink, &topic, id..id + 10).await);
    permit(kafka.brokers(), "outboxd", &denied).await.expect("the broker answers");
    heard.extend(reads(&mut tail).await);
    heard.sort_unstable();
    sent.sort_unstable();
    assert_eq!(heard, sent);
}

#[tokio::test]
async fn a_topic_in_which_records_come_all_the_time_is_heard_as_well() {
    let (broker, topic) = (testbed(), unique("tail-busy"));
    create_topic(&broker, &topic, 1, &[]).await;
    let mut sink = open(settings(&broker)).await;
    let busy = async {
        for id in 0.. {
            published(&mut sink, &topic, id..id + 1).await;
            // More often than a broker that waits for something new would answer that there is nothing.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut tail = Tail::open(&broker, &topic);
    tokio::select! {
        () = busy => unreachable!("it never ends"),
        _heard = reads(&mut tail) => {}
    }
}
