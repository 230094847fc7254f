//! What operators ask of the relay that leads: pauses, and that it steps down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use outboxd::contract::{Rejection, Steering};
use outboxd::memory::faults::{self, Call, Fault, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Delivery, HoldCause, Lane, Limit, Settle, Term, TopicPattern};
use outboxd::relay::{Ended, Phase, Relay, Settings};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, settings};
use crate::support::operator;
use crate::support::seed::Seed;

/// The ways of delivering, each with a sink for it.
fn ways() -> [(Delivery, Sink); 2] {
    [(Delivery::AtLeastOnce, Sink::new()), (Delivery::ExactlyOnce, Sink::remembering())]
}

fn topics(pattern: &str) -> TopicPattern {
    pattern.parse().expect("a pattern")
}

fn start(store: &Store, sink: &Sink, delivery: Delivery) -> Running {
    let settings = Settings { delivery, ..settings() };
    Running::of(Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), settings))
}

/// The same with a script between the relay and its store.
fn scripted(store: &Store, sink: &Sink) -> (Running, Script) {
    let script = Script::new();
    let scripted = faults::Store::new(Arc::new(store.clone()), script.clone());
    (Running::over(Arc::new(scripted), Box::new(sink.clone())), script)
}

async fn pause(store: &Store, pattern: &str) {
    store.pause(&topics(pattern), None, &operator::intent()).await.expect("memory answers");
}

async fn resume(store: &Store, pattern: &str) {
    assert!(store.resume(&topics(pattern), &operator::intent()).await.expect("memory answers"), "{pattern} was paused");
}

