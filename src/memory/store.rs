//! The store: a handle on rows in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::contract::{
    Arming, Backlog, DeadLetters, DueLetter, Footprint, HeldLanes, Inspect, Leader, LeaseSession, LeaseStore,
    Operations, OutboxStore, Purge, Reader, ReplayPage, Steering, StoreError, WakeSource,
};
use crate::memory::lease::MemoryLease;
use crate::memory::reader::MemoryReader;
use crate::memory::row::{self, Row};
use crate::memory::shared::Shared;
use crate::memory::state::{Dead, State};
use crate::memory::transaction::Transaction;
use crate::outbox::{
    DeadLetter, Held, HeldLane, Intent, Lane, Limit, Message, Operation, OperationProgress, OperationState, Orders,
    Position, Record, Replay, Replayable, Settle, Settlement, Term, TopicPattern,
};
use crate::reading::{Filling, Fit};

/// An outbox in memory. Clones share one outbox.
///
/// Its clock is tokio's, so a test that pauses time also pauses leases, ages and the retention.
///
/// ```
/// # use outboxd::{Message, memory, outbox::Settle};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), outboxd::outbox::InvalidMessage> {
/// let store = memory::Store::new(Settle::Mark);
/// let mut transaction = store.begin();
/// transaction.enqueue(&Message::to("orders.order.created").key(17).text("twelve")?);
/// assert_eq!(store.rows().len(), 0);
/// transaction.commit();
/// assert_eq!(store.rows().len(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// An empty outbox whose delivered rows are recorded in this way.
    pub fn new(settle: Settle) -> Self {
        Self { shared: Arc::new(Shared::new(State::new(settle))) }
    }

    /// Begins a writer's transaction.
    pub fn begin(&self) -> Transaction {
        Transaction::begin(Arc::clone(&self.shared))
    }

    /// Enqueues a message in a transaction of its own and returns the id of its row.
    pub fn enqueue(&self, message: &Message) -> i64 {
        let mut transaction = self.begin();
        let id = transaction.enqueue(message);
        transaction.commit();
        id
    }

    /// The committed rows by id.
    pub fn rows(&self) -> Vec<Row> {
        self.shared.state().rows().cloned().collect()
    }

    /// The records that were given up, in the order of their deaths.
    pub fn dead_letters(&self) -> Vec<(DeadLetter, Record)> {
        self.shared.state().dead().iter().map(|dead| (dead.letter.clone(), dead.record.clone())).collect()
    }

    /// How much waits, by what was settled and saved so far.
    pub fn unsent(&self) -> Backlog {
        self.shared.state().backlog(u64::MAX)
    }

    /// Waits until the condition holds, looking again at every change. Put it under a timeout.
    pub async fn until(&self, mut condition: impl FnMut(&Store) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        while !condition(self) {
            changes.borrow_and_update();
            if condition(self) || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl crate::contract::Store for Store {
    fn wake(&self) -> Option<Box<dyn WakeSource>> {
        Some(Box::new(Wake { commits: self.shared.commits.subscribe() }))
    }
}

#[async_trait]
impl OutboxStore for Store {
    async fn open(&self) -> Result<Box<dyn Reader>, StoreError> {
        Ok(Box::new(MemoryReader::open(Arc::clone(&self.shared))))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        self.shared.change(|state| state.settle(settlement));
        Ok(())
    }

    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError> {
        self.shared.change(|state| state.recover(term, position, beyond))
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError> {
        Ok(Box::new(MemoryLease::open(Arc::clone(&self.shared), holder, ttl)))
    }
}

#[async_trait]
impl Inspect for Store {
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError> {
        Ok(self.shared.state().backlog(count_limit))
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        Ok(self.shared.state().lease.leader())
    }

    async fn footprint(&self) -> Result<Footprint, StoreError> {
        let bytes = self.shared.state().rows().map(|row| row.record.footprint() as u64).sum();
        Ok(Footprint { bytes, ..Footprint::default() })
    }

    async fn bring_back_late(&self) -> Result<u64, StoreError> {
        Ok(self.shared.change(|state| state.bring_back_late()))
    }

    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        self.shared.change(|state| state.purge(term, retention))
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        self.shared.change(|state| state.dead_letter(letters));
        Ok(())
    }

    async fn due(&self, after: i64, limit: Limit) -> Result<Vec<DueLetter>, StoreError> {
        let is_due = |dead: &&Dead| dead.letter.topic.is_some() && !dead.published && dead.letter.id > after;
        let state = self.shared.state();
        let due = state.dead().iter().filter(is_due);
        let due = due.map(|dead| DueLetter { letter: dead.letter.clone(), read: row::load(&dead.record, limit.bytes) });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|due| due.letter.id);
        let mut filling = Filling::of(limit);
        due.retain(|due| filling.take(due.read.as_ref().map_or(0, Record::footprint)) == Fit::Fits);
        Ok(due)
    }

    async fn delivered(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.shared.change(|state| state.dead_letters_published(ids));
        Ok(())
    }

    async fn undeliverable(&self, id: i64, why: &str) -> Result<(), StoreError> {
        self.shared.change(|state| state.undeliverable(id, why));
        Ok(())
    }
}

#[async_trait]
impl HeldLanes for Store {
    async fn held_lanes(&self) -> Result<Vec<HeldLane>, StoreError> {
        let stored = self.shared.state().stored().clone();
        let lane = |held: Held| HeldLane { release_requested: stored.requested.contains_key(&held.lane), held };
        let mut lanes: Vec<HeldLane> = stored.held.iter().cloned().map(lane).collect();
        lanes.sort_by_key(|lane| (lane.held.since, lane.held.from_id));
        Ok(lanes)
    }

    async fn request_release(&self, lanes: &[Lane], _intent: &Intent) -> Result<u64, StoreError> {
        Ok(self.shared.change(|state| state.request_release(lanes)))
    }

    async fn release_requests(&self) -> Result<Vec<Held>, StoreError> {
        let stored = self.shared.state().stored().clone();
        let is_requested = |held: &Held| stored.requested.contains_key(&held.lane);
        Ok(stored.held.into_iter().filter(is_requested).collect())
    }

    async fn grant_releases(&self, lanes: &[Lane]) -> Result<(), StoreError> {
        self.shared.change(|state| state.grant_releases(lanes));
        Ok(())
    }
}

#[async_trait]
impl Steering for Store {
    async fn orders(&self) -> Result<Orders, StoreError> {
        Ok(self.shared.state().orders())
    }

    async fn pause(
        &self,
        topics: &TopicPattern,
        until: Option<DateTime<Utc>>,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        self.shared.change(|state| state.pause(topics, until, intent));
        Ok(())
    }

    async fn resume(&self, topics: &TopicPattern, _intent: &Intent) -> Result<bool, StoreError> {
        Ok(self.shared.change(|state| state.resume(topics)))
    }

    async fn request_step_down(&self, term: Term, _intent: &Intent) -> Result<bool, StoreError> {
        Ok(self.shared.change(|state| state.request_step_down(term)))
    }

    async fn attend(&self, holder: &str, is_standby: bool) -> Result<(), StoreError> {
        self.shared.change(|state| state.attend(holder, is_standby));
        Ok(())
    }

    async fn standbys(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.shared.state().standbys())
    }
}

