//! Who leads, by tokio's clock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::contract::{Bid, LeaseSession, StoreError};
use crate::memory::store::Shared;
use crate::outbox::Term;

/// The lease as the store keeps it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    term: i64,
    holder: String,
    /// By what name the broker shuts the holder out.
    fence: Option<String>,
    ends: Option<Instant>,
    /// The session that no other session can overtake, while it lives and its lease has not run out.
    locked_by: Option<u64>,
    sessions: u64,
}

impl Lease {
    /// Whether this term is the leader's.
    pub(super) fn check(&self, term: Term) -> Result<(), StoreError> {
        if term.0 == self.term { Ok(()) } else { Err(StoreError::TermOver { term }) }
    }

    pub(super) fn new_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    fn bid(&mut self, Session { id, holder, ttl, fence, .. }: &Session) -> Bid {
        let now = Instant::now();
        // All share tokio's clock, which nothing sets, so that no bidder has to watch by one of its own.
        let left = self.ends.map(|ends| ends.saturating_duration_since(now)).filter(|left| !left.is_zero());
        if left.is_some() && self.locked_by.is_some_and(|holder| holder != *id) {
            return Bid::Taken;
        }
        self.locked_by = Some(*id);
        let shuts_out = fence.is_some() && self.fence == *fence;
        if let Some(left) = left.filter(|_| !shuts_out && self.holder != *holder) {
            return Bid::Wait(left);
        }
        self.term += 1;
        (self.holder, self.fence) = (holder.clone(), fence.clone());
        self.ends = Some(now + *ttl);
        Bid::Won(Term(self.term))
    }

    fn renew(&mut self, session: u64, term: Term, ttl: Duration) -> Result<(), StoreError> {
        self.check(term)?;
        if self.locked_by != Some(session) {
            return Err(StoreError::TermOver { term });
        }
        self.ends = Some(Instant::now() + ttl);
        Ok(())
    }

    fn resign(&mut self, session: u64, term: Term) {
        if self.check(term).is_ok() {
            self.ends = None;
            self.unlock(session);
        }
    }

    /// Frees the lock of a session that is gone. Its lease runs out by itself.
    fn unlock(&mut self, session: u64) {
        self.locked_by.take_if(|holder| *holder == session);
    }
}

/// A session that bids.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    id: u64,
    holder: String,
    ttl: Duration,
    fence: Option<String>,
}

impl Session {
    pub(super) fn open(shared: Arc<Shared>, holder: &str, ttl: Duration) -> Self {
        let id = shared.state().lease.new_session();
        Self { shared, id, holder: holder.to_owned(), ttl, fence: None }
    }
}

#[async_trait]
impl LeaseSession for Session {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        Ok(self.shared.change(|state| state.lease.bid(self)))
    }

    fn fence(&mut self, name: &str) {
        self.fence = Some(name.to_owned());
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        self.shared.change(|state| state.lease.renew(self.id, term, self.ttl))
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        self.shared.change(|state| state.lease.resign(self.id, term));
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.change(|state| state.lease.unlock(self.id));
    }
}
