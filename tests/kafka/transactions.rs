//! Deliveries in transactions: fencing, what is undone, and the progress that is remembered. On Apache Kafka.

use outboxd::contract::{Sink as _, SinkError};
use outboxd::kafka::ProgressTopic;
use outboxd::outbox::{Delivery, Position, Progress, Settlement};

use super::*;

/// Settings of an outbox of the test's own.
fn transactional(broker: &BTreeMap<String, String>, delivery: Delivery) -> Settings {
    let source = unique("source");
    let progress_topic = ProgressTopic { name: unique("progress"), replication: 1 };
    Settings { delivery, progress_topic, ..Settings::new(broker.clone(), source) }
}

/// Records that say who sent them.
fn said_by(term: i64, ids: std::ops::Range<i64>, topic: &str) -> Vec<Record> {
    let say = |record| Record { payload: Some(format!("term {term}").into_bytes()), ..record };
    records(ids, topic, 50).into_iter().map(say).collect()
}

fn payloads(consumed: &[Consumed]) -> Vec<String> {
    let text = |record: &Consumed| String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()).into_owned();
    consumed.iter().map(text).collect()
}

async fn read_all(broker: &BTreeMap<String, String>, topic: &str) -> Vec<Consumed> {
    within(read_to_end(broker, topic, IsolationLevel::ReadUncommitted)).await.expect("the topic can be read")
}

/// Opens a sink, and tells what it finds remembered.
async fn progress_at_opening(sink: &mut Sink, term: i64) -> Progress {
    let found = within(sink.open(Term(term), None)).await.expect("opens");
    found.expect("something is remembered")
}

async fn publish_after(sink: &mut Sink, records: &[Record], after: &str) -> Vec<Outcome> {
    let after = Position::new(after);
    within(async { sink.submit(records, Some(&after)).await.expect("taken over").await }).await
}

#[tokio::test]
async fn nothing_of_a_former_leader_is_appended_after_the_first_record_of_the_next() {
    let broker = testbed();
    for delivery in [Delivery::Fenced, Delivery::ExactlyOnce] {
        for round in 0..5 {
            let topic = unique("fenced");
            create_topic(&broker, &topic, 3, &[]).await;
            let settings = transactional(&broker, delivery);
            let (mut zombie, mut heir) =
                (open(settings.clone()).await, Sink::new(settings.clone()).expect("valid settings"));
            assert!(publish(&mut zombie, &said_by(1, 0..100, &topic)).await.iter().all(is_delivered));
            // Submissions in a row while the heir comes in, so that it finds one in the middle.
            let writing = async {
                for begin in (100..).step_by(1_000) {
                    let outcomes =
                        publish_or_reopen_never(&mut zombie, &said_by(1, begin..begin + 1_000, &topic)).await;
                    if !outcomes.iter().all(is_delivered) {
                        return outcomes;
                    }
                }
                unreachable!("ids do not end")
            };
            let taking_over = async {
                tokio::time::sleep(Duration::from_millis(20 + 7 * round)).await;
                heir.open(Term(2), None).await.expect("opens");
                publish(&mut heir, &said_by(2, 0..1_000, &topic)).await
            };
            let (refused, delivered) = within(async { tokio::join!(writing, taking_over) }).await;
            assert!(delivered.iter().all(is_delivered));
            assert!(!refused.iter().any(is_delivered), "a transaction is published whole or not at all");
            let error = within(zombie.submit(&said_by(1, 0..10, &topic), None)).await.err().expect("shut out");
            assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");

            // Even a consumer that reads what is not committed sees nothing of it.
            let mut heirs = std::collections::HashSet::new();
            for record in read_all(&broker, &topic).await {
                match record.payload.as_deref() {
                    Some(b"term 2") => drop(heirs.insert(record.partition)),
                    _ => assert!(!heirs.contains(&record.partition), "a record of term 1 after one of term 2"),
                }
            }
            assert_eq!(heirs.len(), 3);
        }
    }
}

/// As a zombie does, which was paused before it could notice anything.
async fn publish_or_reopen_never(sink: &mut Sink, records: &[Record]) -> Vec<Outcome> {
    match sink.submit(records, Some(&Position::new("somewhere"))).await {
        Ok(receipt) => receipt.await,
        Err(_shut_out) => vec![Outcome::Unknown; records.len()],
    }
}

