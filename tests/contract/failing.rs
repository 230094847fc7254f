//! The relay over each store, while calls to the store and to the sink fail as a script has it: every committed row is
//! published and recorded, in order within its lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use outboxd::contract::{Rejection, Store};
use outboxd::memory;
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::outbox::{Limit, Settle};
use outboxd::relay::{Ended, Error, Relay, Settings};
use rand::Rng;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::contract::session::Session;
use crate::contract::{Implementation, Outbox, message, write_all};
use crate::support::seed::Seed;
use crate::support::wait;

/// Rows that are committed before the relay starts, and again as many afterwards.
const HALF: usize = 30;

/// Lanes that they belong to.
const LANES: usize = 4;

/// Calls that the relay repeats, or does without, when they fail in passing.
const CALLS: [Call; 13] = [
    Call::Open,
    Call::Fetch,
    Call::Save,
    Call::Settle,
    Call::Lease,
    Call::Bid,
    Call::Renew,
    Call::Backlog,
    Call::BringBackLate,
    Call::SinkOpen,
    Call::Examine,
    Call::Submit,
    Call::Receipt,
];

/// An outbox with a broker in memory, and a script for all that is between them and relays.
struct Scene {
    outbox: Arc<dyn Outbox>,
    broker: memory::Sink,
    script: Script,
    /// What is going on, for a developer who reads of a failure.
    what: String,
}

impl Scene {
    /// Commits the first half of the rows.
    async fn set(implementation: &dyn Implementation, settle: Settle, what: &str) -> Self {
        let outbox = implementation.outbox(settle).await;
        let (broker, script) = (memory::Sink::new(), Script::new());
        let scene = Self { outbox, broker, script, what: format!("{settle}, {what}") };
        scene.write().await;
        scene
    }

    async fn write(&self) {
        let messages: Vec<_> = (0..HALF).map(|row| message("orders", &format!("key-{}", row % LANES))).collect();
        write_all(&*self.outbox, &messages).await;
    }

    fn start(&self) -> Running {
        let settings = Settings {
            lease_ttl: Duration::from_secs(2),
            checkpoint_interval: Duration::from_millis(20),
            batch: Limit { records: 7, bytes: 1 << 20 },
            ..Settings::default()
        };
        let store: Arc<dyn Store> = Arc::new(faults::Store::new(self.outbox.store(), self.script.clone()));
        let sink = faults::Sink::new(Box::new(self.broker.clone()), self.script.clone());
        let stop = CancellationToken::new();
        Running { task: tokio::spawn(Relay::new(store, Box::new(sink), settings).run(stop.clone())), stop }
    }

    /// How often each row was delivered, after all others than the given ones were.
    async fn all_but(&self, missing: &[i64], rows: usize) -> BTreeMap<i64, usize> {
        loop {
            let ids = self.broker.ids();
            let mut times = BTreeMap::new();
            ids.iter().for_each(|id| *times.entry(*id).or_default() += 1);
            assert!(missing.iter().all(|id| !times.contains_key(id)), "{}: {missing:?} were delivered", self.what);
            if times.len() + missing.len() == rows {
                return times;
            }
            self.broker.until(ids.len() + 1).await;
        }
    }

    /// Commits the rest, waits until all others than the given rows are delivered and recorded, and stops the relay in
    /// peace. Then nothing is left to be read, and each lane came in order, rewinds apart, its highest record last.
    async fn come_to_an_end(&self, relay: Running, missing: &[i64]) -> BTreeMap<i64, usize> {
        self.write().await;
        self.all_but(missing, 2 * HALF).await;
        let store = self.outbox.store();
        wait::until_true("all is recorded as published", wait::LONG_PATIENCE, async || {
            store.backlog(1).await.is_ok_and(|backlog| backlog.unsent == 0)
        })
        .await;
        relay.stop(&self.what).await;
        let left = Session::open(&store).await.read(2 * HALF).await;
        assert!(left.is_empty(), "{}: {} rows are not recorded as published", self.what, left.len());
        let mut lanes: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for delivery in self.broker.delivered() {
            lanes.entry(delivery.record.key.expect("all have one")).or_default().push(delivery.record.id);
        }
        for (key, ids) in lanes {
            let mut highest = 0;
            for (at, id) in ids.iter().enumerate() {
                let is_again = ids[..at].contains(id);
                assert!(is_again || *id > highest, "{}: {id} of {key} was overtaken: {ids:?}", self.what);
                highest = highest.max(*id);
            }
            assert_eq!(ids.last(), Some(&highest), "{}: the last of {key} is not the latest: {ids:?}", self.what);
        }
        self.all_but(missing, 2 * HALF).await
    }
}

/// A relay at work.
struct Running {
    task: JoinHandle<Result<Ended, Error>>,
    stop: CancellationToken,
}

