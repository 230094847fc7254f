//! Operations are kept with the outbox: what they send again, how far they are, and who asked for them.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use outboxd::contract::{Store, StoreError};
use outboxd::outbox::{
    Intent, Lane, Limit, Operation, OperationProgress, OperationState, Record, Replay, Settle, Term,
};

use crate::contract::session::{ALL, Session, held, lead, settle};
use crate::contract::{Implementation, message, messages, write_all};
use crate::support::operator;

fn replay(topic: &str) -> Replay {
    Replay { topic: topic.to_owned(), key: None, since: None, until: None, to_topic: None, rate: 100 }
}

async fn start(store: &Arc<dyn Store>, replay: &Replay) -> i64 {
    store.start_replay(replay, &operator::intent()).await.expect("an operation")
}

async fn next(store: &Arc<dyn Store>) -> Operation {
    store.next_operation().await.expect("an answer").expect("an operation runs")
}

/// All that an operation sends again, so many rows a page.
async fn sent_again(store: &Arc<dyn Store>, mut operation: Operation, records: usize) -> Vec<Record> {
    let mut all = Vec::new();
    while operation.progress.done_to < operation.last_id {
        let before = operation.progress.done_to;
        let page = store.replay_page(&operation, Limit { records, bytes: 1 << 20 }).await.expect("a page");
        assert!(page.records.len() <= records && page.unreadable.is_empty() && page.done_to > before, "{page:?}");
        all.extend(page.records);
        operation.progress.done_to = page.done_to;
    }
    all
}

fn ids(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.id).collect()
}

pub(crate) async fn a_replay_brings_what_was_sent_in_the_order_of_its_ids_and_nothing_else(
    implementation: &dyn Implementation,
) {
    for mode in [Settle::Mark, Settle::Checkpoint] {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(
            &*outbox,
            &[messages(3, "orders", "a"), messages(2, "users", "a"), messages(3, "orders", "b")].concat(),
        )
        .await;
        write_all(&*outbox, &messages(2, "held", "a")).await;
        let first_held = outbox.rows().await[8].id;
        let mut session = Session::open(&store).await;
        let lane = held(Lane::topic_of("held"), first_held);
        session.reader.hold(lane.clone());
        let read = session.read(ALL).await;
        settle(&store, &read).await;
        session.save(term, vec![lane]).await;
        // Neither sent nor read.
        write_all(&*outbox, &messages(2, "orders", "a")).await;

        start(&store, &replay("orders")).await;
        let operation = next(&store).await;
        let orders: Vec<i64> =
            ids(&read).into_iter().enumerate().filter(|(at, _)| ![3, 4].contains(at)).map(|(_, id)| id).collect();
        for at_a_time in [1, 2, 100] {
            let again = sent_again(&store, operation.clone(), at_a_time).await;
            assert_eq!(ids(&again), orders, "{mode}, {at_a_time} at a time");
            assert_eq!((again[0].event_id, &again[0].payload), (read[0].event_id, &read[0].payload), "{mode}");
        }
        let only = |replay: Replay| Operation { replay, ..operation.clone() };
        let of_key = only(Replay { key: Some("b".to_owned()), ..replay("orders") });
        assert_eq!(ids(&sent_again(&store, of_key, 10).await), orders[3..], "{mode}");
        let later = Utc::now() + TimeDelta::hours(24);
        let before_that = only(Replay { until: Some(later), ..replay("orders") });
        assert_eq!(sent_again(&store, before_that, 10).await.len(), 6, "{mode}");
        let since_then = only(Replay { since: Some(later), ..replay("orders") });
        assert_eq!(sent_again(&store, since_then, 10).await.len(), 0, "{mode}");
        assert_eq!(sent_again(&store, only(replay("held")), 10).await.len(), 0, "{mode}: what waits was not sent");
    }
}

