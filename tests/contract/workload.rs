//! Random work: writers that overlap, and readers that page, hold, release, store and begin anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outboxd::Message;
use outboxd::contract::Store;
use outboxd::outbox::{Held, Lane, Record, Settle, Term};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::contract::session::{Session, held, key_lane, lead, settle};
use crate::contract::{Implementation, Outbox};
use crate::support::seed::Seed;

const TOPICS: [&str; 2] = ["orders", "payments"];
const KEYS: [&str; 3] = ["a", "b", "c"];
const WRITERS: usize = 4;
const TRANSACTIONS: usize = 30;
const LIMITS: [usize; 3] = [1, 3, 100];

/// What committed: each lane in the order of its commits, and what has no lane.
#[derive(Default)]
struct Committed {
    lanes: BTreeMap<Lane, Mutex<Vec<Uuid>>>,
    others: Mutex<Vec<Uuid>>,
}

/// Writers at work in the background.
struct Writers {
    committed: Arc<Committed>,
    tasks: JoinSet<()>,
    are_done: Arc<AtomicBool>,
}

impl Writers {
    fn start(outbox: &Arc<dyn Outbox>, seed: &Seed) -> Self {
        let lanes = TOPICS.iter().flat_map(|topic| KEYS.iter().map(|key| (key_lane(topic, key), Mutex::default())));
        let committed = Arc::new(Committed { lanes: lanes.collect(), others: Mutex::default() });
        let are_done = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for part in 0..WRITERS {
            let (outbox, committed, rng) = (Arc::clone(outbox), Arc::clone(&committed), seed.generator(part as u64));
            writers.spawn(write_randomly(outbox, committed, rng));
        }
        let done = Arc::clone(&are_done);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            writers.join_all().await;
            done.store(true, Ordering::SeqCst);
        });
        Self { committed, tasks, are_done }
    }

    fn are_done(&self) -> bool {
        self.are_done.load(Ordering::SeqCst)
    }

    async fn finish(mut self) -> Arc<Committed> {
        self.tasks.join_next().await.expect("one task").expect("writers do not fail");
        self.committed
    }
}

/// Transactions over a few lanes, each lane locked before it is written, as applications lock their aggregates.
async fn write_randomly(outbox: Arc<dyn Outbox>, committed: Arc<Committed>, mut rng: SmallRng) {
    let lanes: Vec<&Lane> = committed.lanes.keys().collect();
    for _ in 0..TRANSACTIONS {
        let mut writer = outbox.begin().await;
        if rng.random_bool(0.3) {
            writer.work().await;
        }
        let chosen: BTreeSet<&Lane> =
            (0..rng.random_range(1..=3)).filter_map(|_| lanes.choose(&mut rng).copied()).collect();
        let mut locked = Vec::new();
        for lane in chosen {
            locked.push((lane, committed.lanes[lane].lock().await, Vec::new()));
        }
        let mut keyless = Vec::new();
        for _ in 0..rng.random_range(1..=5) {
            let index = rng.random_range(0..=locked.len());
            let message = match locked.get(index) {
                Some((lane, ..)) => Message::to(lane.topic()).key(lane.key().unwrap_or_default()).text("{}"),
                None => Message::to(TOPICS[0]).text("{}"),
            };
            let message = message.expect("a valid message");
            writer.enqueue(&message).await;
            locked.get_mut(index).map_or(&mut keyless, |(.., events)| events).push(message.event_id());
            tokio::time::sleep(Duration::from_micros(rng.random_range(0..500))).await;
        }
        if rng.random_bool(0.15) {
            writer.rollback().await;
            continue;
        }
        writer.commit().await;
        for (_, mut ledger, events) in locked {
            ledger.extend(events);
        }
        committed.others.lock().await.extend(keyless);
    }
}

impl Committed {
    /// Compares with what came, in the order in which it first came.
    async fn compare(&self, came: &[Record]) {
        let mut all: BTreeSet<Uuid> = self.others.lock().await.iter().copied().collect();
        for (lane, ledger) in &self.lanes {
            let ledger = ledger.lock().await;
            let mut seen = BTreeSet::new();
            let of_lane = came.iter().filter(|record| record.lane().as_ref() == Some(lane));
            let first: Vec<Uuid> = of_lane.map(|record| record.event_id).filter(|event| seen.insert(*event)).collect();
            assert_eq!(first, *ledger, "{lane}: what came, against what was committed");
            all.extend(ledger.iter());
        }
        let came: BTreeSet<Uuid> = came.iter().map(|record| record.event_id).collect();
        assert_eq!(came, all, "nothing is lost, and nothing of a rolled back transaction came");
    }
}

pub(crate) async fn every_committed_row_is_read_once_and_in_order(implementation: &dyn Implementation) {
    let seed = Seed::take();
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let mut rng = seed.generator(1_000);
    let writers = Writers::start(&outbox, &seed);
    let mut came = Vec::new();
    loop {
        let were_done = writers.are_done();
        let batch = session.next(*LIMITS.choose(&mut rng).expect("some")).await;
        let is_over = were_done && batch.records.is_empty() && !batch.more;
        came.extend(batch.records);
        if is_over {
            break;
        }
    }
    writers.finish().await.compare(&came).await;
    let distinct: BTreeSet<Uuid> = came.iter().map(|record| record.event_id).collect();
    assert_eq!(distinct.len(), came.len(), "each row is read once in a session");
}

