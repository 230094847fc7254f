//! The backlog: what waits, counted with a bound.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{Backlog, Bid, Store, TopicBacklog};
use outboxd::outbox::{Lane, Settle, Term};
use tokio::time::timeout;

use crate::contract::session::{ALL, Session, held, lead, settle};
use crate::contract::{Implementation, message, messages, write, write_all};

pub(crate) async fn the_backlog_is_what_waits(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let empty = store.backlog(100).await.expect("a backlog");
        let Backlog { oldest_snapshot, sessions, .. } = empty;
        assert_eq!(empty, Backlog { oldest_snapshot, sessions, ..Backlog::default() }, "{mode}");
        write_all(&*outbox, &messages(5, "orders", "a")).await;
        let mut session = Session::open(&store).await;
        for left in [5, 3, 0] {
            let backlog = store.backlog(100).await.expect("a backlog");
            let late = store.bring_back_late().await.expect("a look");
            assert_eq!((backlog.unsent, backlog.capped, late), (left, false, 0), "{mode}");
            if left == 0 {
                assert_eq!(backlog.oldest, Duration::ZERO, "{mode}");
            } else {
                grows_old(&*store, mode).await;
            }
            let batch = session.some(if left == 5 { 2 } else { 3 }).await;
            settle(&store, &batch.records).await;
            session.save(term, Vec::new()).await;
        }
        let drained = store.backlog(100).await.expect("a backlog");
        assert_eq!((drained.unsent, drained.oldest), (0, Duration::ZERO), "{mode}");
    }
}

/// Holds a topic from an id on, settles all else that there is, and stores that.
async fn hold_topic(store: &Arc<dyn Store>, term: Term, topic: &str, from_id: i64) {
    let mut session = Session::open(store).await;
    let lane = held(Lane::topic_of(topic), from_id);
    session.reader.hold(lane.clone());
    settle(store, &session.read(ALL).await).await;
    session.save(term, vec![lane]).await;
}

/// What waits has an age as soon as the database's clock has moved on; SQLite's counts milliseconds.
async fn grows_old(store: &dyn Store, mode: Settle) {
    let aged = async {
        while store.backlog(100).await.expect("a backlog").oldest.is_zero() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(10), aged).await.is_ok(), "{mode}: what waits has no age");
}

pub(crate) async fn the_backlog_is_counted_up_to_a_limit(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        write_all(&*outbox, &messages(10, "orders", "a")).await;
        let some = store.backlog(4).await.expect("a backlog");
        assert_eq!((some.unsent, some.capped), (4, true), "{mode}");
        let all = store.backlog(100).await.expect("a backlog");
        assert_eq!((all.unsent, all.capped), (10, false), "{mode}");
    }
}

pub(crate) async fn the_backlog_names_the_topics_that_wait_longest(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(3, "held", "a")).await;
        let from_id = outbox.rows().await[0].id;
        hold_topic(&store, term, "held", from_id).await;
        grows_old(&*store, mode).await;
        write_all(&*outbox, &messages(1, "later", "a")).await;
        write_all(&*outbox, &messages(1, "later", "b")).await;
        let named = async |limit| {
            let backlog = store.backlog(limit).await.expect("a backlog");
            backlog.topics.into_iter().map(|topic| (topic.topic, topic.unsent)).collect::<Vec<_>>()
        };
        assert_eq!(named(100).await, [("held".to_owned(), 3), ("later".to_owned(), 2)], "{mode}");
        let ages: Vec<Duration> =
            store.backlog(100).await.expect("a backlog").topics.iter().map(|topic| topic.oldest).collect();
        assert!(ages[0] > ages[1], "{mode}: {ages:?}");

        for number in 0..2 * TopicBacklog::MOST {
            write(&*outbox, &message(&format!("topic-{number}"), "a")).await;
        }
        let backlog = store.backlog(100).await.expect("a backlog");
        assert_eq!((backlog.unsent, backlog.topics.len()), (45, TopicBacklog::MOST), "{mode}");
        assert_eq!(backlog.topics[0].topic, "held", "{mode}");
        assert!(backlog.topics.is_sorted_by(|one, next| one.oldest >= next.oldest), "{mode}");
    }
}

pub(crate) async fn held_rows_below_the_checkpoint_wait_and_are_not_late(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &messages(3, "held", "a")).await;
        let from_id = outbox.rows().await[0].id;
        write_all(&*outbox, &messages(2, "flowing", "a")).await;
        hold_topic(&store, term, "held", from_id).await;
        let backlog = store.backlog(100).await.expect("a backlog");
        let late = store.bring_back_late().await.expect("a look");
        assert_eq!((backlog.unsent, late), (3, 0), "{mode}: {backlog:?}");
        assert!(!backlog.oldest.is_zero(), "{mode}");
    }
}

/// It never should be there: this is how an operator would learn that a promise broke.
pub(crate) async fn an_unsettled_row_below_the_checkpoint_is_late(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    write_all(&*outbox, &messages(3, "orders", "a")).await;
    let mut session = Session::open(&store).await;
    settle(&store, &session.read(ALL).await[..2]).await;
    session.save(term, Vec::new()).await;
    // Looking for late rows may take several looks.
    while store.bring_back_late().await.expect("a look") != 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn the_leader_is_told_while_its_lease_lasts(implementation: &dyn Implementation) {
    const TTL: Duration = Duration::from_secs(60);
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let leader = async || store.leader().await.expect("an answer");
    assert_eq!(leader().await, None);
    let mut lease = store.lease("relay-a", TTL).await.expect("a session");
    let Bid::Won(term) = lease.bid().await.expect("a bid") else { panic!("no other leads") };
    let told = leader().await.expect("one leads");
    assert_eq!((told.term, &*told.holder), (term, "relay-a"));
    assert!(told.remaining <= TTL && told.remaining > TTL / 2, "{told:?}");
    lease.resign(term).await.expect("resigned");
    assert_eq!(leader().await, None);

    let mut brief = store.lease("relay-b", Duration::from_millis(50)).await.expect("a session");
    let Bid::Won(_) = brief.bid().await.expect("a bid") else { panic!("no other leads") };
    let has_run_out = async {
        while leader().await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(Duration::from_secs(10), has_run_out).await.is_ok(), "its lease ran out");
}

pub(crate) async fn the_oldest_message_ages(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    write(&*outbox, &message("orders", "a")).await;
    let oldest = async || store.backlog(100).await.expect("a backlog").oldest;
    let first = oldest().await;
    assert!(first < Duration::from_secs(60), "{first:?}");
    while oldest().await < first + Duration::from_millis(50) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn the_footprint_grows_with_the_rows(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let before = store.footprint().await.expect("a footprint").bytes;
    write_all(&*outbox, &messages(2_000, "orders", "a")).await;
    let after = store.footprint().await.expect("a footprint").bytes;
    assert!(after > before, "{before} and {after} bytes");
}
