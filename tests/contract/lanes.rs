//! The relay over each store, while topics come and go, keys are blocked and released, and rows commit late: what waits comes
//! out whole, and in order within its lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use outboxd::Message;
use outboxd::contract::{Rejection, Store};
use outboxd::memory::Sink;
use outboxd::outbox::{Delivery, HoldCause, Lane, Limit, OnReject, RejectPolicy, Settle};
use outboxd::relay::{Ended, Error, Relay, Settings};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::contract::{Implementation, Outbox, Writer, message, messages, write_all};
use crate::support::operator;
use crate::support::seed::Seed;
use crate::support::wait;

const TOPICS: [&str; 2] = ["orders", "payments"];
const KEYS: [&str; 3] = ["a", "b", "c"];
const STEPS: usize = 150;

/// A relay at work.
struct Running {
    task: JoinHandle<Result<Ended, Error>>,
    stop: CancellationToken,
}

impl Running {
    fn start(store: Arc<dyn Store>, sink: &Sink, delivery: Delivery, records: usize) -> Self {
        let settings = Settings {
            delivery,
            on_reject: RejectPolicy { otherwise: OnReject::BlockKey, rules: Vec::new() },
            batch: Limit { records, bytes: 1 << 20 },
            lease_ttl: Duration::from_secs(2),
            checkpoint_interval: Duration::from_millis(5),
            release_interval: Duration::from_millis(5),
            ..Settings::default()
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Relay::new(store, Box::new(sink.clone()), settings).run(stop.clone()));
        Self { task, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = self.task.await.expect("no panic").expect("no error");
        assert_eq!(ended, Ended::Graceful);
    }

    /// SIGKILL, as far as a task can be killed.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A transaction at work: its rows, and the lanes that it has locked, as applications lock their aggregates.
struct Open {
    writer: Box<dyn Writer>,
    rows: Vec<(Lane, Uuid)>,
}

/// Applications, operators and a broker that act at random, one thing at a time.
struct World {
    outbox: Arc<dyn Outbox>,
    sink: Sink,
    random: SmallRng,
    open: Vec<Open>,
    /// How many transactions may be open at once.
    writers: usize,
    committed: BTreeMap<Lane, Vec<Uuid>>,
    bad: Vec<i64>,
}

impl World {
    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..20 if self.open.len() < self.writers => {
                let writer = self.outbox.begin().await;
                self.open.push(Open { writer, rows: Vec::new() });
            }
            0..60 => self.write().await,
            60..80 => self.end().await,
            80..84 => self.sink.miss(*TOPICS.choose(&mut self.random).expect("some"), HoldCause::MissingTopic),
            84..90 => self.sink.appear(TOPICS.choose(&mut self.random).expect("some")),
            90..93 => self.spoil().await,
            // Where one writes at a time, an operator waits for a transaction, and so would this world.
            93..95 if self.writers > 1 || self.open.is_empty() => self.release().await,
            _ => tokio::time::sleep(Duration::from_millis(self.random.random_range(0..15))).await,
        }
    }

    /// Writes rows of a lane that no other transaction has locked.
    async fn write(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let topic = TOPICS.choose(&mut self.random).expect("some");
        let lane = match self.random.random_range(0..=KEYS.len()) {
            3 => Lane::from_columns(topic, None, Some(1)),
            key => Lane::from_columns(topic, Some(KEYS[key]), None),
        };
        let at = self.random.random_range(0..self.open.len());
        let others = self.open.iter().enumerate().filter(|(other, _)| *other != at);
        if others.into_iter().any(|(_, open)| open.rows.iter().any(|(locked, _)| *locked == lane)) {
            return;
        }
        for _ in 0..self.random.random_range(1..8) {
            let draft = Message::to(*topic);
            let draft = match lane.partition() {
                Some(partition) => draft.key(KEYS[0]).partition(partition),
                None => draft.key(lane.key().unwrap_or_default()),
            };
            let message = draft.text("{}").expect("a valid message");
            self.open[at].writer.enqueue(&message).await;
            self.open[at].rows.push((lane.clone(), message.event_id()));
        }
    }

    async fn end(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let Open { writer, rows } = self.open.swap_remove(self.random.random_range(0..self.open.len()));
        if self.random.random_bool(0.1) {
            return writer.rollback().await;
        }
        writer.commit().await;
        for (lane, event) in rows {
            self.committed.entry(lane).or_default().push(event);
        }
    }

    /// A row that is still to come can never be published.
    async fn spoil(&mut self) {
        let highest = self.outbox.rows().await.last().map_or(0, |row| row.id);
        let id = highest + self.random.random_range(1..10);
        let rejection = Rejection { code: "test", message: "never".to_owned() };
        match self.random.random() {
            true => self.sink.reject(id, rejection),
            false => self.sink.refuse(id, rejection),
        }
        self.bad.push(id);
    }

    /// An operator mends what was bad and releases what waits.
    async fn release(&mut self) {
        self.bad.drain(..).for_each(|id| self.sink.relent(id));
        let store = self.outbox.store();
        let held = store.held_lanes().await.expect("lanes");
        let lanes: Vec<Lane> = held.into_iter().map(|lane| lane.held.lane).collect();
        store.request_release(&lanes, &operator::intent()).await.expect("a request");
    }

