//! The ledger by itself.

use std::sync::Arc;

use futures_util::FutureExt;

use super::submission::Submission;
use super::*;

fn delivered(offset: i64) -> Outcome {
    Outcome::Delivered { partition: 0, offset }
}

#[test]
fn outcomes_come_in_the_order_of_the_submission_whatever_the_order_of_the_reports() {
    let ledger = Arc::new(Ledger::default());
    let (mut submission, mut receipt) = Submission::begin(&ledger, 3);
    submission.set(1, Outcome::Held(HoldCause::MissingTopic));
    let tickets = [submission.ticket(0), submission.ticket(2)];
    submission.sent();
    submission.sent();
    drop(submission);
    ledger.report(tickets[1], delivered(8));
    assert_eq!((&mut receipt).now_or_never(), None);
    ledger.report(tickets[0], delivered(7));
    let outcomes = receipt.now_or_never().expect("the last report has come");
    assert_eq!(outcomes, [delivered(7), Outcome::Held(HoldCause::MissingTopic), delivered(8)]);
    assert!(ledger.is_idle());
}

#[test]
fn a_receipt_resolves_when_the_producer_is_abandoned_and_late_reports_harm_nothing() {
    let ledger = Arc::new(Ledger::default());
    let (mut submission, receipt) = Submission::begin(&ledger, 2);
    let tickets = [submission.ticket(0), submission.ticket(1)];
    submission.sent();
    submission.sent();
    ledger.report(tickets[0], delivered(1));
    ledger.abandon();
    drop(submission);
    ledger.report(tickets[1], delivered(2));
    assert_eq!(receipt.now_or_never(), Some(vec![delivered(1), Outcome::Unknown]));
    assert!(!ledger.is_healthy());
}

#[test]
fn slots_are_used_again_and_keep_their_records_apart() {
    let ledger = Arc::new(Ledger::default());
    for round in 0..10 {
        let (mut a, receipt_a) = Submission::begin(&ledger, 1);
        let (mut b, receipt_b) = Submission::begin(&ledger, 1);
        let tickets = [a.ticket(0), b.first_ticket(0)];
        a.sent();
        b.sent();
        drop((a, b));
        ledger.report(tickets[1], delivered(round));
        ledger.report(tickets[0], delivered(-round));
        assert_eq!(receipt_a.now_or_never(), Some(vec![delivered(-round)]));
        assert_eq!(receipt_b.now_or_never(), Some(vec![delivered(round)]));
    }
    assert!(ledger.state().slots.len() <= 2);
    assert!(ledger.warmed().now_or_never().is_some());
}

#[test]
fn a_submission_cut_short_resolves_once_what_was_sent_is_reported() {
    let ledger = Arc::new(Ledger::default());
    let (mut submission, mut receipt) = Submission::begin(&ledger, 5);
    let ticket = submission.ticket(0);
    submission.sent();
    drop(submission);
    assert_eq!((&mut receipt).now_or_never(), None);
    ledger.report(ticket, delivered(1));
    let outcomes = receipt.now_or_never().expect("nothing more will come");
    assert_eq!(outcomes[0], delivered(1));
    assert_eq!(outcomes[1..], [Outcome::Unknown, Outcome::Unknown, Outcome::Unknown, Outcome::Unknown]);
}

#[tokio::test]
async fn reports_wake_whoever_waits_for_room_and_a_spoilt_producer_wakes_everybody() {
    let ledger = Arc::new(Ledger::default());
    let (mut submission, _receipt) = Submission::begin(&ledger, 4);
    let tickets: Vec<usize> = (0..4).map(|index| submission.first_ticket(index)).collect();
    (0..4).for_each(|_| submission.sent());
    let waiting = ledger.queue_room(4);
    let mut waiting = pin!(waiting);
    assert!((&mut waiting).now_or_never().is_none());
    ledger.report(tickets[0], delivered(0));
    assert!((&mut waiting).now_or_never().is_some());

    assert!(ledger.warmed().now_or_never().is_none());
    let held = vec![HeldTopic { topic: "t".to_owned(), cause: HoldCause::NotAuthorised }];
    ledger.fail(Failure::because("first"));
    ledger.fail(Failure { held: held.clone(), ..Failure::because("second") });
    assert!(ledger.warmed().now_or_never().is_some() && ledger.drained().now_or_never().is_some());
    let failure = ledger.failure().expect("failed");
    assert_eq!((failure.reason.as_str(), failure.held), ("first", held));
}