pub(crate) async fn what_a_replay_would_send_is_told_beforehand(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let nothing = store.replayable(&replay("orders"), 1_000).await.expect("an answer");
    assert_eq!((nothing.rows, nothing.is_floor, nothing.written, nothing.oldest_kept), (0, false, None, None));
    write_all(&*outbox, &[messages(4, "orders", "a"), messages(2, "users", "a")].concat()).await;
    settle(&store, &Session::open(&store).await.read(ALL).await).await;
    write_all(&*outbox, &messages(2, "orders", "a")).await;
    let found = store.replayable(&replay("orders"), 1_000).await.expect("an answer");
    assert_eq!((found.rows, found.is_floor), (4, false));
    let (first, last) = found.written.expect("some were written");
    assert!(first <= last && found.oldest_kept.is_some_and(|oldest| oldest <= first), "{found:?}");
    let bounded = store.replayable(&replay("orders"), 5).await.expect("an answer");
    assert_eq!((bounded.rows, bounded.is_floor), (1, true), "of the last five one was sent to orders");
}

pub(crate) async fn operations_are_carried_out_in_turn_and_remembered(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    assert_eq!(store.next_operation().await.expect("an answer"), None);
    write_all(&*outbox, &[message("orders", "a"), message("orders", "b")]).await;
    let rows = outbox.rows().await;
    let because = Intent { reason: Some("a consumer lost them".to_owned()), ..operator::intent() };
    let asked = Replay {
        key: Some("a".to_owned()),
        since: Some(Utc::now() - TimeDelta::hours(1)),
        to_topic: Some("orders.again".to_owned()),
        ..replay("orders")
    };
    let first = store.start_replay(&asked, &because).await.expect("an operation");
    let second = start(&store, &replay("users")).await;
    assert!(second > first);

    let running = next(&store).await;
    assert_eq!((running.id, running.from_id, running.last_id), (first, rows[0].id - 1, rows[1].id));
    assert_eq!((running.progress.done_to, running.progress.sent), (running.from_id, 0));
    assert_eq!((running.reason.as_deref(), running.actor.as_str()), (Some("a consumer lost them"), "tester@here"));
    let since = |replay: &Replay| replay.since.map(|since| since.timestamp_millis());
    assert_eq!(
        (since(&running.replay), &running.replay.key, &running.replay.to_topic),
        (since(&asked), &asked.key, &asked.to_topic)
    );
    assert_eq!(outbox.store().orders().await.expect("orders").operation, Some(first));

    let progress = OperationProgress {
        done_to: rows[0].id,
        sent: 1,
        refused: 2,
        problem: Some("it waits".to_owned()),
        is_done: false,
    };
    assert!(store.note_progress(term, first, &progress).await.expect("noted"));
    assert_eq!(next(&outbox.store()).await.progress, progress);
    let done = OperationProgress { done_to: rows[1].id, sent: 2, problem: None, is_done: true, ..progress };
    assert!(!store.note_progress(term, first, &done).await.expect("noted"), "it is done");
    assert!(!store.note_progress(term, first, &progress_of(0)).await.expect("an answer"), "it has ended");

    assert_eq!(next(&store).await.id, second);
    assert!(store.cancel_operation(second, &operator::intent()).await.expect("an answer"));
    assert!(!store.cancel_operation(second, &operator::intent()).await.expect("an answer"), "it has ended");
    assert!(!store.note_progress(term, second, &progress_of(9)).await.expect("an answer"), "it was cancelled");
    assert_eq!(store.orders().await.expect("orders").operation, None);
    let all = store.operations(10).await.expect("operations");
    let told: Vec<_> = all
        .iter()
        .map(|operation| (operation.id, operation.state, operation.progress.sent, operation.ended_at.is_some()))
        .collect();
    assert_eq!(told, [(second, OperationState::Cancelled, 0, true), (first, OperationState::Done, 2, true)]);
    assert_eq!(store.operations(1).await.expect("operations").len(), 1);
}

fn progress_of(sent: u64) -> OperationProgress {
    OperationProgress { sent, ..OperationProgress::default() }
}

pub(crate) async fn the_progress_of_an_ended_term_is_refused(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let id = start(&store, &replay("orders")).await;
    let (mut leader, ended) = lead(&store).await;
    leader.resign(ended).await.expect("resigned");
    let (_successor, term) = lead(&outbox.store()).await;
    let refused = store.note_progress(ended, id, &progress_of(7)).await;
    assert!(matches!(refused, Err(StoreError::TermOver { term }) if term == ended), "{refused:?}");
    assert_eq!(next(&store).await.progress.sent, 0);
    assert!(store.note_progress(term, id, &progress_of(7)).await.expect("noted"));
    assert_ne!(term, Term(0));
}
