//! Purging: what is settled and old, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{Store, StoreError};
use outboxd::outbox::{Lane, Settle, Term};

use crate::contract::session::{ALL, Session, held, lead, settle};
use crate::contract::{Implementation, messages, write_all};

pub(crate) const NO_TIME: Duration = Duration::ZERO;

/// Rounds of purging, until there is no more.
pub(crate) async fn purge(store: &Arc<dyn Store>, term: Term, retention: Duration) -> u64 {
    let mut removed = 0;
    loop {
        let round = store.purge(term, retention).await.expect("a round");
        removed += round.removed;
        if !round.more {
            return removed;
        }
    }
}

/// Purges what is older than an instant ago, until so many rows are gone.
async fn purge_until(store: &Arc<dyn Store>, term: Term, expected: u64) {
    let mut removed = 0;
    while removed < expected {
        removed += purge(store, term, NO_TIME).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    removed += purge(store, term, NO_TIME).await;
    assert_eq!(removed, expected);
}

pub(crate) async fn settled_rows_go_when_they_are_older_than_the_retention(implementation: &dyn Implementation) {
    for mode in [Settle::Mark, Settle::Checkpoint] {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(2_500, "orders", "a")).await;
        let mut session = Session::open(&store).await;
        settle(&store, &session.read(ALL).await).await;
        session.save(term, Vec::new()).await;
        purge_until(&store, term, 2_500).await;
        assert_eq!(outbox.rows().await, [], "{mode}");
    }
}

pub(crate) async fn settled_rows_stay_for_the_retention(implementation: &dyn Implementation) {
    for mode in [Settle::Mark, Settle::Checkpoint] {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(5, "orders", "a")).await;
        let mut session = Session::open(&store).await;
        settle(&store, &session.read(ALL).await).await;
        session.save(term, Vec::new()).await;
        assert_eq!(purge(&store, term, Duration::from_secs(3_600)).await, 0, "{mode}");
        assert_eq!(outbox.rows().await.len(), 5, "{mode}");
    }
}

pub(crate) async fn an_unsettled_row_is_never_removed(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(6, "orders", "a")).await;
        let mut session = Session::open(&store).await;
        let batch = session.some(4).await;
        settle(&store, &batch.records).await;
        session.save(term, Vec::new()).await;
        session.read(ALL).await;
        purge_until(&store, term, if mode == Settle::Delete { 0 } else { 4 }).await;
        let left: Vec<i64> = outbox.rows().await.iter().map(|row| row.id).collect();
        let last = batch.records[3].id;
        assert_eq!(left, [last + 1, last + 2], "{mode}");
        assert_eq!(Session::open(&store).await.read(ALL).await.len(), 2, "{mode}");
    }
}

pub(crate) async fn a_held_row_is_never_removed(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(3, "held", "a")).await;
        write_all(&*outbox, &messages(3, "flowing", "a")).await;
        let all = Session::open(&store).await.read(ALL).await;
        let ids: Vec<i64> = all.iter().map(|record| record.id).collect();
        let mut session = Session::open(&store).await;
        let lane = held(Lane::topic_of("held"), ids[1]);
        session.reader.hold(lane.clone());
        let mut delivered = session.read(ALL).await;
        if mode == Settle::Mark {
            // A row of a held lane may be settled, after a release that a hold has ended.
            delivered.push(all[2].clone());
        }
        settle(&store, &delivered).await;
        session.save(term, vec![lane]).await;
        purge_until(&store, term, if mode == Settle::Delete { 0 } else { 4 }).await;
        let left: Vec<i64> = outbox.rows().await.iter().map(|row| row.id).collect();
        assert_eq!(left, ids[1..3], "{mode}");
    }
}

pub(crate) async fn a_purge_of_an_ended_term_is_refused(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Checkpoint).await;
    let store = outbox.store();
    let (mut leader, ended) = lead(&store).await;
    write_all(&*outbox, &messages(5, "orders", "a")).await;
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    session.save(ended, Vec::new()).await;
    leader.resign(ended).await.expect("resigned");
    let (_successor, term) = lead(&outbox.store()).await;
    let refused = store.purge(ended, NO_TIME).await;
    assert!(matches!(refused, Err(StoreError::TermOver { term }) if term == ended), "{refused:?}");
    assert_eq!(outbox.rows().await.len(), 5);
    purge_until(&store, term, 5).await;
}
