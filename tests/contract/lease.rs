//! The lease: one leader, and terms that grow.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use outboxd::contract::{Bid, LeaseSession, Store, StoreError};
use outboxd::outbox::{Settle, Term};
use tokio::time::Instant;

use crate::contract::Implementation;
use crate::support::wait;

/// Long enough to renew in time on a busy machine, short enough to wait for.
const TTL: Duration = Duration::from_millis(1_500);

/// Longer than anything takes that waits for a lease.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database's clock and ours may be cut to milliseconds differently.
const ROUNDING: Duration = Duration::from_millis(5);

async fn session(store: &Arc<dyn Store>, holder: &str) -> Box<dyn LeaseSession> {
    session_of(store, holder, TTL).await
}

async fn session_of(store: &Arc<dyn Store>, holder: &str, ttl: Duration) -> Box<dyn LeaseSession> {
    store.lease(holder, ttl).await.expect("a lease session opens")
}

async fn bid(session: &mut Box<dyn LeaseSession>) -> Bid {
    session.bid().await.expect("a bid")
}

/// Bids until it is won, as a standby does.
async fn win(session: &mut Box<dyn LeaseSession>) -> Term {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "it bids in vain");
        match bid(session).await {
            Bid::Won(term) => return term,
            Bid::Taken => tokio::time::sleep(Duration::from_millis(20)).await,
            Bid::Wait(wait) => tokio::time::sleep(wait.min(TTL / 20)).await,
        }
    }
}

pub(crate) async fn a_free_lease_is_won(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut leader = session(&outbox.store(), "one").await;
    let Bid::Won(term) = bid(&mut leader).await else { panic!("the lease was free") };
    leader.renew(term).await.expect("renewed");
}

pub(crate) async fn a_lease_is_not_taken_over_while_it_is_renewed(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut leader = session(&outbox.store(), "one").await;
    let mut rival = session(&outbox.store(), "two").await;
    let term = win(&mut leader).await;
    let end = Instant::now() + TTL * 2;
    while Instant::now() < end {
        leader.renew(term).await.expect("renewed");
        let rivals = bid(&mut rival).await;
        assert!(!matches!(rivals, Bid::Won(_)), "{rivals:?}");
        tokio::time::sleep(TTL / 10).await;
    }
}

pub(crate) async fn a_resigned_lease_is_won_at_once_and_terms_grow(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let (mut one, mut other) = (session(&outbox.store(), "one").await, session(&outbox.store(), "two").await);
    let mut last = Term(i64::MIN);
    for _ in 0..4 {
        let begun = Instant::now();
        let term = win(&mut one).await;
        assert!(term > last, "{term} after {last}");
        assert!(begun.elapsed() < TTL, "nobody waits for a lease that was resigned");
        one.resign(term).await.expect("resigned");
        last = term;
        std::mem::swap(&mut one, &mut other);
    }
}

pub(crate) async fn a_lease_that_ran_out_is_taken_over_and_its_term_is_over(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut leader = session(&outbox.store(), "one").await;
    let mut successor = session(&outbox.store(), "two").await;
    let begun = Instant::now();
    let ended = win(&mut leader).await;
    let term = win(&mut successor).await;
    assert!(begun.elapsed() + ROUNDING >= TTL, "taken over after {:?}", begun.elapsed());
    assert!(term > ended);
    // Its session may be gone by now, which ends the leadership as well.
    let refused = leader.renew(ended).await.expect_err("the lease is another's");
    assert!(matches!(refused, StoreError::TermOver { .. } | StoreError::Unavailable { .. }), "{refused}");
    let mut again = session(&outbox.store(), "one").await;
    let refused = again.renew(ended).await.expect_err("the lease is another's");
    assert!(matches!(refused, StoreError::TermOver { term } if term == ended), "{refused}");
    successor.renew(term).await.expect("renewed");
}

pub(crate) async fn a_lost_session_leaves_its_lease_to_run_out(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut leader = session(&outbox.store(), "one").await;
    let begun = Instant::now();
    let ended = win(&mut leader).await;
    drop(leader);
    let term = win(&mut session(&outbox.store(), "two").await).await;
    assert!(term > ended);
    assert!(begun.elapsed() + ROUNDING >= TTL, "taken over after {:?}", begun.elapsed());
}

pub(crate) async fn a_holder_takes_its_own_lease_again_at_once(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let mut lost = session(&store, "one").await;
    let begun = Instant::now();
    let ended = win(&mut lost).await;
    drop(lost);
    let mut again = session(&store, "one").await;
    let term = win(&mut again).await;
    assert!(begun.elapsed() < TTL, "it waited {:?} for itself", begun.elapsed());
    assert!(term > ended);
    let mut other = session(&store, "two").await;
    let others = bid(&mut other).await;
    assert!(!matches!(others, Bid::Won(_)), "{others:?}");
}

