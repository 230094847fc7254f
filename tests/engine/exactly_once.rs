//! Exactly once: whatever is killed, refused or lost in between, the broker holds every committed record once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outboxd::Message;
use outboxd::contract::{HeldLanes, Rejection};
use outboxd::memory::faults::{self, Call, Fault, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Delivery, HoldCause, Lane, Limit, OnReject, RejectPolicy, Settle};
use outboxd::relay::{Relay, Settings};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, settings};
use crate::support::operator;
use crate::support::seed::Seed;

fn exactly_once() -> Settings {
    let policy = RejectPolicy { otherwise: OnReject::BlockKey, rules: Vec::new() };
    let batch = Limit { records: 7, bytes: 1 << 20 };
    Settings { delivery: Delivery::ExactlyOnce, on_reject: policy, batch, ..settings() }
}

/// Every committed row is there once, and each lane in order.
fn assert_once(sink: &Sink, rows: i64, seed: &str) {
    let mut last: BTreeMap<(String, Option<String>), i64> = BTreeMap::new();
    let mut seen = Vec::new();
    for delivery in sink.delivered() {
        let record = delivery.record;
        seen.push(record.id);
        let before = last.insert((record.topic.to_string(), record.key.clone()), record.id).unwrap_or_default();
        assert!(before < record.id, "{seed}: row {} follows {before} of its lane", record.id);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=rows).collect::<Vec<_>>(), "{seed}");
}

fn sent_to_the_end(store: &Store, settle: Settle, rows: i64) -> bool {
    match settle {
        Settle::Delete => store.rows().is_empty(),
        Settle::Mark | Settle::Checkpoint => store.rows().len() as i64 == rows && store.unsent().unsent == 0,
    }
}

/// One life of a relay: what goes wrong in it, and how it ends.
async fn live(store: &Store, sink: &Sink, random: &mut SmallRng) {
    let script = Script::new();
    for _ in 0..random.random_range(0..4) {
        let call = *[
            Call::Settle,
            Call::Save,
            Call::Fetch,
            Call::Submit,
            Call::Receipt,
            Call::Prove,
            Call::Recover,
            Call::Open,
        ]
        .choose(random)
        .expect("some");
        let fault = if random.random() { Fault::Refuse } else { Fault::LoseReply };
        // A receipt that is lost was delivered, and one that is refused, too.
        script.on(call, fault);
    }
    let store: Arc<dyn outboxd::contract::Store> =
        Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
    let sink = faults::Sink::new(Box::new(sink.clone()), script.clone());
    let running = Running::of(Relay::new(store, Box::new(sink), exactly_once()));
    let calls = random.random_range(1..40);
    let _ended_by_itself =
        timeout(Duration::from_millis(100), script.until(Call::Fetch, |count| count.begun >= calls)).await;
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_faults_holds_and_releases_leave_every_record_there_once() {
    let seed = Seed::take();
    for round in 0..15 {
        let mut random = SmallRng::seed_from_u64(seed.generator(round).random());
        let settle = Settle::ALL[round as usize % 3];
        let (store, sink) = (Store::new(settle), Sink::remembering());
        sink.miss("missing", HoldCause::MissingTopic);
        let rejection = Rejection { code: "message_too_large", message: "it is too large".to_owned() };
        let mut rows = 0;
        for life in 0..8 {
            for _ in 0..random.random_range(0..60) {
                let topic = if random.random_ratio(1, 6) { "missing" } else { "t" };
                rows = store.enqueue(&message(topic, random.random_range(0..5), rows));
                match random.random_range(0..60) {
                    0 => sink.refuse(rows, rejection.clone()),
                    1 => sink.reject(rows, rejection.clone()),
                    _ => {}
                }
            }
            if life == 5 {
                sink.appear("missing");
            }
            live(&store, &sink, &mut random).await;
        }
        (1..=rows).for_each(|id| sink.relent(id));
        let running = Running::of(Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), exactly_once()));
        let release = async {
            loop {
                let held = store.held_lanes().await.expect("memory answers");
                let lanes: Vec<Lane> = held.into_iter().map(|lane| lane.held.lane).collect();
                store.request_release(&lanes, &operator::intent()).await.expect("memory answers");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = release => unreachable!("it never ends"),
            done = timeout(LONG, store.until(|store| sent_to_the_end(store, settle, rows))) => {
                assert!(done.is_ok(), "round {round}: not drained: {:?} of {rows}", store.unsent());
            }
        }
        running.stop().await;
        assert_once(&sink, rows, &format!("round {round}, settle = {settle}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_progress_of_a_later_term_than_the_database_knows_stops_the_relay() {
    let (store, sink) = (Store::new(Settle::Mark), Sink::remembering());
    for _ in 0..3 {
        store.enqueue(&Message::to("t").key("k").text("x").expect("a valid message"));
        let running = Running::of(Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), exactly_once()));
        timeout(LONG, store.until(|store| store.unsent().unsent == 0)).await.expect("published");
        running.stop().await;
    }
    // The database as it was before all this.
    let restored = Store::new(Settle::Mark);
    restored.enqueue(&Message::to("t").key("k").text("x").expect("a valid message"));
    let running = Running::of(Relay::new(Arc::new(restored), Box::new(sink.clone()), exactly_once()));
    let error = running.task.await.expect("no panic").expect_err("it cannot go on");
    let said = format!("{:?}", error);
    assert!(said.contains("restored to an earlier point"), "{said}");
    assert_eq!(sink.ids().len(), 3);
}
