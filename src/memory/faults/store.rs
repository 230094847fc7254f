//! A store whose calls follow a script.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::{
    Backlog, Bid, Checkpoint, DeadLetters, DueLetter, Footprint, HeldLanes, Inspect, Leader, LeaseSession, LeaseStore,
    Operations, OutboxStore, Purge, Reader, ReplayPage, Steering, StoreError, WakeSource,
};
use crate::memory::faults::{Call, Script};
use crate::outbox::{
    Batch, DeadLetter, Held, HeldLane, Intent, Lane, Limit, Operation, OperationProgress, Orders, Position, Replay,
    Replayable, Settlement, Term, TopicPattern,
};

/// Any store, with a script between it and the relay. Its reading and lease sessions follow the script too.
pub struct Store {
    inner: Arc<dyn crate::contract::Store>,
    script: Script,
}

impl Store {
    /// Puts the script in front of the store.
    pub fn new(inner: Arc<dyn crate::contract::Store>, script: Script) -> Self {
        Self { inner, script }
    }
}

struct Reading {
    inner: Box<dyn Reader>,
    script: Script,
}

struct Leading {
    inner: Box<dyn LeaseSession>,
    script: Script,
}

/// Counts no records.
fn none<T>(_: &T) -> usize {
    0
}

impl crate::contract::Store for Store {
    fn wake(&self) -> Option<Box<dyn WakeSource>> {
        self.inner.wake()
    }
}

#[async_trait]
impl OutboxStore for Store {
    async fn open(&self) -> Result<Box<dyn Reader>, StoreError> {
        let inner = self.script.play(Call::Open, self.inner.open(), none).await?;
        let reading: Box<dyn Reader> = Box::new(Reading { inner, script: self.script.clone() });
        Ok(reading)
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        self.script.play(Call::Settle, self.inner.settle(settlement), |()| settlement.len()).await
    }

    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError> {
        self.script.play(Call::Recover, self.inner.recover(term, position, beyond), none).await
    }
}

#[async_trait]
impl Reader for Reading {
    fn held(&self) -> &[Held] {
        self.inner.held()
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.inner.load_at_most(bytes);
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        self.script.play(Call::Fetch, self.inner.fetch(limit), Batch::len).await
    }

    async fn prove(&mut self, term: Term) -> Result<(), StoreError> {
        self.script.play(Call::Prove, self.inner.prove(term), none).await
    }

    fn hold(&mut self, held: Held) {
        self.inner.hold(held);
    }

    fn release(&mut self, lane: &Lane) {
        self.inner.release(lane);
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.script.play(Call::Save, self.inner.save(checkpoint), none).await
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError> {
        let inner = self.script.play(Call::Lease, self.inner.lease(holder, ttl), none).await?;
        let leading: Box<dyn LeaseSession> = Box::new(Leading { inner, script: self.script.clone() });
        Ok(leading)
    }
}

#[async_trait]
impl LeaseSession for Leading {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        self.script.play(Call::Bid, self.inner.bid(), none).await
    }

    fn fence(&mut self, name: &str) {
        self.inner.fence(name);
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        self.script.play(Call::Renew, self.inner.renew(term), none).await
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        self.script.play(Call::Resign, self.inner.resign(term), none).await
    }
}

#[async_trait]
impl Inspect for Store {
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError> {
        self.script.play(Call::Backlog, self.inner.backlog(count_limit), none).await
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        self.script.play(Call::Leader, self.inner.leader(), none).await
    }

    async fn footprint(&self) -> Result<Footprint, StoreError> {
        self.script.play(Call::Footprint, self.inner.footprint(), none).await
    }