impl Running {
    async fn stop(self, what: &str) {
        self.stop.cancel();
        let ended = self.task.await.expect("no panic").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(ended, Ended::Graceful, "{what}");
    }

    /// SIGKILL, as far as a task can be killed.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn is_once(times: &BTreeMap<i64, usize>) -> bool {
    times.values().all(|times| *times == 1)
}

/// All that are told apart by this and the way of settling play side by side: what they wait for is the clock.
async fn play_together<T: Clone>(variants: &[T], play: impl AsyncFn(Settle, T)) {
    let plays =
        Settle::ALL.into_iter().flat_map(|settle| variants.iter().cloned().map(move |variant| (settle, variant)));
    join_all(plays.map(|(settle, variant)| play(settle, variant))).await;
}

pub(crate) async fn calls_that_fail_in_passing_lose_and_reorder_nothing(implementation: &dyn Implementation) {
    let slow = Fault::Slow(Duration::from_millis(30));
    let faults = [("refused", Fault::Refuse), ("done, and the reply is lost", Fault::LoseReply), ("slow", slow)];
    play_together(&faults, async |settle, (word, fault)| {
        let scene = Scene::set(implementation, settle, word).await;
        for call in CALLS {
            scene.script.times(2, call, fault.clone());
        }
        let times = scene.come_to_an_end(scene.start(), &[]).await;
        assert!(scene.script.count(Call::Submit).ended > 2, "{}: the script was played", scene.what);
        assert!(word != "slow" || is_once(&times), "{}: {times:?}", scene.what);
    })
    .await;
}

pub(crate) async fn a_settlement_whose_reply_was_lost_is_made_again_and_repeats_nothing(
    implementation: &dyn Implementation,
) {
    play_together(&[()], async |settle, ()| {
        let scene = Scene::set(implementation, settle, "the replies to settlements are lost").await;
        scene.script.times(5, Call::Settle, Fault::LoseReply);
        let times = scene.come_to_an_end(scene.start(), &[]).await;
        assert_eq!(scene.script.left(), 0, "{}", scene.what);
        assert!(is_once(&times), "{}: {times:?}", scene.what);
    })
    .await;
}

pub(crate) async fn what_was_published_and_not_settled_is_published_once_more_after_a_crash(
    implementation: &dyn Implementation,
) {
    play_together(&[()], async |settle, ()| {
        let scene = Scene::set(implementation, settle, "killed before it settled").await;
        scene.script.on(Call::Settle, Fault::Hold(Gate::new()));
        let first = scene.start();
        assert!(is_once(&scene.all_but(&[], HALF).await), "{}", scene.what);
        // The fault is for the first relay: left over, it would hold up the second for ever.
        scene.script.until(Call::Settle, |count| count.begun > 0).await;
        first.kill().await;
        let times = scene.come_to_an_end(scene.start(), &[]).await;
        assert!(times.values().all(|times| *times <= 2), "{}: {times:?}", scene.what);
        assert_eq!(times.values().filter(|times| **times == 2).count(), HALF, "{}: {times:?}", scene.what);
    })
    .await;
}

pub(crate) async fn a_rejected_record_dies_alone_whatever_fails_around_it(implementation: &dyn Implementation) {
    let faults = [("refused", Fault::Refuse), ("done, and the reply is lost", Fault::LoseReply)];
    play_together(&faults, async |settle, (word, fault)| {
        let scene = Scene::set(implementation, settle, &format!("dead letters are {word}")).await;
        let rows = scene.outbox.rows().await;
        let rejected = [rows[4].id, rows[5].id, rows[HALF - 1].id];
        for id in rejected {
            scene.broker.reject(id, Rejection { code: "test", message: "never".to_owned() });
        }
        scene.script.times(3, Call::DeadLetter, fault.clone()).on(Call::Receipt, fault);
        scene.come_to_an_end(scene.start(), &rejected).await;
        assert!(scene.script.count(Call::DeadLetter).ended >= 2, "{}", scene.what);
        let backlog = scene.outbox.store().backlog(100).await.expect("the backlog is measured");
        assert_eq!(backlog.dead_letters, 3, "{}", scene.what);
    })
    .await;
}

pub(crate) async fn faults_drawn_at_random_lose_and_reorder_nothing(implementation: &dyn Implementation) {
    let seed = Seed::take();
    play_together(&[0, 1, 2], async |settle, round| {
        let mut random = seed.generator(3 * settle as u64 + round);
        let scene = Scene::set(implementation, settle, "faults at random").await;
        for _ in 0..30 {
            let call = CALLS[random.random_range(0..CALLS.len())];
            let fault = match random.random_range(0..3) {
                0 => Fault::Refuse,
                1 => Fault::LoseReply,
                _ => Fault::Slow(Duration::from_millis(random.random_range(0..40))),
            };
            scene.script.on(call, fault);
        }
        scene.come_to_an_end(scene.start(), &[]).await;
    })
    .await;
}
