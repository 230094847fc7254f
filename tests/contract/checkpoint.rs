//! The checkpoint: where the next session begins.

use outboxd::contract::StoreError;
use outboxd::outbox::{Settle, Term};

use crate::contract::session::{ALL, Session, events, lead, settle};
use crate::contract::{Implementation, event_ids, message, messages, write, write_all};

pub(crate) async fn a_session_begins_at_the_stored_checkpoint(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let (before, after) = (messages(3, "orders", "a"), messages(3, "orders", "a"));
        write_all(&*outbox, &before).await;
        let mut session = Session::open(&store).await;
        settle(&store, &session.read(ALL).await).await;
        session.save(term, Vec::new()).await;
        write_all(&*outbox, &after).await;
        assert_eq!(events(&Session::open(&outbox.store()).await.read(ALL).await), event_ids(&after), "{mode}");
        assert_eq!(events(&session.read(ALL).await), event_ids(&after), "{mode}: the session reads on");
    }
}

pub(crate) async fn a_checkpoint_inside_a_backlog_is_a_beginning_too(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut written = messages(10, "orders", "a");
        write_all(&*outbox, &written).await;
        let mut session = Session::open(&store).await;
        let batch = session.some(4).await;
        settle(&store, &batch.records).await;
        session.save(term, Vec::new()).await;
        let new = messages(2, "orders", "a");
        write_all(&*outbox, &new).await;
        written.extend(new);
        let read = Session::open(&outbox.store()).await.read(3).await;
        assert_eq!(events(&read), event_ids(&written[4..]), "{mode}");
    }
}

pub(crate) async fn a_row_that_commits_after_the_checkpoint_is_read_by_the_next_session(
    implementation: &dyn Implementation,
) {
    let outbox = implementation.outbox(Settle::Checkpoint).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let (early, late) = (messages(3, "orders", "early"), messages(3, "orders", "late"));
    let mut writer = outbox.begin().await;
    for message in &late {
        writer.enqueue(message).await;
    }
    write_all(&*outbox, &early).await;
    let mut session = Session::open(&store).await;
    assert_eq!(events(&session.read(2).await), event_ids(&early));
    session.save(term, Vec::new()).await;
    writer.commit().await;
    assert_eq!(events(&Session::open(&outbox.store()).await.read(2).await), event_ids(&late));
}

pub(crate) async fn an_empty_outbox_has_a_checkpoint(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Checkpoint).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    session.save(term, Vec::new()).await;
    session.save(term, Vec::new()).await;
    let first = message("orders", "a");
    write(&*outbox, &first).await;
    assert_eq!(events(&Session::open(&store).await.read(ALL).await), [first.event_id()]);
}

pub(crate) async fn a_checkpoint_of_an_ended_term_is_refused(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Checkpoint).await;
    let store = outbox.store();
    let written = messages(3, "orders", "a");
    write_all(&*outbox, &written).await;
    let (mut leader, ended) = lead(&store).await;
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    leader.resign(ended).await.expect("resigned");
    let (_successor, term) = lead(&outbox.store()).await;
    for wrong in [ended, Term(term.0 + 1)] {
        let refused = session.reader.save(&session.checkpoint(wrong, Vec::new())).await;
        assert!(matches!(refused, Err(StoreError::TermOver { term }) if term == wrong), "{refused:?}");
        assert_eq!(events(&Session::open(&store).await.read(ALL).await), event_ids(&written), "nothing was stored");
    }
}