#[tokio::test]
async fn what_is_undone_is_invisible_to_whoever_reads_what_is_committed() {
    let (broker, topic) = (testbed(), unique("undone"));
    create_topic(&broker, &topic, 1, &[]).await;
    let settings = transactional(&broker, Delivery::Fenced);
    let mut sink = open(settings.clone()).await;
    let receipt = within(sink.submit(&said_by(1, 0..1_000, &topic), None)).await.expect("taken over");
    sink.abort();
    let outcomes = within(receipt).await;
    // The commit may have been quicker than the abortion.
    if outcomes.iter().all(is_delivered) {
        assert_eq!(read(&broker, &topic).await.len(), 1_000);
        return;
    }
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unknown), "nothing is told of one record alone");
    sink.open(Term(2), None).await.expect("opens");
    assert!(publish(&mut sink, &said_by(2, 0..10, &topic)).await.iter().all(is_delivered));
    let committed = payloads(&read(&broker, &topic).await);
    let old = committed.iter().filter(|said| *said == "term 1").count();
    assert!(old == 0 || old == 1_000, "{old} records of a transaction");
    assert_eq!(committed.iter().filter(|said| *said == "term 2").count(), 10);
}

#[tokio::test]
async fn a_leader_that_was_shut_out_by_mistake_is_let_in_again_when_it_opens() {
    let (broker, topic) = (testbed(), unique("again"));
    create_topic(&broker, &topic, 1, &[]).await;
    let settings = transactional(&broker, Delivery::Fenced);
    let (mut leader, mut stray) = (open(settings.clone()).await, Sink::new(settings).expect("valid settings"));
    assert!(publish(&mut leader, &said_by(1, 0..10, &topic)).await.iter().all(is_delivered));
    stray.open(Term(1), None).await.expect("opens");
    let outcomes = publish_or_reopen(&mut leader, &said_by(1, 10..20, &topic)).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Unknown), "{outcomes:?}");
    within(leader.open(Term(1), None)).await.expect("the term is the same: let in again");
    assert!(publish(&mut leader, &said_by(1, 10..20, &topic)).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..20);
}

#[tokio::test]
async fn each_key_keeps_its_order_over_transactions_in_a_row() {
    let broker = testbed();
    for delivery in [Delivery::Fenced, Delivery::ExactlyOnce] {
        let topic = unique("in-a-row");
        create_topic(&broker, &topic, 3, &[]).await;
        let mut sink = open(transactional(&broker, delivery)).await;
        let mut receipts = Vec::new();
        for begin in (0..10_000).step_by(500) {
            receipts
                .push(within(sink.submit(&records(begin..begin + 500, &topic, 37), None)).await.expect("taken over"));
        }
        for receipt in receipts {
            assert!(within(receipt).await.iter().all(is_delivered));
        }
        assert_whole_and_in_order(&read(&broker, &topic).await, 0..10_000);
    }
}

#[tokio::test]
async fn the_progress_is_remembered_with_the_records_and_found_by_the_next_leader() {
    let (broker, topic, missing) = (testbed(), unique("topic"), unique("missing"));
    create_topic(&broker, &topic, 3, &[]).await;
    let settings = transactional(&broker, Delivery::ExactlyOnce);
    let mut sink = Sink::new(settings.clone()).expect("valid settings");
    assert_eq!(within(sink.open(TERM, None)).await.expect("opens"), None, "nothing was published yet");
    assert!(publish_after(&mut sink, &said_by(1, 1..100, &topic), "at 100").await.iter().all(is_delivered));

    let mut heir = Sink::new(settings.clone()).expect("valid settings");
    let nothing = Settlement::default();
    let at_100 = Progress { position: Some(Position::new("at 100")), beyond: nothing.clone(), term: Term(1) };
    assert_eq!(progress_at_opening(&mut heir, 2).await, at_100);

    // A record that waits keeps the position where it is; what is published beside it is named.
    let mut batch = said_by(2, 100..103, &topic);
    batch[1].topic = missing.as_str().into();
    let outcomes = publish_after(&mut heir, &batch, "at 103").await;
    assert!(is_delivered(&outcomes[0]) && matches!(outcomes[1], Outcome::Held(_)), "{outcomes:?}");
    assert!(publish_after(&mut heir, &said_by(2, 103..104, &topic), "at 104").await.iter().all(is_delivered));
    assert_eq!(progress_at_opening(&mut heir, 2).await.beyond.ids(), [100, 102, 103]);

    let mut third = Sink::new(settings.clone()).expect("valid settings");
    let found = progress_at_opening(&mut third, 3).await;
    assert_eq!((found.position, found.term), (Some(Position::new("at 100")), Term(2)));
    assert_eq!(found.beyond.ids(), [100, 102, 103]);
    assert_eq!(found.beyond.event_ids()[0], batch[0].event_id);

    // Once the relay has begun anew the position moves on, and what was named is behind it.
    assert!(publish_after(&mut third, &said_by(3, 104..105, &topic), "at 105").await.iter().all(is_delivered));
    within(third.close(PATIENCE)).await;
    let at_105 = Progress { position: Some(Position::new("at 105")), beyond: nothing, term: Term(3) };
    assert_eq!(progress_at_opening(&mut third, 3).await, at_105);
    let policy = topic_setting(&broker, &settings.progress_topic.name, "cleanup.policy").await;
    assert_eq!(policy, "compact");
}

