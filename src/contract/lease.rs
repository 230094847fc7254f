//! One leader for one outbox.

use std::time::Duration;

use crate::contract::{BoxFuture, StoreError};
use crate::outbox::Term;

/// Where leadership is decided.
pub trait LeaseStore: Send + Sync {
    /// Opens a session that can bid for the lease. `holder` names this relay, for people who look and to know its own
    /// lease again: no two relays have the same, and one relay bids through one session at a time, after everything it
    /// did as leader before has ended.
    fn lease<'a>(&'a self, holder: &'a str, ttl: Duration) -> BoxFuture<'a, Result<Box<dyn LeaseSession>, StoreError>>;
}

/// What came of a bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bid {
    /// The lease is ours, for the time to live counted from when the bid was made.
    Won(Term),
    /// Another relay holds it, or its lease has not run out yet; nothing is known of when it will end.
    Taken,
    /// Nobody else can win any more; bid again after this long, when the last lease has run out.
    Wait(Duration),
}

/// A session that bids for the lease and holds it. Dropping it frees whatever the session itself locks, but
/// not the lease, which runs out by itself.
pub trait LeaseSession: Send {
    /// Tries to become leader. At most one session of all relays of an outbox wins a term; terms grow.
    ///
    /// A lease that was neither resigned nor has run out by the database's clock is not taken over, except by the
    /// holder that has it: after the database was away nobody else needs to be waited for.
    fn bid(&mut self) -> BoxFuture<'_, Result<Bid, StoreError>>;

    /// Says that whoever wins through this session shuts its predecessor out at the broker. Then a lease that has not
    /// run out is won all the same once nothing else shows that its holder lives, where the store can tell: a lock that
    /// dies with its session. Other stores take no notice.
    fn fence(&mut self) {}

    /// Prolongs the lease by the time to live, counted from when the call was made.
    ///
    /// # Errors
    /// [`StoreError::TermOver`] when the lease is another's. After any other error the lease is what it was,
    /// or is prolonged; trust the shorter.
    fn renew(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Gives the lease up, so that the next relay need not wait. Does nothing if the term is over. Any session can do
    /// it, not only the one that won the term.
    fn resign(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>>;
}
