//! What the relay does while the database refuses what it needs: it keeps its lease, repeats little, and goes on by itself.

use std::sync::Arc;

use outboxd::contract::Rejection;
use outboxd::memory::faults::{self, Call, Fault, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Delivery, Settle, Term};
use outboxd::relay::{Ended, Relay, Settings};
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, settings, store};

/// Records that may be published before one of them was recorded.
const PROBE: usize = 100;

/// More refusals than a test lives to see.
const FOR_EVER: usize = 100_000;

fn scripted(store: &Store, sink: &Sink, settings: Settings, script: &Script) -> Running {
    let store = Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
    let sink = faults::Sink::new(Box::new(sink.clone()), script.clone());
    Running::of(Relay::new(store, Box::new(sink), settings))
}

/// All in one transaction, so that they are read together.
fn write(store: &Store, rows: usize) {
    let mut transaction = store.begin();
    for n in 0..rows {
        transaction.enqueue(&message("t", n % 7, n));
    }
    transaction.commit();
}

async fn until_settled(store: &Store) {
    let settled = timeout(LONG, store.until(|store| store.unsent().unsent == 0)).await;
    assert!(settled.is_ok(), "not settled: {:?}", store.unsent());
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_cannot_record_repeat_no_more_than_the_probe() {
    const STARTS: usize = 5;
    let (store, sink) = (store(), Sink::new());
    write(&store, 5_000);
    for start in 1..=STARTS {
        let script = Script::new();
        script.times(FOR_EVER, Call::Settle, Fault::Forbid);
        let mut relay = scripted(&store, &sink, settings(), &script);
        relay.until("it says what is refused", |status| status.refusal.is_some()).await;
        timeout(LONG, script.until(Call::Settle, |count| count.ended > 30)).await.expect("it tries on");
        relay.kill().await;
        assert!(sink.ids().len() <= start * PROBE, "{} records after {start} starts", sink.ids().len());
    }
    let relay = Running::start(&store, &sink);
    until_settled(&store).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert!(sink.ids().len() <= 5_000 + STARTS * PROBE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_that_is_refused_for_a_while_is_written_later_and_nothing_comes_twice() {
    let (store, sink, script) = (store(), Sink::new(), Script::new());
    let mut relay = scripted(&store, &sink, settings(), &script);
    write(&store, 1_000);
    until_settled(&store).await;
    script.times(60, Call::Settle, Fault::Forbid);
    write(&store, 1_000);
    relay.until("it says what is refused", |status| status.refusal.is_some()).await;
    until_settled(&store).await;
    relay.until("it says that it is over", |status| status.refusal.is_none()).await;
    assert_eq!(relay.status.borrow().term, Some(Term(1)), "it kept its lease");
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert_eq!(sink.ids(), (1..=2_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_store_the_checkpoint_publishes_nothing() {
    for settle in Settle::ALL {
        let (store, sink, script) = (Store::new(settle), Sink::new(), Script::new());
        write(&store, 1_000);
        script.times(5, Call::Save, Fault::Forbid);
        let mut relay = scripted(&store, &sink, settings(), &script);
        relay.until("it says what is refused", |status| status.refusal.is_some()).await;
        assert_eq!(sink.ids().len(), 0, "settle = {settle}");
        relay.until("all are published", |status| status.published == 1_000).await;
        assert_eq!(relay.status.borrow().term, Some(Term(1)), "it kept its lease");
        relay.stop().await;
        assert_eq!(sink.ids().len(), 1_000, "settle = {settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_on_the_way_is_waited_for_and_the_lease_is_kept() {
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        for call in [Call::Open, Call::Fetch, Call::Save, Call::Prove, Call::Recover] {
            let (store, script) = (store(), Script::new());
            let is_exact = delivery == Delivery::ExactlyOnce;
            let sink = if is_exact { Sink::remembering() } else { Sink::new() };
            script.times(3, call, Fault::Forbid);
            write(&store, 300);
            let mut relay = scripted(&store, &sink, Settings { delivery, ..settings() }, &script);
            until_settled(&store).await;
            relay.until("nothing is refused", |status| status.refusal.is_none()).await;
            assert_eq!(relay.status.borrow().term, Some(Term(1)), "{call:?}: it kept its lease");
            assert_eq!(relay.stop().await, Ended::Graceful, "{call:?}");
            assert_eq!(sink.ids().len(), 300, "{call:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bid_that_is_refused_is_made_again() {
    for call in [Call::Lease, Call::Bid, Call::Renew] {
        let (store, sink, script) = (store(), Sink::new(), Script::new());
        script.times(3, call, Fault::Forbid);
        let relay = scripted(&store, &sink, settings(), &script);
        timeout(LONG, script.until(call, |count| count.ended > 3)).await.expect("it bids on");
        write(&store, 10);
        until_settled(&store).await;
        assert_eq!(relay.stop().await, Ended::Graceful, "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_that_cannot_be_stored_is_waited_for_and_repeats_nothing() {
    let rejection = Rejection { code: "message_too_large", message: "it is too large".to_owned() };
    for is_found_before in [true, false] {
        let (store, sink, script) = (store(), Sink::new(), Script::new());
        write(&store, 50);
        match is_found_before {
            true => sink.refuse(30, rejection.clone()),
            false => sink.reject(30, rejection.clone()),
        }
        script.times(5, Call::DeadLetter, Fault::Forbid);
        let mut relay = scripted(&store, &sink, settings(), &script);
        relay.until("it says what is refused", |status| status.refusal.is_some()).await;
        timeout(LONG, store.until(|store| store.dead_letters().len() == 1)).await.expect("it is stored later");
        until_settled(&store).await;
        assert_eq!(relay.stop().await, Ended::Graceful);
        let mut ids = sink.ids();
        ids.sort_unstable();
        assert_eq!(ids, (1..=50).filter(|id| *id != 30).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_whose_publishing_cannot_be_recorded_are_published_once() {
    let rejection = Rejection { code: "message_too_large", message: "it is too large".to_owned() };
    let (store, sink, letters, script) = (store(), Sink::new(), Sink::new(), Script::new());
    for id in 1..=300 {
        sink.refuse(id, rejection.clone());
    }
    write(&store, 300);
    script.times(3, Call::DeadDelivered, Fault::Forbid);
    let settings = Settings { dead_letter_topic: Some("dead".parse().expect("a name")), ..settings() };
    let scripted = Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
    let relay = Relay::new(scripted, Box::new(sink.clone()), settings).with_dead_letters(Box::new(letters.clone()));
    let relay = Running::of(relay);
    timeout(LONG, script.until(Call::DeadDelivered, |count| count.ended >= 3)).await.expect("it tries to record");
    assert!(letters.ids().len() <= PROBE, "{} were published before one was recorded", letters.ids().len());
    timeout(LONG, letters.until(300)).await.expect("all are published");
    relay.stop().await;
    assert_eq!(letters.ids().len(), 300);
}