#[tokio::test]
async fn the_progress_tells_of_a_transaction_exactly_if_it_was_committed() {
    let (broker, topic) = (testbed(), unique("exactly"));
    create_topic(&broker, &topic, 1, &[]).await;
    let settings = transactional(&broker, Delivery::ExactlyOnce);
    let mut next = 0;
    let mut both = [0; 2];
    for round in 0..12 {
        let mut sink = Sink::new(settings.clone()).expect("valid settings");
        let found = within(sink.open(Term(round), None)).await.expect("opens");
        let reached = found.and_then(|found| found.position);
        let reached: i64 = reached.map_or(0, |position| position.as_str().parse().expect("a number"));
        both[usize::from(round > 0 && reached == next)] += 1;
        next = reached;
        for _ in 0..4 {
            let records = said_by(round, next..next + 500, &topic);
            next += 500;
            let after = Position::new(next.to_string());
            let _unknown = within(sink.submit(&records, Some(&after))).await.expect("taken over");
        }
        // The process ends at any moment: before the commit, while it is under way, after it.
        tokio::time::sleep(Duration::from_micros(250 * round as u64)).await;
        drop(sink);
    }
    let mut sink = Sink::new(settings).expect("valid settings");
    let reached: i64 =
        progress_at_opening(&mut sink, 99).await.position.expect("a position").as_str().parse().expect("a number");
    eprintln!("undone and committed transactions: {both:?}");
    assert_whole_and_in_order(&read(&broker, &topic).await, 0..reached);
}

#[tokio::test]
async fn outboxes_share_a_topic_of_progress_and_each_finds_its_own() {
    let (broker, topic) = (testbed(), unique("shared"));
    create_topic(&broker, &topic, 1, &[]).await;
    let first = transactional(&broker, Delivery::ExactlyOnce);
    let second = Settings { source: unique("other"), ..first.clone() };
    create_topic(&broker, &first.progress_topic.name, 1, &[("cleanup.policy", "compact")]).await;
    let (mut one, mut other) = (open(first.clone()).await, open(second).await);
    assert!(publish_after(&mut one, &said_by(1, 0..1, &topic), "one's").await.iter().all(is_delivered));
    // More than is read at first, so that the search goes further back; and one of them is never committed.
    for id in 0..600 {
        publish_after(&mut other, &said_by(1, id..id + 1, &topic), "other's").await;
    }
    let _pending = within(other.submit(&said_by(1, 600..5_000, &topic), None)).await.expect("taken over");
    drop(other);
    let mut heir = Sink::new(first).expect("valid settings");
    within(heir.open(Term(2), None)).await.expect("opens");
    assert_eq!(progress_at_opening(&mut heir, 2).await.position, Some(Position::new("one's")));
}

#[tokio::test]
async fn a_topic_of_progress_that_forgets_is_refused_with_what_would_do() {
    let broker = testbed();
    let settings = transactional(&broker, Delivery::ExactlyOnce);
    create_topic(&broker, &settings.progress_topic.name, 1, &[("cleanup.policy", "delete")]).await;
    let mut sink = Sink::new(settings).expect("valid settings");
    let error = within(sink.open(TERM, None)).await.expect_err("it would be forgotten");
    assert!(matches!(error, SinkError::Unusable { .. }) && error.to_string().contains("cleanup.policy=compact"));
}

#[tokio::test]
async fn a_transaction_timeout_that_the_broker_does_not_allow_is_said_with_what_would_do() {
    let mut broker = testbed();
    broker.insert("transaction.timeout.ms".to_owned(), "2000000000".to_owned());
    let mut sink = Sink::new(transactional(&broker, Delivery::Fenced)).expect("valid settings");
    let error = within(sink.open(TERM, None)).await.expect_err("more than the broker's limit");
    assert!(matches!(error, SinkError::Unusable { .. }) && error.to_string().contains("transaction.max.timeout.ms"));
}

async fn topic_setting(broker: &BTreeMap<String, String>, topic: &str, name: &str) -> String {
    let described = admin(broker).describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await;
    let resource = described.expect("an answer").remove(0).expect("the topic is described");
    resource.get(name).and_then(|entry| entry.value.clone()).expect("a setting")
}