#[async_trait]
impl Operations for Store {
    async fn replayable(&self, replay: &Replay, look_at: u64) -> Result<Replayable, StoreError> {
        Ok(self.shared.state().replayable(replay, look_at))
    }

    async fn start_replay(&self, replay: &Replay, intent: &Intent) -> Result<i64, StoreError> {
        Ok(self.shared.change(|state| state.start_replay(replay, intent)))
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>, StoreError> {
        Ok(self.shared.state().operations().iter().rev().take(limit as usize).cloned().collect())
    }

    async fn cancel_operation(&self, id: i64, _intent: &Intent) -> Result<bool, StoreError> {
        Ok(self.shared.change(|state| state.cancel_operation(id)))
    }

    async fn next_operation(&self) -> Result<Option<Operation>, StoreError> {
        let is_running = |operation: &&Operation| operation.state == OperationState::Running;
        Ok(self.shared.state().operations().iter().find(is_running).cloned())
    }

    async fn replay_page(&self, operation: &Operation, limit: Limit) -> Result<ReplayPage, StoreError> {
        Ok(self.shared.state().replay_page(operation, limit))
    }

    async fn note_progress(&self, term: Term, id: i64, progress: &OperationProgress) -> Result<bool, StoreError> {
        self.shared.change(|state| state.note_progress(term, id, progress))
    }
}

/// Wakes at the next commit.
#[derive(Debug)]
struct Wake {
    commits: watch::Receiver<()>,
}

#[async_trait]
impl WakeSource for Wake {
    async fn arm(&mut self) -> Result<Arming, StoreError> {
        self.commits.mark_unchanged();
        Ok(Arming::Armed)
    }

    async fn wait(&mut self) -> Result<u32, StoreError> {
        // The sender lives as long as the store; without a store there is nothing to wait for.
        if self.commits.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(1)
    }

    async fn disarm(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
