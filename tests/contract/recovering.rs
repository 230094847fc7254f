//! Taking over what the broker knows to be published: exactly that is never read again.

use outboxd::contract::StoreError;
use outboxd::outbox::{Record, Settle, Settlement, Term};

use crate::contract::session::{ALL, Session, events, held, key_lane, lead};
use crate::contract::{Implementation, event_ids, messages, write_all};

fn none() -> Settlement {
    Settlement::default()
}

fn named(records: &[Record]) -> Settlement {
    let mut settlement = Settlement::out_of_line();
    records.iter().for_each(|record| settlement.push(record));
    settlement
}

pub(crate) async fn what_was_published_up_to_a_position_is_not_read_again(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let (before, after) = (messages(5, "orders", "a"), messages(5, "orders", "a"));
        write_all(&*outbox, &before).await;
        let mut session = Session::open(&store).await;
        session.read(ALL).await;
        session.reader.prove(term).await.expect("proven");
        let position = session.reader.position();
        write_all(&*outbox, &after).await;
        store.recover(term, Some(&position), &none()).await.expect("recovered");
        let mut next = Session::open(&store).await;
        assert_eq!(events(&next.read(ALL).await), event_ids(&after), "{settle}");
        let sent = outbox.rows().await.iter().filter(|row| row.is_sent).count();
        let kept = outbox.rows().await.len();
        let expected = match settle {
            Settle::Mark => (5, 10),
            Settle::Delete => (0, 5),
            Settle::Checkpoint => (0, 10),
        };
        assert_eq!((sent, kept), expected, "{settle}");
    }
}

pub(crate) async fn a_held_lane_is_not_taken_for_published(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut session = Session::open(&store).await;
        session.read(ALL).await;
        session.save(term, vec![held(key_lane("orders", "a"), 0)]).await;
        let (waiting, flowing) = (messages(3, "orders", "a"), messages(3, "orders", "b"));
        write_all(&*outbox, &waiting).await;
        write_all(&*outbox, &flowing).await;
        session.reader.hold(held(key_lane("orders", "a"), 0));
        assert_eq!(session.read(ALL).await.len(), 3);
        session.reader.prove(term).await.expect("proven");
        store.recover(term, Some(&session.reader.position()), &none()).await.expect("recovered");
        let mut next = Session::open(&store).await;
        assert!(next.read(ALL).await.is_empty(), "{settle}");
        next.reader.release(&key_lane("orders", "a"));
        assert_eq!(events(&next.read(ALL).await), event_ids(&waiting), "{settle}");
    }
}

pub(crate) async fn rows_named_beyond_the_position_are_recorded_in_every_mode(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let written = messages(6, "orders", "a");
        write_all(&*outbox, &written).await;
        let records = Session::open(&store).await.read(ALL).await;
        store.recover(term, None, &named(&records[..2])).await.expect("recovered");
        store.settle(&named(&records[2..4])).await.expect("settled out of line");
        let mut next = Session::open(&store).await;
        assert_eq!(events(&next.read(ALL).await), event_ids(&written[4..]), "{settle}");
    }
}

pub(crate) async fn an_older_progress_changes_nothing(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut session = Session::open(&store).await;
        write_all(&*outbox, &messages(3, "orders", "a")).await;
        session.read(ALL).await;
        session.reader.prove(term).await.expect("proven");
        let older = session.reader.position();
        let later = messages(3, "orders", "a");
        write_all(&*outbox, &later).await;
        let records = session.read(ALL).await;
        crate::contract::session::settle(&store, &records).await;
        session.save(term, Vec::new()).await;
        let last = messages(1, "orders", "a");
        write_all(&*outbox, &last).await;
        store.recover(term, Some(&older), &none()).await.expect("recovered");
        assert_eq!(events(&Session::open(&store).await.read(ALL).await), event_ids(&last), "{settle}");
    }
}

pub(crate) async fn a_position_inside_a_backlog_is_recovered_to_the_row(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        let outbox = implementation.outbox(settle).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let written = messages(10, "orders", "a");
        write_all(&*outbox, &written).await;
        let mut session = Session::open(&store).await;
        let mut read = session.some(4).await.records.len();
        read += session.some(4).await.records.len();
        session.reader.prove(term).await.expect("proven");
        store.recover(term, Some(&session.reader.position()), &none()).await.expect("recovered");
        let mut next = Session::open(&store).await;
        assert_eq!(events(&next.read(ALL).await), event_ids(&written[read..]), "{settle}");
    }
}

pub(crate) async fn a_progress_of_an_ended_term_is_refused_and_so_is_proof(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let written = messages(2, "orders", "a");
    write_all(&*outbox, &written).await;
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    let over = Term(term.0 - 1);
    let position = session.reader.position();
    let refused = store.recover(over, Some(&position), &none()).await;
    assert!(matches!(refused, Err(StoreError::TermOver { .. })), "{refused:?}");
    let refused = session.reader.prove(over).await;
    assert!(matches!(refused, Err(StoreError::TermOver { .. })), "{refused:?}");
    session.reader.prove(term).await.expect("the session is as good as before");
    assert_eq!(events(&Session::open(&store).await.read(ALL).await), event_ids(&written));
}

pub(crate) async fn a_progress_ahead_of_the_database_is_refused(implementation: &dyn Implementation) {
    let (outbox, other) = (implementation.outbox(Settle::Mark).await, implementation.outbox(Settle::Mark).await);
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let mut session = Session::open(&other.store()).await;
    for _ in 0..50 {
        write_all(&*other, &messages(1, "orders", "a")).await;
    }
    session.read(ALL).await;
    let ahead = implementation.ahead(session.reader.position());
    let refused = store.recover(term, Some(&ahead), &none()).await;
    assert!(matches!(refused, Err(StoreError::Incompatible { .. })), "{refused:?}");
}