pub(crate) async fn a_lease_is_resigned_through_another_session_when_its_own_is_lost(
    implementation: &dyn Implementation,
) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let mut lost = session(&store, "one").await;
    let begun = Instant::now();
    let ended = win(&mut lost).await;
    drop(lost);
    session(&store, "one").await.resign(ended).await.expect("resigned");
    assert!(win(&mut session(&store, "two").await).await > ended);
    assert!(begun.elapsed() < TTL, "nobody waits for a lease that was resigned");
}

pub(crate) async fn whoever_fences_waits_no_longer_for_a_lost_session_than_others(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let mut leader = session(&store, "one").await;
    let (mut rival, mut heir) = (session(&store, "two").await, session(&store, "three").await);
    leader.fence("shop");
    heir.fence("shop");
    let begun = Instant::now();
    let ended = win(&mut leader).await;
    let while_it_lives = bid(&mut heir).await;
    assert!(!matches!(while_it_lives, Bid::Won(_)), "{while_it_lives:?}");
    drop(leader);
    let term = win(&mut heir).await;
    assert!(term > ended && begun.elapsed() < TTL * 2);
    let rivals = bid(&mut rival).await;
    assert!(!matches!(rivals, Bid::Won(_)), "{rivals:?}");
    heir.renew(term).await.expect("renewed");
}

pub(crate) async fn resigning_an_ended_term_does_nothing(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let (mut one, mut other) = (session(&outbox.store(), "one").await, session(&outbox.store(), "two").await);
    let ended = win(&mut one).await;
    one.resign(ended).await.expect("resigned");
    let term = win(&mut other).await;
    one.resign(ended).await.expect("nothing to resign");
    let rivals = bid(&mut one).await;
    assert!(!matches!(rivals, Bid::Won(_)), "{rivals:?}");
    other.renew(term).await.expect("still the leader");
}

pub(crate) async fn one_of_many_bidders_wins(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let names: Vec<String> = (0..6).map(|number| format!("bidder {number}")).collect();
    let mut sessions = join_all(names.iter().map(|name| session(&store, name))).await;
    let bids = join_all(sessions.iter_mut().map(bid)).await;
    let won = bids.iter().filter(|bid| matches!(bid, Bid::Won(_))).count();
    assert_eq!(won, 1, "{bids:?}");
}

/// A clock that is set forward makes every lease look run out long ago; set back, as if it lasted for hours.
pub(crate) async fn a_clock_that_is_set_neither_ends_a_lease_nor_prolongs_it(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (mut leader, mut rival) = (session(&store, "one").await, session(&store, "two").await);
    let term = win(&mut leader).await;
    for hours in [2, -2, 2, -2, 2, -2].into_iter().cycle().take(12) {
        outbox.set_clock(hours).await;
        for _ in 0..2 {
            let rivals = bid(&mut rival).await;
            assert!(!matches!(rivals, Bid::Won(_)), "{rivals:?}, set by {hours} h");
            tokio::time::sleep(TTL / 10).await;
        }
        leader.renew(term).await.expect("still the leader");
    }
    bid(&mut rival).await;
    outbox.set_clock(-2).await;
    let died = Instant::now();
    drop(leader);
    assert!(win(&mut rival).await > term);
    let took = died.elapsed();
    assert!(took + TTL / 10 >= TTL && took < TTL + wait::SLACK, "taken over after {took:?}");
}

pub(crate) async fn a_bidder_waits_as_long_as_the_holder_may_trust_its_lease(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (mut leader, mut hasty) = (session(&store, "one").await, session_of(&store, "two", TTL / 5).await);
    let begun = Instant::now();
    let ended = win(&mut leader).await;
    bid(&mut hasty).await;
    drop(leader);
    assert!(win(&mut hasty).await > ended);
    assert!(begun.elapsed() + ROUNDING >= TTL, "taken over after {:?}", begun.elapsed());
}

pub(crate) async fn whoever_fences_waits_for_a_holder_that_the_broker_does_not_know_by_that_name(
    implementation: &dyn Implementation,
) {
    for holders in [None, Some("another shop")] {
        let outbox = implementation.outbox(Settle::Mark).await;
        let store = outbox.store();
        let (mut leader, mut heir) = (session(&store, "one").await, session(&store, "two").await);
        holders.into_iter().for_each(|name| leader.fence(name));
        heir.fence("shop");
        let begun = Instant::now();
        let ended = win(&mut leader).await;
        drop(leader);
        assert!(win(&mut heir).await > ended);
        assert!(begun.elapsed() + ROUNDING >= TTL, "taken over after {:?} from {holders:?}", begun.elapsed());
    }
}