    /// All is made whole, and every lane is released until nothing waits.
    async fn calm(&mut self) {
        while !self.open.is_empty() {
            self.end().await;
        }
        TOPICS.iter().for_each(|topic| self.sink.appear(topic));
        let store = self.outbox.store();
        let all: usize = self.committed.values().map(Vec::len).sum();
        let deadline = tokio::time::Instant::now() + wait::PATIENCE;
        loop {
            self.release().await;
            let waits = store.backlog(1).await.expect("a backlog").unsent > 0;
            if !waits && self.sink.ids().len() >= all && store.held_lanes().await.expect("lanes").is_empty() {
                return;
            }
            let held = store.held_lanes().await.expect("lanes");
            let here = self.sink.ids().len();
            assert!(tokio::time::Instant::now() < deadline, "{here} of {all} are there; held are {held:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Each lane came in the order of its commits; exactly once, or with rewinds.
    fn compare(&self, is_once: bool, what: &str) {
        let delivered = self.sink.delivered();
        for (lane, committed) in &self.committed {
            let came: Vec<Uuid> = delivered
                .iter()
                .filter(|delivery| delivery.record.lane().as_ref() == Some(lane))
                .map(|delivery| delivery.record.event_id)
                .collect();
            let mut first = came.clone();
            if !is_once {
                let mut seen = std::collections::BTreeSet::new();
                first.retain(|event| seen.insert(*event));
            }
            assert_eq!(first, *committed, "{what}, {lane}: what came, against what was committed");
            assert_eq!(came.last(), committed.last(), "{what}, {lane}: the latest comes last");
        }
    }
}

/// What is told apart by the way of settling and of delivering plays side by side: what it waits for is the clock.
async fn come_out_whole(implementation: &dyn Implementation, writers: usize) {
    let seed = Seed::take();
    let deliveries = [Delivery::AtLeastOnce, Delivery::ExactlyOnce];
    let plays = Settle::ALL.into_iter().flat_map(|settle| deliveries.map(|delivery| (settle, delivery)));
    let plays = (0..).zip(plays).map(async |(round, (settle, delivery))| {
        let is_once = delivery == Delivery::ExactlyOnce;
        let what = format!("round {round}, {settle}, {delivery:?}");
        let mut random = seed.generator(round);
        let records = *[2, 5, 100].choose(&mut random).expect("some");
        let sink = if is_once { Sink::remembering() } else { Sink::new() };
        let outbox = implementation.outbox(settle).await;
        let start = || Running::start(outbox.store(), &sink, delivery, records);
        let (open, committed, bad) = (Vec::new(), BTreeMap::new(), Vec::new());
        let (outbox, sink) = (Arc::clone(&outbox), sink.clone());
        let mut world = World { outbox, sink, random, open, writers, committed, bad };
        let mut relay = start();
        for step in 0..STEPS {
            world.step().await;
            // A kill may repeat what was under way, in order.
            if step % 50 == 49 {
                relay.kill().await;
                relay = start();
            }
        }
        world.calm().await;
        relay.stop().await;
        world.compare(is_once, &what);
    });
    join_all(plays).await;
}

pub(crate) async fn lanes_that_wait_come_out_whole_and_in_order(implementation: &dyn Implementation) {
    come_out_whole(implementation, 1).await;
}

pub(crate) async fn lanes_of_overlapping_writers_that_wait_come_out_whole_and_in_order(
    implementation: &dyn Implementation,
) {
    come_out_whole(implementation, 4).await;
}

/// An operator deletes what is stored of a lane by SQL, of a topic and of a blocked key, beside a relay and while none runs.
pub(crate) async fn a_lane_deleted_by_hand_is_released_to_its_last_row(implementation: &dyn Implementation) {
    for settle in Settle::ALL {
        for is_running in [true, false] {
            let what = format!("{settle}, {}", if is_running { "beside a relay" } else { "while none runs" });
            let outbox = implementation.outbox(settle).await;
            let (store, sink) = (outbox.store(), Sink::new());
            sink.miss("missing", HoldCause::MissingTopic);
            let (missing, blocked) = (messages(5, "missing", "a"), messages(5, "orders", "a"));
            write_all(&*outbox, &[missing, blocked].concat()).await;
            let bad = outbox.rows().await[6].id;
            sink.reject(bad, Rejection { code: "test", message: "never".to_owned() });
            let mut relay = Running::start(outbox.store(), &sink, Delivery::AtLeastOnce, 3);
            let held = async |lanes: usize| {
                wait::until_true("so many lanes are held", wait::PATIENCE, async || {
                    store.held_lanes().await.expect("lanes").len() == lanes
                })
                .await;
            };
            held(2).await;
            if !is_running {
                relay.stop().await;
                relay = Running { task: tokio::spawn(std::future::pending()), stop: CancellationToken::new() };
            }
            sink.relent(bad);
            sink.appear("missing");
            outbox.delete_held().await;
            write_all(&*outbox, &[message("missing", "a"), message("orders", "a")]).await;
            if !is_running {
                relay = Running::start(outbox.store(), &sink, Delivery::AtLeastOnce, 3);
            }
            held(0).await;
            wait::until_true("nothing waits", wait::PATIENCE, async || {
                store.backlog(1).await.is_ok_and(|backlog| backlog.unsent == 0)
            })
            .await;
            relay.stop().await;
            for (topic, rows) in [("missing", 6), ("orders", 6)] {
                let ids: Vec<i64> = sink.of(&Lane::topic_of(topic)).iter().map(|delivery| delivery.record.id).collect();
                assert_eq!(ids.len(), rows, "{what}, {topic}: {ids:?}");
                assert!(ids.is_sorted(), "{what}, {topic}: {ids:?}");
            }
        }
    }
}