#[test]
fn a_submission_wakes_whoever_waits_for_work_and_an_end_whoever_waits_for_that() {
    let ledger = Arc::new(Ledger::default());
    let (mut busy, mut ended, mut given_up) = (pin!(ledger.busy()), pin!(ledger.ended()), pin!(ledger.given_up()));
    assert!((&mut busy).now_or_never().is_none());
    let (submission, _receipt) = Submission::begin(&ledger, 1);
    assert!(busy.now_or_never().is_some());
    drop(submission);
    assert!((&mut ended).now_or_never().is_none());
    ledger.fail(Failure::because("refused"));
    assert!(ended.now_or_never().is_some());
    assert!((&mut given_up).now_or_never().is_none());
    ledger.abandon();
    assert!(given_up.now_or_never().is_some());
}

#[test]
fn a_transaction_begins_when_the_one_before_is_acknowledged_and_commits_when_that_is_committed() {
    let ledger = Arc::new(Ledger::default());
    let first = ledger.retain();
    let (mut submission, _receipt) = Submission::begin(&ledger, 1);
    let ticket = submission.ticket(0);
    submission.sent();
    drop(submission);
    assert!(ledger.predecessors_ended(first).now_or_never().is_some());
    assert!(ledger.transaction_slot().now_or_never().is_none(), "a record of the first is under way");
    ledger.report(ticket, delivered(1));
    assert!(ledger.transaction_slot().now_or_never().is_some());
    let second = ledger.retain();
    assert!(ledger.predecessors_ended(second).now_or_never().is_none(), "the first is not committed");
    assert!(ledger.transaction_slot().now_or_never().is_none(), "two are under way");
    ledger.release(Ended::Committed);
    assert!(ledger.predecessors_ended(second).now_or_never().is_some());
    assert!(ledger.transaction_slot().now_or_never().is_some());
    let third = ledger.retain();
    ledger.fail(Failure::because("refused"));
    assert!(ledger.predecessors_ended(third).now_or_never().is_some(), "it learns that it must not commit");
    ledger.release(Ended::Undone);
    assert_eq!(ledger.recover(), None, "one is open");
    ledger.release(Ended::Undone);
    assert_eq!(ledger.recover(), Some(Failure::because("refused")));
    assert_eq!((ledger.take_committed(), ledger.take_committed()), (1, 0));
    assert!(
        ledger.predecessors_ended(ledger.retain()).now_or_never().is_some(),
        "those that were undone have ended, too"
    );
}

#[test]
fn a_producer_whose_transaction_was_aborted_goes_on_once_it_is_mended() {
    let ledger = Arc::new(Ledger::default());
    ledger.retain();
    ledger.fail(Failure::because("refused"));
    assert_eq!(ledger.recover(), None, "the transaction is open");
    assert!(!ledger.is_idle());
    ledger.release(Ended::Undone);
    assert!(ledger.is_idle() && !ledger.is_healthy());
    assert_eq!(ledger.recover(), Some(Failure::because("refused")));
    assert!(ledger.is_healthy());
    ledger.retain();
    ledger.fail(Failure::because("fenced"));
    ledger.release(Ended::Unknown);
    assert_eq!(ledger.recover(), None, "nobody knows what became of it");
}

#[tokio::test(start_paused = true)]
async fn partitions_of_which_records_are_unanswered_for_long_are_named_unless_all_of_a_transaction_is() {
    const AGE: Duration = Duration::from_secs(5);
    let to = |partition| Destination { topic: 7, partition };
    let ledger = Arc::new(Ledger::default());
    let (mut submission, _receipt) = Submission::begin(&ledger, 3);
    for place in 0..3 {
        submission.sent();
        submission.went_to(place, to(place as i32));
    }
    let first = submission.ticket(0);
    drop(submission);
    assert_eq!(ledger.unanswered_for(AGE), []);
    tokio::time::advance(AGE).await;
    assert_eq!(ledger.unanswered_for(AGE), [to(0), to(1), to(2)]);

    ledger.retain();
    assert_eq!(ledger.unanswered_for(AGE), []);
    ledger.report(first, Outcome::Delivered { partition: 0, offset: 0 });
    assert_eq!(ledger.unanswered_for(AGE), [to(1), to(2)]);
}
