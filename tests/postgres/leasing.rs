//! One leader at a time.

use std::time::Duration;

use outboxd::contract::{Bid, LeaseSession, LeaseStore, StoreError};
use outboxd::outbox::{Settle, Term};
use tokio::time::Instant;

use super::server::{Outbox, execute, newest, servers, store};
use crate::support::wait;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(800);

async fn bidder(outbox: &Outbox, name: &str, ttl: Duration) -> Box<dyn LeaseSession> {
    outbox.store.lease(name, ttl).await.unwrap()
}

/// Bids until it wins, as a standby does, and says how long that took.
async fn win(lease: &mut dyn LeaseSession) -> (Term, Duration) {
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < LONG, "it bids in vain");
        match lease.bid().await.unwrap() {
            Bid::Won(term) => return (term, begin.elapsed()),
            // The server ends a session that is silent for the time to live, so bids come more often than that.
            Bid::Wait(wait) => tokio::time::sleep(wait.min(SHORT / 4)).await,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[tokio::test]
async fn only_one_session_leads_and_a_resigned_lease_is_won_at_once() {
    for url in servers() {
        let outbox = Outbox::new(&url, "lease").await;
        let (mut first, mut second) = (bidder(&outbox, "first", LONG).await, bidder(&outbox, "second", LONG).await);
        let Bid::Won(term) = first.bid().await.unwrap() else { panic!("nobody else bids") };
        assert_eq!(second.bid().await.unwrap(), Bid::Taken);
        first.renew(term).await.unwrap();
        first.resign(term).await.unwrap();
        assert_eq!(second.bid().await.unwrap(), Bid::Won(Term(term.0 + 1)));
        assert!(matches!(first.renew(term).await, Err(StoreError::TermOver { .. })));
        first.resign(term).await.unwrap();
        second.renew(Term(term.0 + 1)).await.unwrap();
    }
}

#[tokio::test]
async fn the_lease_of_a_process_that_died_is_waited_for() {
    for url in servers() {
        let outbox = Outbox::new(&url, "died").await;
        let (mut first, mut second) = (bidder(&outbox, "first", SHORT).await, bidder(&outbox, "second", SHORT).await);
        let begin = Instant::now();
        let Bid::Won(term) = first.bid().await.unwrap() else { panic!("nobody else bids") };
        drop(first);
        let (next, took) = win(&mut *second).await;
        assert_eq!(next, Term(term.0 + 1));
        assert!(took < SHORT + wait::SLACK, "{took:?} on {url}");
        assert!(begin.elapsed() >= SHORT, "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_holder_that_went_silent_loses_its_lock_when_its_lease_has_run_out() {
    for url in servers() {
        let outbox = Outbox::new(&url, "silent").await;
        let (mut first, mut second) = (bidder(&outbox, "first", SHORT).await, bidder(&outbox, "second", SHORT).await);
        let Bid::Won(term) = first.bid().await.unwrap() else { panic!("nobody else bids") };
        // The first stays connected and does nothing, as a process that is paused.
        let (next, took) = win(&mut *second).await;
        assert_eq!(next, Term(term.0 + 1));
        assert!(took < SHORT + wait::SLACK, "{took:?} on {url}");
        assert!(first.renew(term).await.is_err());
    }
}

/// A clock that was set forward, or a time that only an operator can have written.
#[tokio::test]
async fn a_healthy_leader_keeps_its_term_whatever_the_clock_says() {
    for url in servers() {
        let outbox = Outbox::new(&url, "clock").await;
        let (mut first, mut second) = (bidder(&outbox, "first", SHORT).await, bidder(&outbox, "second", SHORT).await);
        let Bid::Won(term) = first.bid().await.unwrap() else { panic!("nobody else bids") };
        let mut conn = outbox.connect().await;
        for time in ["'2001-02-03'", "'-infinity'", "'infinity'", "'2999-01-01'"] {
            outbox.run(&mut conn, &format!("update outbox_lease set expires_at = {time}")).await;
            assert_eq!(second.bid().await.unwrap(), Bid::Taken, "{time} on {url}");
            first.renew(term).await.unwrap();
        }
        outbox.run(&mut conn, "update outbox_lease set expires_at = 'infinity'").await;
        drop(first);
        let (next, took) = win(&mut *second).await;
        assert_eq!(next, Term(term.0 + 1));
        assert!(took >= SHORT && took < SHORT + wait::SLACK, "{took:?} on {url}");
    }
}

#[tokio::test]
async fn a_session_that_lost_its_connection_refuses_to_go_on() {
    let outbox = Outbox::new(&newest(), "cut").await;
    let mut lease = bidder(&outbox, "first", LONG).await;
    let Bid::Won(term) = lease.bid().await.unwrap() else { panic!("nobody else bids") };
    let backend = format!("select pg_terminate_backend(backend_pid) from {}_lease", outbox.table);
    execute(&mut outbox.connect().await, &backend).await;
    for _ in 0..2 {
        assert!(matches!(lease.renew(term).await, Err(StoreError::Unavailable { .. })));
    }
}

/// Without `idle_session_timeout`, and without the right to end another role's session, a standby can only wait until
/// the server finds out; what it must not do is to give up.
#[tokio::test]
async fn a_standby_that_may_not_end_the_silent_holder_waits_on() {
    let url = &servers()[1];
    let outbox = Outbox::new(url, "denied").await;
    let mut conn = outbox.connect().await;
    let create =
        "do $$ begin create role relay_of_others login password 'outboxd'; exception when others then null; end $$";
    for statement in [create, "grant usage on schema t_denied to relay_of_others"] {
        execute(&mut conn, statement).await;
    }
    outbox.run(&mut conn, "grant select, update on outbox_lease to relay_of_others").await;
    let mut silent = bidder(&outbox, "first", SHORT).await;
    let Bid::Won(_) = silent.bid().await.unwrap() else { panic!("nobody else bids") };
    let others_url = url.replace("outboxd:outboxd@", "relay_of_others:outboxd@");
    let other = store(&others_url, &outbox.table, Settle::Mark);
    let mut standby = other.lease("second", SHORT).await.unwrap();
    let expired = "select count(*) from outbox_lease where expires_at < clock_timestamp()";
    while outbox.number(expired).await == 0 {
        assert_eq!(standby.bid().await.unwrap(), Bid::Taken);
    }
    assert_eq!(standby.bid().await.unwrap(), Bid::Taken, "it may not, and says so by waiting");
    drop(silent);
    win(&mut *standby).await;
}

/// Any role can take the lock; what the relay can do is to say who has it.
#[tokio::test]
async fn a_lock_that_no_relay_holds_is_waited_for() {
    for url in servers() {
        let outbox = Outbox::new(&url, "foreign").await;
        let mut other = outbox.connect().await;
        let lock = "select pg_advisory_lock(1869968482, ('outbox'::regclass::oid::bigint - 2147483648)::int)";
        outbox.run(&mut other, lock).await;
        let mut lease = bidder(&outbox, "first", SHORT).await;
        let begin = Instant::now();
        while begin.elapsed() < SHORT * 3 {
            assert_eq!(lease.bid().await.unwrap(), Bid::Taken);
        }
        drop(other);
        win(&mut *lease).await;
    }
}
