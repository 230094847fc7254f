//! Who leads, by tokio's clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::contract::{Bid, Leader, StoreError};
use crate::outbox::Term;

/// A session that bids, as the store knows it.
#[derive(Debug)]
pub(super) struct Bidder {
    pub(super) id: u64,
    pub(super) holder: String,
    pub(super) ttl: Duration,
    /// By what name the broker shuts it out.
    pub(super) fence: Option<String>,
}

/// The lease as the store keeps it.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    term: i64,
    holder: String,
    /// By what name the broker shuts the holder out.
    fence: Option<String>,
    ends: Option<Instant>,
    /// The session that no other session can overtake, while it lives and its lease has not run out.
    locked_by: Option<u64>,
    sessions: u64,
}

impl Leadership {
    /// Whether this term is the leader's.
    pub(super) fn check(&self, term: Term) -> Result<(), StoreError> {
        if term.0 == self.term { Ok(()) } else { Err(StoreError::TermOver { term }) }
    }

    /// Whether the latest term was not given up.
    pub(super) fn is_held(&self) -> bool {
        self.ends.is_some()
    }

    /// Who leads.
    pub(super) fn leader(&self) -> Option<Leader> {
        let remaining = self.ends?.saturating_duration_since(Instant::now());
        let leader = Leader { term: Term(self.term), holder: self.holder.clone(), remaining };
        (!remaining.is_zero()).then_some(leader)
    }

    pub(super) fn new_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    pub(super) fn bid(&mut self, Bidder { id, holder, ttl, fence }: &Bidder) -> Bid {
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

    pub(super) fn renew(&mut self, session: u64, term: Term, ttl: Duration) -> Result<(), StoreError> {
        self.check(term)?;
        if self.locked_by != Some(session) {
            return Err(StoreError::TermOver { term });
        }
        self.ends = Some(Instant::now() + ttl);
        Ok(())
    }

    pub(super) fn resign(&mut self, session: u64, term: Term) {
        if self.check(term).is_ok() {
            self.ends = None;
            self.unlock(session);
        }
    }

    /// Frees the lock of a session that is gone. Its lease runs out by itself.
    pub(super) fn unlock(&mut self, session: u64) {
        self.locked_by.take_if(|holder| *holder == session);
    }
}
