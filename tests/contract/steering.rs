//! What operators ask of relays is kept with the outbox, and told to whoever looks.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use outboxd::contract::{Bid, Store};
use outboxd::outbox::{Intent, Pause, Settle, Term, TopicPattern};

use crate::contract::Implementation;
use crate::support::operator;
use crate::support::wait::{self, PATIENCE};

fn topics(pattern: &str) -> TopicPattern {
    pattern.parse().expect("a pattern")
}

async fn pauses(store: &dyn Store) -> Vec<Pause> {
    store.orders().await.expect("orders").pauses
}

pub(crate) async fn a_pause_lasts_until_it_is_resumed(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    assert_eq!(store.orders().await.expect("orders"), outboxd::outbox::Orders::default());
    let because = |reason: &str| Intent { reason: Some(reason.to_owned()), ..operator::intent() };
    store.pause(&topics("orders.*"), None, &because("Kafka moves")).await.expect("it is paused");
    store.pause(&TopicPattern::any(), None, &operator::intent()).await.expect("it is paused");

    let seen = pauses(&*outbox.store()).await;
    let told: Vec<_> =
        seen.iter().map(|pause| (pause.topics.as_str(), pause.reason.as_deref(), &*pause.actor)).collect();
    assert_eq!(told, [("orders.*", Some("Kafka moves"), "tester@here"), ("*", None, "tester@here")]);
    assert!(seen.iter().all(|pause| pause.until.is_none() && (Utc::now() - pause.since).abs() < TimeDelta::hours(1)));

    // Said again, it lasts as long as was said last, and since it was said first.
    let until = Utc::now() + TimeDelta::hours(2);
    store.pause(&topics("orders.*"), Some(until), &because("it takes longer")).await.expect("it is paused");
    let again = pauses(&*store).await;
    assert_eq!((again.len(), again[0].since), (2, seen[0].since));
    assert_eq!(again[0].reason.as_deref(), Some("it takes longer"));
    assert!(again[0].until.is_some_and(|ends| (ends - until).abs() < TimeDelta::milliseconds(2)), "{again:?}");

    assert!(!store.resume(&topics("orders.paid"), &operator::intent()).await.expect("an answer"), "another pattern");
    assert!(store.resume(&TopicPattern::any(), &operator::intent()).await.expect("an answer"));
    assert!(!store.resume(&TopicPattern::any(), &operator::intent()).await.expect("an answer"), "it was resumed");
    assert_eq!(pauses(&*outbox.store()).await, again[..1]);
}

pub(crate) async fn a_pause_that_ended_by_itself_is_neither_told_nor_resumed(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let soon = Utc::now() + TimeDelta::milliseconds(500);
    store.pause(&topics("orders"), Some(soon), &operator::intent()).await.expect("it is paused");
    wait::until_true("it ends by itself", PATIENCE, async || pauses(&*store).await.is_empty()).await;
    assert!(Utc::now() >= soon - TimeDelta::milliseconds(1), "not before its time");
    assert!(!store.resume(&topics("orders"), &operator::intent()).await.expect("an answer"));

    store.pause(&topics("orders"), None, &operator::intent()).await.expect("it is paused");
    let anew = pauses(&*store).await;
    assert!(anew.len() == 1 && anew[0].since >= soon - TimeDelta::milliseconds(1), "a pause of its own: {anew:?}");
}

pub(crate) async fn the_leader_of_a_term_is_asked_to_step_down_and_no_other(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let asked = async |term| store.request_step_down(term, &operator::intent()).await.expect("an answer");
    assert!(!asked(Term(1)).await, "nobody leads");
    let mut first = store.lease("first", Duration::from_secs(60)).await.expect("a session");
    let Bid::Won(term) = first.bid().await.expect("an answer") else { panic!("the lease is free") };
    assert!(!asked(Term(term.0 + 1)).await, "that term has not begun");
    assert!(asked(term).await);
    assert_eq!(outbox.store().orders().await.expect("orders").step_down, Some(term));
    // It leads until it gives its lease up.
    first.renew(term).await.expect("it may go on");

    first.resign(term).await.expect("it resigns");
    assert!(!asked(term).await, "it has stepped down");
    let mut second = store.lease("second", Duration::from_secs(60)).await.expect("a session");
    let Bid::Won(next) = second.bid().await.expect("an answer") else { panic!("the lease is free") };
    assert_ne!(store.orders().await.expect("orders").step_down, Some(next), "the next leader is not concerned");
}

pub(crate) async fn standbys_are_told_while_they_say_so(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let told = async || store.standbys().await.expect("standbys");
    assert!(told().await.is_empty());
    for (holder, is_standby) in [("b", true), ("a", true), ("b", true), ("c", false)] {
        store.attend(holder, is_standby).await.expect("noted");
    }
    assert_eq!(told().await, ["a", "b"]);
    outbox.store().attend("b", false).await.expect("noted");
    assert_eq!(told().await, ["a"]);
}