async fn until(store: &Store, what: &str, condition: impl FnMut(&Store) -> bool) {
    timeout(LONG, store.until(condition)).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// So many rows of each of these topics, of three keys in turn.
fn write(store: &Store, topics: &[&str], rows: i64) {
    for n in 0..rows {
        for topic in topics {
            store.enqueue(&message(topic, n % 3, n));
        }
    }
}

fn of_topic(sink: &Sink, topic: &str) -> Vec<i64> {
    sink.of(&Lane::topic_of(topic)).iter().map(|delivery| delivery.record.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_topic_waits_while_others_flow_and_comes_out_in_order_when_it_is_resumed() {
    for settle in Settle::ALL {
        for (delivery, sink) in ways() {
            let store = Store::new(settle);
            let mut relay = start(&store, &sink, delivery);
            write(&store, &["orders.paid", "users"], 30);
            relay.until("both flow", |status| status.published == 60).await;
            pause(&store, "orders.*").await;
            relay.until("it knows", |status| !status.pauses.is_empty()).await;
            let before = of_topic(&sink, "orders.paid").len();
            write(&store, &["orders.paid", "users"], 300);
            until(&store, "the others are settled", |store| store.unsent().unsent == 300).await;
            relay
                .until("the topic is held", |status| status.held.iter().any(|held| held.cause == HoldCause::Paused))
                .await;
            assert_eq!(of_topic(&sink, "orders.paid").len(), before, "{settle} {delivery:?}");

            resume(&store, "orders.*").await;
            write(&store, &["orders.paid"], 30);
            until(&store, "everything is settled", |store| store.unsent().unsent == 0).await;
            relay.until("nothing is held", |status| status.held.is_empty() && status.pauses.is_empty()).await;
            assert_eq!(relay.stop().await, Ended::Graceful);
            for topic in ["orders.paid", "users"] {
                let ids = of_topic(&sink, topic);
                assert!(ids.is_sorted_by(|a, b| a < b), "{settle} {delivery:?} {topic}: {ids:?}");
            }
            assert_eq!((of_topic(&sink, "orders.paid").len(), of_topic(&sink, "users").len()), (360, 330));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_while_everything_is_paused_and_the_leader_keeps_its_lease() {
    let (store, sink) = (Store::new(Settle::Mark), Sink::new());
    let (mut relay, script) = scripted(&store, &sink);
    write(&store, &["t"], 5);
    relay.until("it flows", |status| status.published == 5).await;
    pause(&store, "*").await;
    relay.until("it knows", |status| status.is_paused()).await;
    // What was under way has ended once it is settled and looked at again.
    let renewed = script.count(Call::Renew).ended;
    timeout(LONG, script.until(Call::Renew, |count| count.ended > renewed + 1)).await.expect("it renews");
    let fetched = script.count(Call::Fetch).begun;
    write(&store, &["t"], 5);
    timeout(LONG, script.until(Call::Renew, |count| count.ended > renewed + 5)).await.expect("it renews");
    assert_eq!((script.count(Call::Fetch).begun, sink.ids().len()), (fetched, 5), "nothing is read or published");
    assert_eq!(relay.status.borrow().phase, Phase::Leading);

    resume(&store, "*").await;
    relay.until("the rest flows", |status| status.published == 10).await;
    assert_eq!(relay.status.borrow().term, Some(Term(1)), "it never lost its lease");
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert_eq!(sink.ids(), (1..=10).collect::<Vec<_>>(), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_next_publishes_nothing_that_was_paused_before() {
    for pattern in ["*", "t"] {
        let (store, sink) = (Store::new(Settle::Mark), Sink::new());
        pause(&store, pattern).await;
        write(&store, &["t"], 10);
        let (mut first, _script) = scripted(&store, &sink);
        first.until("it leads and knows", |status| status.phase == Phase::Leading && !status.pauses.is_empty()).await;
        if pattern == "t" {
            first.until("the topic is held", |status| !status.held.is_empty()).await;
        }
        first.kill().await;
        let mut second = Running::start(&store, &sink);
        second.until("it leads", |status| status.phase == Phase::Leading).await;
        assert!(sink.ids().is_empty(), "{pattern}");
        resume(&store, pattern).await;
        second.until("all flow", |status| status.published == 10).await;
        assert_eq!(second.stop().await, Ended::Graceful);
        assert_eq!(sink.ids(), (1..=10).collect::<Vec<_>>(), "{pattern}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_by_itself_when_its_time_has_come() {
    for pattern in ["*", "t"] {
        let (store, sink) = (Store::new(Settle::Mark), Sink::new());
        let until = Utc::now() + TimeDelta::milliseconds(300);
        store.pause(&topics(pattern), Some(until), &operator::intent()).await.expect("memory answers");
        write(&store, &["t"], 10);
        let mut relay = Running::start(&store, &sink);
        relay.until("all flow", |status| status.published == 10 && status.pauses.is_empty()).await;
        assert!(Utc::now() >= until, "not before its time");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_a_database_that_does_not_answer() {
    let (store, sink) = (Store::new(Settle::Mark), Sink::new());
    let (mut relay, script) = scripted(&store, &sink);
    pause(&store, "*").await;
    relay.until("it knows", |status| status.is_paused()).await;
    let before = script.count(Call::Orders).begun;
    script.times(20, Call::Orders, Fault::Refuse);
    write(&store, &["t"], 1);
    timeout(LONG, script.until(Call::Orders, |count| count.begun > before + 20)).await.expect("it goes on asking");
    assert!(relay.status.borrow().is_paused() && sink.ids().is_empty());
    resume(&store, "*").await;
    relay.until("it flows", |status| status.published == 1).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_wait_for_a_pause_of_everything_or_of_their_topic() {
    for pattern in ["*", "t.dlq"] {
        let (store, sink, letters) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
        write(&store, &["t"], 1);
        sink.refuse(1, Rejection { code: "message_too_large", message: "it is too large".to_owned() });
        let settings = Settings { dead_letter_topic: Some("{topic}.dlq".parse().expect("a template")), ..settings() };
        let mut relay = Running::of(Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), settings.clone()));
        until(&store, "it is a dead letter", |store| store.dead_letters().len() == 1).await;
        relay.until("leading", |status| status.phase == Phase::Leading).await;
        relay.stop().await;

        pause(&store, pattern).await;
        let script = Script::new();
        let scripted = Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
        let relay = Relay::new(scripted, Box::new(sink.clone()), settings).with_dead_letters(Box::new(letters.clone()));
        let relay = Running::of(relay);
        timeout(LONG, script.until(Call::Orders, |count| count.ended > 10)).await.expect("it looks");
        assert!(letters.ids().is_empty(), "{pattern}");
        resume(&store, pattern).await;
        timeout(LONG, letters.until(1)).await.expect("it is published afterwards");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_kills_and_faults_drawn_at_random_lose_and_reorder_nothing() {
    const PATTERNS: [&str; 4] = ["*", "a", "b*", "*c"];
    let seed = Seed::take();
    for round in 0..12 {
        let mut random = SmallRng::seed_from_u64(seed.generator(round).random());
        let settle = Settle::ALL[round as usize % 3];
        let (delivery, sink) = ways()[round as usize / 3 % 2].clone();
        let store = Store::new(settle);
        let batch = Limit { records: 7, bytes: 1 << 20 };
        let settings = Settings { delivery, batch, ..settings() };
        let mut rows = 0;
        for _ in 0..8 {
            let script = Script::new();
            for _ in 0..random.random_range(0..3) {
                let calls =
                    [Call::Settle, Call::Save, Call::Fetch, Call::Submit, Call::Receipt, Call::Open, Call::Orders];
                let call = *calls.choose(&mut random).expect("some");
                script.on(call, if random.random() { Fault::Refuse } else { Fault::LoseReply });
            }
            let scripted = Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
            let scripted_sink = faults::Sink::new(Box::new(sink.clone()), script.clone());
            let relay = Running::of(Relay::new(scripted, Box::new(scripted_sink), settings.clone()));
            for _ in 0..random.random_range(1..5) {
                let pattern = topics(PATTERNS.choose(&mut random).expect("some"));
                match random.random_ratio(2, 3) {
                    true => store.pause(&pattern, None, &operator::intent()).await.expect("memory answers"),
                    false => drop(store.resume(&pattern, &operator::intent()).await.expect("memory answers")),
                }
                for _ in 0..random.random_range(0..30) {
                    let topic = *["a", "b", "c"].choose(&mut random).expect("some");
                    rows = store.enqueue(&message(topic, random.random_range(0..3), rows));
                }
                let looks = script.count(Call::Orders).begun + random.random_range(0..4);
                let _paused =
                    timeout(Duration::from_millis(100), script.until(Call::Orders, |count| count.begun > looks)).await;
            }
            relay.kill().await;
        }
        for pattern in PATTERNS {
            store.resume(&topics(pattern), &operator::intent()).await.expect("memory answers");
        }
        let relay = Running::of(Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), settings));
        let is_sent = |store: &Store| match settle {
            Settle::Delete => store.rows().is_empty(),
            Settle::Mark | Settle::Checkpoint => store.unsent().unsent == 0,
        };
        until(&store, "everything is sent", is_sent).await;
        relay.stop().await;
        let about = format!("round {round}, settle = {settle}, {delivery:?}");
        assert_first_in_order(&sink, rows, &about);
        if delivery == Delivery::ExactlyOnce {
            assert_eq!(sink.ids().len() as i64, rows, "{about}: each once");
        }
    }
}

/// Every row is there, and the first occurrences of each lane's are in order.
fn assert_first_in_order(sink: &Sink, rows: i64, about: &str) {
    let (mut seen, mut last) = (BTreeSet::new(), BTreeMap::new());
    for delivery in sink.delivered() {
        let record = delivery.record;
        if seen.insert(record.id) {
            let before = last.insert((record.topic.to_string(), record.key.clone()), record.id).unwrap_or_default();
            assert!(before < record.id, "{about}: row {} follows {before} of its lane", record.id);
        }
    }
    assert!(seen.iter().copied().eq(1..=rows), "{about}: rows are missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_step_down_hands_over_and_nothing_comes_twice() {
    for (delivery, sink) in ways() {
        let store = Store::new(Settle::Mark);
        let mut first = start(&store, &sink, delivery);
        first.until("leading", |status| status.term == Some(Term(1))).await;
        let mut second = start(&store, &sink, delivery);
        second.until("standby", |status| status.phase == Phase::Standby).await;
        write(&store, &["t"], 500);
        first.until("some flow", |status| status.published > 0).await;
        assert!(store.request_step_down(Term(1), &operator::intent()).await.expect("memory answers"));
        second.until("leading", |status| status.term == Some(Term(2))).await;
        first.until("standby", |status| status.phase == Phase::Standby && status.connected).await;
        write(&store, &["t"], 100);
        until(&store, "everything is sent", |store| store.unsent().unsent == 0).await;
        assert_eq!(first.stop().await, Ended::Graceful, "while it leaves the lease to the other");
        assert_eq!(second.stop().await, Ended::Graceful);
        assert!(sink.ids().into_iter().eq(1..=600), "{delivery:?}: each once: {} records", sink.ids().len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_steps_down_while_everything_is_paused_and_while_its_sessions_fail() {
    for fails in [false, true] {
        let (store, sink) = (Store::new(Settle::Mark), Sink::new());
        let (mut first, script) = scripted(&store, &sink);
        first.until("leading", |status| status.term == Some(Term(1))).await;
        if fails {
            script.times(1_000, Call::Open, Fault::Refuse).on(Call::Fetch, Fault::Refuse);
            write(&store, &["t"], 1);
        } else {
            pause(&store, "*").await;
            first.until("paused", |status| status.is_paused()).await;
        }
        let mut second = Running::start(&store, &sink);
        second.until("standby", |status| status.phase == Phase::Standby).await;
        assert!(store.request_step_down(Term(1), &operator::intent()).await.expect("memory answers"));
        second.until("leading", |status| status.term == Some(Term(2))).await;
        first.stop().await;
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_stepped_down_leads_again_where_there_is_no_other() {
    let (store, sink) = (Store::new(Settle::Mark), Sink::new());
    let mut relay = Running::start(&store, &sink);
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    assert!(store.request_step_down(Term(1), &operator::intent()).await.expect("memory answers"));
    relay.until("standby", |status| status.phase == Phase::Standby).await;
    let stepped_down = tokio::time::Instant::now();
    relay.until("leading anew", |status| status.term == Some(Term(2))).await;
    assert!(stepped_down.elapsed() >= Duration::from_secs(4), "another had time: {:?}", stepped_down.elapsed());
    assert_eq!(relay.stop().await, Ended::Graceful);
}
