//! A session that bids for the lease.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::{Bid, LeaseSession, StoreError};
use crate::memory::leadership::Bidder;
use crate::memory::shared::Shared;
use crate::outbox::Term;
use async_trait::async_trait;

/// A session that bids.
#[derive(Debug)]
pub(super) struct MemoryLease {
    shared: Arc<Shared>,
    bidder: Bidder,
}

impl MemoryLease {
    pub(super) fn open(shared: Arc<Shared>, holder: &str, ttl: Duration) -> Self {
        let id = shared.state().lease.new_session();
        Self { shared, bidder: Bidder { id, holder: holder.to_owned(), ttl, fence: None } }
    }
}

#[async_trait]
impl LeaseSession for MemoryLease {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        Ok(self.shared.change(|state| state.lease.bid(&self.bidder)))
    }

    fn fence(&mut self, name: &str) {
        self.bidder.fence = Some(name.to_owned());
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        self.shared.change(|state| state.lease.renew(self.bidder.id, term, self.bidder.ttl))
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        self.shared.change(|state| state.lease.resign(self.bidder.id, term));
        Ok(())
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.shared.change(|state| state.lease.unlock(self.bidder.id));
    }
}
