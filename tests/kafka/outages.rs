//! Brokers that go away, refuse, or are slow: on the client's in-process broker.

use futures_util::FutureExt as _;
use outboxd::contract::{Outcome, Sink as _, SinkError};

use super::*;
use crate::support::children;

/// Long enough for something that waits for nothing.
const SHORTLY: Duration = Duration::from_millis(300);

const MESSAGE_TOO_LARGE: i32 = 10;
const NOT_ENOUGH_REPLICAS: i32 = 19;
const NOT_LEADER: i32 = 6;

#[tokio::test]
async fn an_outage_costs_time_and_nothing_else() {
    let (broker, properties) = in_process("t", 3);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &records(0..300, "t", 7)).await.iter().all(is_delivered));

    children::take_down(&broker).expect("down");
    let mut receipts = Vec::new();
    for begin in (300..3_000).step_by(300) {
        receipts.push(within(sink.submit(&records(begin..begin + 300, "t", 7), None)).await.expect("taken over"));
    }
    assert!(receipts[0].as_mut().now_or_never().is_none());
    broker.up().expect("up");
    for receipt in receipts {
        assert!(within(receipt).await.iter().all(is_delivered));
    }
    assert_whole_and_in_order(&read(&properties, "t").await, 0..3_000);
}

#[tokio::test]
async fn nothing_more_is_handed_over_while_the_broker_is_behind() {
    let (broker, properties) = in_process("t", 3);
    let oldest = Duration::from_secs(2);
    let mut sink = open(Settings { oldest, ..settings(&properties) }).await;
    assert!(publish(&mut sink, &records(0..300, "t", 7)).await.iter().all(is_delivered));
    children::take_down(&broker).expect("down");
    let late = records(300..600, "t", 7);
    within(sink.prepare(&late)).await.expect("nothing is under way yet");
    let began = tokio::time::Instant::now();
    let receipt = within(sink.submit(&late, None)).await.expect("taken over");
    within(sink.prepare(&late)).await.expect("it is not late yet");
    assert!(began.elapsed() < oldest, "this machine is too busy for the test");
    tokio::time::sleep_until(began + oldest + Duration::from_millis(1)).await;
    let next = records(600..900, "t", 7);
    let mut preparing = sink.prepare(&next);
    assert!(tokio::time::timeout(SHORTLY, &mut preparing).await.is_err(), "the broker is behind");
    drop(preparing);
    broker.up().expect("up");
    within(sink.prepare(&next)).await.expect("the broker has caught up");
    assert!(within(receipt).await.iter().all(is_delivered));
    assert!(publish(&mut sink, &next).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&properties, "t").await, 0..900);
}

#[tokio::test]
async fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let (broker, properties) = in_process("t", 1);
    children::take_down(&broker).expect("down");
    let mut sink = open(settings(&properties)).await;
    let first = [record(1, "t", "a")];
    let mut submitting = sink.submit(&first, None);
    assert!(tokio::time::timeout(SHORTLY, &mut submitting).await.is_err(), "nobody can know the topic yet");
    broker.up().expect("up");
    let receipt = within(submitting).await.expect("taken over");
    assert!(within(receipt).await.iter().all(is_delivered));
}

#[tokio::test]
async fn the_first_record_on_a_partition_is_acknowledged_before_another_is_handed_over() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    let first = records(0..100, "t", 3);
    // Slow enough that one acknowledgement and the next can be told apart.
    broker.delay(SHORTLY).expect("slow");
    let began = tokio::time::Instant::now();
    let receipt = within(sink.submit(&first, None)).await.expect("taken over");
    assert!(began.elapsed() >= SHORTLY, "returned before the first record can have been acknowledged");
    broker.delay(Duration::ZERO).expect("fast");
    assert!(within(receipt).await.iter().all(is_delivered));

    children::take_down(&broker).expect("down");
    let second = records(100..200, "t", 3);
    let receipt = tokio::time::timeout(SHORTLY, sink.submit(&second, None))
        .await
        .expect("waits for nothing")
        .expect("taken over");
    broker.up().expect("up");
    assert!(within(receipt).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&properties, "t").await, 0..200);
}

/// One record at a time: this broker checks no sequence numbers, and would append what follows a refused batch.
#[tokio::test]
async fn errors_that_pass_are_retried_and_never_seen() {
    let (broker, properties) = in_process("t", 2);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    broker.refuse_appends(&[NOT_ENOUGH_REPLICAS, NOT_LEADER, NOT_ENOUGH_REPLICAS]).expect("prepared");
    for id in 1..10 {
        assert!(publish(&mut sink, &[record(id, "t", "a")]).await.iter().all(is_delivered));
    }
    assert_whole_and_in_order(&read(&properties, "t").await, 0..10);
}

/// Twelve seconds: a client that delivers nothing for ten is replaced.
#[tokio::test]
async fn records_that_are_delivered_slowly_are_waited_for() {
    let (broker, mut properties) = in_process("t", 1);
    properties.insert("batch.num.messages".to_owned(), "1".to_owned());
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    broker.delay(Duration::from_millis(300)).expect("slow");
    let slowly = records(1..201, "t", 7);
    let began = tokio::time::Instant::now();
    let outcomes = publish(&mut sink, &slowly).await;
    assert!(began.elapsed() > Duration::from_secs(11), "delivered within {:?}: too soon to tell", began.elapsed());
    assert!(outcomes.iter().all(is_delivered), "{outcomes:?}");
}

