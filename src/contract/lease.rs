//! One leader for one outbox.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::contract::error::StoreError;
use crate::outbox::Term;

/// Where leadership is decided.
#[async_trait]
pub trait LeaseStore: Send + Sync {
    /// Opens a session that can bid for the lease. `holder` names this relay, for people who look and to know its own
    /// lease again: no two relays have the same, and one relay bids through one session at a time, after everything it
    /// did as leader before has ended.
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError>;
}

/// The relay that leads, as the database tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its term.
    pub term: Term,
    /// Its name.
    pub holder: String,
    /// How long its lease lasts still, by the database's clock.
    pub remaining: Duration,
}

/// What came of a bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bid {
    /// The lease is ours, for the time to live counted from when the bid was made.
    Won(Term),
    /// Another relay holds it, or its lease has not been waited out yet; nothing is known of when it will end. Bid again
    /// soon: a renewal that is not seen prolongs what has to be waited for.
    Taken,
    /// No other session can win any more. Bid again after this long, when the last lease has been waited out, and now
    /// and then before that: a bidder that is silent for its time to live counts as gone.
    Wait(Duration),
}

/// What a bidder saw of a lease that is another's, and since when by its own clock. The clocks of the database and of
/// the holder's host may be set while a lease runs, so no time in the row is ever compared with any of them: the lease
/// is waited out when the same renewal was seen at both ends of its time to live.
#[derive(Debug)]
pub struct Watched<R> {
    latest: Option<(R, Instant)>,
}

impl<R> Default for Watched<R> {
    fn default() -> Self {
        Self { latest: None }
    }
}

impl<R: PartialEq> Watched<R> {
    /// Takes in which renewal is the latest, just after the database has said so. Returns for how long it has been the
    /// latest one that this bidder saw.
    pub fn see(&mut self, renewal: R) -> Duration {
        let now = Instant::now();
        match &self.latest {
            Some((latest, since)) if *latest == renewal => now - *since,
            _ => {
                self.latest = Some((renewal, now));
                Duration::ZERO
            }
        }
    }
}

/// A session that bids for the lease and holds it. Dropping it frees whatever the session itself locks, but
/// not the lease, which runs out by itself.
#[async_trait]
pub trait LeaseSession: Send {
    /// Tries to become leader. At most one session of all relays of an outbox wins a term; terms grow.
    ///
    /// A lease that was not resigned is taken over once this session has seen no renewal of it for its time to live, or
    /// for the bidder's if that is longer, by the bidder's own clock; the database's clock may be set to anything
    /// meanwhile. The holder that has it takes it at once: after the database was away no other relay needs to be
    /// waited for.
    async fn bid(&mut self) -> Result<Bid, StoreError>;

    /// Says that a relay that wins through this session shuts out, at the broker, earlier holders that fence by the
    /// same `name`. The lease of such a holder is won without a wait once nothing else shows that it lives, where the
    /// store can tell: a lock that dies with its session. Other stores wait all the same.
    fn fence(&mut self, name: &str);

    /// Prolongs the lease by the time to live, counted from when the call was made.
    ///
    /// # Errors
    /// [`StoreError::TermOver`] when the lease is another's. After any other error the lease is what it was,
    /// or is prolonged; trust the shorter.
    async fn renew(&mut self, term: Term) -> Result<(), StoreError>;

    /// Gives the lease up, so that the next relay need not wait. Does nothing if the term is over. Any session can do
    /// it, not only the one that won the term.
    async fn resign(&mut self, term: Term) -> Result<(), StoreError>;
}