pub(crate) async fn nothing_is_lost_over_sessions_holds_and_checkpoints(implementation: &dyn Implementation) {
    let seed = Seed::take();
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let writers = Writers::start(&outbox, &seed);
        let rng = seed.generator(2_000);
        let mut relay = Relay::start(store, mode, term, rng).await;
        while !writers.are_done() {
            relay.step().await;
        }
        for _ in 0..100 {
            relay.step().await;
        }
        relay.drain().await;
        writers.finish().await.compare(&relay.delivered).await;
        let unsent = outbox.rows().await.iter().filter(|row| !row.is_sent).count();
        assert!(mode == Settle::Checkpoint || unsent == 0, "{mode}: {unsent} rows are not settled");
    }
}

/// A relay in small: what it does with a store, one thing at a time and at random.
struct Relay {
    store: Arc<dyn Store>,
    mode: Settle,
    term: Term,
    rng: SmallRng,
    session: Session,
    /// Lanes that nothing can be delivered to right now.
    missing: BTreeSet<Lane>,
    /// Lanes held, as they are to be stored.
    held: BTreeMap<Lane, Held>,
    delivered: Vec<Record>,
    unsettled: Vec<Record>,
    settled: BTreeSet<Uuid>,
}

impl Relay {
    async fn start(store: Arc<dyn Store>, mode: Settle, term: Term, rng: SmallRng) -> Self {
        let session = Session::open(&store).await;
        let (missing, held) = (BTreeSet::new(), BTreeMap::new());
        let (delivered, unsettled, settled) = (Vec::new(), Vec::new(), BTreeSet::new());
        Self { store, mode, term, rng, session, missing, held, delivered, unsettled, settled }
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..70 => {
                self.read().await;
            }
            70..76 => self.lose(),
            76..84 => self.find(),
            84..94 => self.save().await,
            _ => self.begin_anew().await,
        }
    }

    /// Fetches once and delivers what can be. Returns whether more may be waiting.
    async fn read(&mut self) -> bool {
        let limit = *LIMITS.choose(&mut self.rng).expect("some");
        let batch = self.session.next(limit).await;
        for lane in &batch.closed {
            self.held.remove(lane);
        }
        let more = batch.more || !batch.records.is_empty();
        for record in batch.records {
            match self.missing.iter().find(|lane| is_of(&record, lane)) {
                Some(lane) => self.keep_back(lane.clone(), &record),
                None => self.deliver(record),
            }
        }
        if self.rng.random_bool(0.7) {
            self.settle().await;
        }
        more
    }

    /// Holds a missing lane because of this record, and anew the record's own lane, where that is held, so that the
    /// record is left out there too.
    fn keep_back(&mut self, missing: Lane, record: &Record) {
        let own = record.lane().filter(|own| *own != missing && self.held.contains_key(own));
        for lane in own.into_iter().chain([missing]) {
            self.hold(lane, record.id);
        }
    }

    fn hold(&mut self, lane: Lane, from_id: i64) {
        self.session.reader.hold(held(lane.clone(), from_id));
        let known = self.held.entry(lane.clone()).or_insert_with(|| held(lane, from_id));
        known.from_id = known.from_id.min(from_id);
    }

    fn deliver(&mut self, record: Record) {
        let is_again = self.settled.contains(&record.event_id);
        assert!(!is_again || self.mode == Settle::Checkpoint, "row {} was settled, and came again", record.id);
        self.unsettled.push(record.clone());
        self.delivered.push(record);
    }

    async fn settle(&mut self) {
        let records = std::mem::take(&mut self.unsettled);
        settle(&self.store, &records).await;
        self.settled.extend(records.iter().map(|record| record.event_id));
    }

    /// Lets a topic or a key be missing.
    fn lose(&mut self) {
        let topic = TOPICS.choose(&mut self.rng).expect("some");
        let key = KEYS.choose(&mut self.rng).expect("some");
        let lane = if self.rng.random_bool(0.5) { Lane::topic_of(topic) } else { key_lane(topic, key) };
        self.missing.insert(lane);
    }

    /// Lets a missing lane appear, and releases it.
    fn find(&mut self) {
        let missing: Vec<Lane> = self.missing.iter().chain(self.held.keys()).cloned().collect();
        let Some(lane) = missing.choose(&mut self.rng) else { return };
        self.missing.remove(lane);
        if self.held.contains_key(lane) {
            self.session.reader.release(lane);
        }
    }

    async fn save(&mut self) {
        if self.session.end.is_some() {
            self.settle().await;
            self.session.save(self.term, self.held.values().cloned().collect()).await;
        }
    }

    /// Whatever was in flight is settled, or was never delivered as far as anyone knows.
    async fn begin_anew(&mut self) {
        if self.rng.random_bool(0.5) {
            self.settle().await;
        }
        self.unsettled.clear();
        self.session = Session::open(&self.store).await;
        let stored = self.session.reader.held().iter();
        self.held = stored.map(|held| (held.lane.clone(), held.clone())).collect();
    }

    /// Lets everything appear and delivers all there is.
    async fn drain(&mut self) {
        self.missing.clear();
        for lane in self.held.keys() {
            self.session.reader.release(lane);
        }
        while self.read().await || !self.held.is_empty() {}
        self.save().await;
    }
}

fn is_of(record: &Record, lane: &Lane) -> bool {
    match lane {
        Lane::Topic { topic } => record.topic == *topic,
        lane => record.lane().as_ref() == Some(lane),
    }
}