#[tokio::test]
async fn a_full_client_is_waited_for_and_nothing_is_dropped() {
    let (broker, properties) = in_process("t", 3);
    let mut sink = open(Settings { buffer_records: 50, ..settings(&properties) }).await;
    assert!(publish(&mut sink, &records(0..30, "t", 7)).await.iter().all(is_delivered));
    children::take_down(&broker).expect("down");
    let many = records(30..1_000, "t", 7);
    let mut submitting = sink.submit(&many, None);
    assert!(tokio::time::timeout(SHORTLY, &mut submitting).await.is_err(), "there is room for 50");
    broker.up().expect("up");
    let receipt = within(submitting).await.expect("taken over");
    assert!(within(receipt).await.iter().all(is_delivered));
    assert_whole_and_in_order(&read(&properties, "t").await, 0..1_000);
}

#[tokio::test]
async fn aborting_resolves_every_receipt_at_once_and_the_sink_can_be_opened_again() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    children::take_down(&broker).expect("down");
    let receipt = within(sink.submit(&records(1..100, "t", 3), None)).await.expect("taken over");
    sink.abort();
    assert_eq!(receipt.now_or_never(), Some(vec![Outcome::Unknown; 99]));
    let error = within(sink.submit(&[record(1, "t", "a")], None)).await.err().expect("not open");
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");

    broker.up().expect("up");
    within(sink.open(TERM, None)).await.expect("opens");
    assert!(publish(&mut sink, &records(1..100, "t", 3)).await.iter().all(is_delivered));
}

#[tokio::test]
async fn a_dropped_sink_resolves_its_receipts() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    children::take_down(&broker).expect("down");
    let receipt = within(sink.submit(&records(1..10, "t", 3), None)).await.expect("taken over");
    drop(sink);
    assert_eq!(receipt.now_or_never(), Some(vec![Outcome::Unknown; 9]));
}

#[tokio::test]
async fn a_submission_that_is_cut_off_leaves_a_sink_that_can_be_aborted_and_opened_again() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    broker.delay(Duration::from_secs(2)).expect("slow");
    assert!(tokio::time::timeout(SHORTLY, sink.submit(&records(0..10, "t", 3), None)).await.is_err());
    sink.abort();
    broker.delay(Duration::ZERO).expect("fast");
    within(sink.open(TERM, None)).await.expect("opens");
    assert!(publish(&mut sink, &records(0..10, "t", 3)).await.iter().all(is_delivered));
}

#[tokio::test]
async fn a_refused_batch_ends_the_producer_and_only_a_record_refused_alone_is_rejected() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    broker.refuse_appends(&[MESSAGE_TOO_LARGE]).expect("prepared");
    // What follows the refused batch is another test's: this broker checks no sequence numbers and appends it.
    let suspects = records(1..100, "t", 3);
    let outcomes = publish_or_reopen(&mut sink, &suspects).await;
    assert_eq!(outcomes[0], Outcome::Unknown);
    assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))), "{outcomes:?}");
    let error = within(sink.submit(&suspects, None)).await.err().expect("to be opened anew");
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");

    within(sink.open(TERM, None)).await.expect("opens");
    assert!(publish(&mut sink, &suspects[..1]).await.iter().all(is_delivered));

    // It is rejected once it fails alone: at once where it is still a suspect, else after it has become one again.
    broker.refuse_appends(&[MESSAGE_TOO_LARGE]).expect("prepared");
    let mut outcomes = publish_or_reopen(&mut sink, &suspects[..1]).await;
    if outcomes == [Outcome::Unknown] {
        within(sink.open(TERM, None)).await.expect("opens");
        broker.refuse_appends(&[MESSAGE_TOO_LARGE]).expect("prepared");
        outcomes = publish(&mut sink, &suspects[..1]).await;
    }
    assert!(
        matches!(&outcomes[..], [Outcome::Rejected(rejection)] if rejection.code == "message_too_large"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn opening_again_is_cheap_when_all_is_well_and_forgets_what_is_under_way_when_it_is_not() {
    let (broker, properties) = in_process("t", 1);
    let mut sink = open(settings(&properties)).await;
    assert!(publish(&mut sink, &[record(0, "t", "a")]).await.iter().all(is_delivered));
    assert!(sink.open(Term(2), None).now_or_never().is_some(), "nothing to do");
    children::take_down(&broker).expect("down");
    let receipt = within(sink.submit(&records(1..10, "t", 3), None)).await.expect("taken over");
    within(sink.open(Term(3), None)).await.expect("opens");
    assert_eq!(receipt.now_or_never(), Some(vec![Outcome::Unknown; 9]));
    broker.up().expect("up");
    assert!(publish(&mut sink, &records(1..10, "t", 3)).await.iter().all(is_delivered));
}