    async fn bring_back_late(&self) -> Result<u64, StoreError> {
        self.script.play(Call::BringBackLate, self.inner.bring_back_late(), none).await
    }

    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        self.script.play(Call::Purge, self.inner.purge(term, retention), none).await
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        self.script.play(Call::DeadLetter, self.inner.dead_letter(letters), |()| letters.len()).await
    }

    async fn due(&self, after: i64, limit: Limit) -> Result<Vec<DueLetter>, StoreError> {
        self.script.play(Call::Due, self.inner.due(after, limit), Vec::len).await
    }

    async fn delivered(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.script.play(Call::DeadDelivered, self.inner.delivered(ids), |()| ids.len()).await
    }

    async fn undeliverable(&self, id: i64, why: &str) -> Result<(), StoreError> {
        self.script.play(Call::DeadDelivered, self.inner.undeliverable(id, why), |()| 1).await
    }
}

#[async_trait]
impl HeldLanes for Store {
    async fn held_lanes(&self) -> Result<Vec<HeldLane>, StoreError> {
        self.script.play(Call::HeldLanes, self.inner.held_lanes(), none).await
    }

    async fn request_release(&self, lanes: &[Lane], intent: &Intent) -> Result<u64, StoreError> {
        self.script.play(Call::RequestRelease, self.inner.request_release(lanes, intent), none).await
    }

    async fn release_requests(&self) -> Result<Vec<Held>, StoreError> {
        self.script.play(Call::ReleaseRequests, self.inner.release_requests(), none).await
    }

    async fn grant_releases(&self, lanes: &[Lane]) -> Result<(), StoreError> {
        self.script.play(Call::GrantReleases, self.inner.grant_releases(lanes), none).await
    }
}

#[async_trait]
impl Steering for Store {
    async fn orders(&self) -> Result<Orders, StoreError> {
        self.script.play(Call::Orders, self.inner.orders(), none).await
    }

    async fn pause(
        &self,
        topics: &TopicPattern,
        until: Option<DateTime<Utc>>,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        self.script.play(Call::Pause, self.inner.pause(topics, until, intent), none).await
    }

    async fn resume(&self, topics: &TopicPattern, intent: &Intent) -> Result<bool, StoreError> {
        self.script.play(Call::Pause, self.inner.resume(topics, intent), none).await
    }

    async fn request_step_down(&self, term: Term, intent: &Intent) -> Result<bool, StoreError> {
        self.script.play(Call::RequestStepDown, self.inner.request_step_down(term, intent), none).await
    }

    async fn attend(&self, holder: &str, is_standby: bool) -> Result<(), StoreError> {
        self.script.play(Call::Attend, self.inner.attend(holder, is_standby), none).await
    }

    async fn standbys(&self) -> Result<Vec<String>, StoreError> {
        self.script.play(Call::Attend, self.inner.standbys(), none).await
    }
}

#[async_trait]
impl Operations for Store {
    async fn replayable(&self, replay: &Replay, look_at: u64) -> Result<Replayable, StoreError> {
        self.script.play(Call::Operations, self.inner.replayable(replay, look_at), none).await
    }

    async fn start_replay(&self, replay: &Replay, intent: &Intent) -> Result<i64, StoreError> {
        self.script.play(Call::Operations, self.inner.start_replay(replay, intent), none).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>, StoreError> {
        self.script.play(Call::Operations, self.inner.operations(limit), none).await
    }

    async fn cancel_operation(&self, id: i64, intent: &Intent) -> Result<bool, StoreError> {
        self.script.play(Call::Operations, self.inner.cancel_operation(id, intent), none).await
    }

    async fn next_operation(&self) -> Result<Option<Operation>, StoreError> {
        self.script.play(Call::Operations, self.inner.next_operation(), none).await
    }

    async fn replay_page(&self, operation: &Operation, limit: Limit) -> Result<ReplayPage, StoreError> {
        let counted = |page: &ReplayPage| page.records.len();
        self.script.play(Call::ReplayPage, self.inner.replay_page(operation, limit), counted).await
    }

    async fn note_progress(&self, term: Term, id: i64, progress: &OperationProgress) -> Result<bool, StoreError> {
        self.script.play(Call::NoteProgress, self.inner.note_progress(term, id, progress), none).await
    }
}
