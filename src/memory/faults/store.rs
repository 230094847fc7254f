//! A store whose calls follow a script.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::{
    Backlog, Bid, BoxFuture, Checkpoint, DeadLetters, DueLetter, HeldLanes, Inspect, LeaseSession, LeaseStore,
    OutboxStore, Purge, Reader, StoreError, WakeSource,
};
use crate::memory::faults::{Call, Script};
use crate::outbox::{Batch, DeadLetter, Held, HeldLane, Lane, Limit, Position, Settlement, Term};

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

impl OutboxStore for Store {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn Reader>, StoreError>> {
        Box::pin(async {
            let inner = self.script.play(Call::Open, self.inner.open(), none).await?;
            let reading: Box<dyn Reader> = Box::new(Reading { inner, script: self.script.clone() });
            Ok(reading)
        })
    }

    fn settle<'a>(&'a self, settlement: &'a Settlement) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Settle, self.inner.settle(settlement), |()| settlement.len()))
    }

    fn recover<'a>(
        &'a self,
        term: Term,
        position: Option<&'a Position>,
        beyond: &'a Settlement,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Recover, self.inner.recover(term, position, beyond), none))
    }
}

impl Reader for Reading {
    fn held(&self) -> &[Held] {
        self.inner.held()
    }

    fn position(&self) -> Position {
        self.inner.position()
    }

    fn era(&self) -> Option<u64> {
        self.inner.era()
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.inner.load_at_most(bytes);
    }

    fn fetch(&mut self, limit: Limit) -> BoxFuture<'_, Result<Batch, StoreError>> {
        Box::pin(self.script.play(Call::Fetch, self.inner.fetch(limit), Batch::len))
    }

    fn prove(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Prove, self.inner.prove(term), none))
    }

    fn hold(&mut self, held: Held) {
        self.inner.hold(held);
    }

    fn release(&mut self, lane: &Lane) {
        self.inner.release(lane);
    }

    fn save<'a>(&'a mut self, checkpoint: &'a Checkpoint) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Save, self.inner.save(checkpoint), none))
    }
}

impl LeaseStore for Store {
    fn lease<'a>(&'a self, holder: &'a str, ttl: Duration) -> BoxFuture<'a, Result<Box<dyn LeaseSession>, StoreError>> {
        Box::pin(async move {
            let inner = self.script.play(Call::Lease, self.inner.lease(holder, ttl), none).await?;
            let leading: Box<dyn LeaseSession> = Box::new(Leading { inner, script: self.script.clone() });
            Ok(leading)
        })
    }
}

impl LeaseSession for Leading {
    fn bid(&mut self) -> BoxFuture<'_, Result<Bid, StoreError>> {
        Box::pin(self.script.play(Call::Bid, self.inner.bid(), none))
    }

    fn fence(&mut self, name: &str) {
        self.inner.fence(name);
    }

    fn renew(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Renew, self.inner.renew(term), none))
    }

    fn resign(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Resign, self.inner.resign(term), none))
    }
}

impl Inspect for Store {
    fn backlog(&self, count_limit: u64) -> BoxFuture<'_, Result<Backlog, StoreError>> {
        Box::pin(self.script.play(Call::Backlog, self.inner.backlog(count_limit), none))
    }

    fn purge(&self, term: Term, retention: Duration) -> BoxFuture<'_, Result<Purge, StoreError>> {
        Box::pin(self.script.play(Call::Purge, self.inner.purge(term, retention), none))
    }
}

impl DeadLetters for Store {
    fn bury<'a>(&'a self, letters: &'a [DeadLetter]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::Bury, self.inner.bury(letters), |()| letters.len()))
    }

    fn due(&self, after: i64, limit: Limit) -> BoxFuture<'_, Result<Vec<DueLetter>, StoreError>> {
        Box::pin(self.script.play(Call::Due, self.inner.due(after, limit), Vec::len))
    }

    fn delivered<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::DeadDelivered, self.inner.delivered(ids), |()| ids.len()))
    }

    fn undeliverable<'a>(&'a self, id: i64, why: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::DeadDelivered, self.inner.undeliverable(id, why), |()| 1))
    }
}

impl HeldLanes for Store {
    fn held_lanes(&self) -> BoxFuture<'_, Result<Vec<HeldLane>, StoreError>> {
        Box::pin(self.script.play(Call::HeldLanes, self.inner.held_lanes(), none))
    }

    fn request_release<'a>(&'a self, lanes: &'a [Lane]) -> BoxFuture<'a, Result<u64, StoreError>> {
        Box::pin(self.script.play(Call::RequestRelease, self.inner.request_release(lanes), none))
    }

    fn release_requests(&self) -> BoxFuture<'_, Result<Vec<Held>, StoreError>> {
        Box::pin(self.script.play(Call::ReleaseRequests, self.inner.release_requests(), none))
    }

    fn grant_releases<'a>(&'a self, lanes: &'a [Lane]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.script.play(Call::GrantReleases, self.inner.grant_releases(lanes), none))
    }
}
