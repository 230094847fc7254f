//! What a broker must do for the relay.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::contract::error::SinkError;
use crate::outbox::{HoldCause, Lane, Position, Progress, Record, Term};

/// Whom a sink asks whether the relay that uses it still leads.
#[async_trait]
pub trait Mandate: Send + Sync {
    /// Whether the term stands, now, as where leadership is decided says. Waits for the answer while the lease is trusted.
    async fn stands(&self) -> bool;
}

/// Where records are published. No method has a default: a wrapper that forgot to hand one on would lose a promise.
#[async_trait]
pub trait Sink: Send {
    /// Makes ready for a session of this term. Called before the first record, and again after every error
    /// and at every change of leadership; cheap when all is well. Returns what was published by sinks of this outbox before,
    /// read from the broker; `None` where that is not remembered, or nothing is.
    ///
    /// Nothing that was submitted before may be delivered after it returns, as far as the broker can tell.
    ///
    /// A sink that shuts out other producers of its outbox asks the `mandate` before each time that it does so, until it is
    /// opened again, lest a former leader shuts its successor out, and once more after it: the producer that was shut out
    /// may have been the leader's. Without a mandate the term stands.
    ///
    /// # Errors
    /// [`SinkError::TermOver`] when the mandate says that the term is over.
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError>;

    /// Waits until the client has room for these records, knows where they go, and is not behind with earlier ones.
    /// Accepts nothing, and may be cancelled: a relay that is to stop need not wait for a broker that is away.
    ///
    /// # Errors
    /// As of [`submit`](Self::submit).
    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError>;

    /// Looks at records that are about to be submitted, and says which of them can never be published as they are. The
    /// relay decides about those, leaves them out, and asks again until none is left; then it submits the others. May
    /// wait for answers of the broker, as [`submit`](Self::submit) may.
    ///
    /// Records that the broker may refuse, by what it refused before, may be published ahead here, as ordered as in a
    /// submission: nothing of a lane follows a refused record before the next call. The submission that follows with them
    /// tells that they are delivered.
    ///
    /// # Errors
    /// When the sink must be opened anew.
    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError>;

    /// Accepts records, in order, and returns once all of them are handed to the client, waiting where it
    /// has no room. The receipt tells later what became of them; several may be pending.
    ///
    /// *Ordered*: records of one lane become visible to consumers in the order of the calls and, inside a
    /// call, of the slice; a record that fails is followed by none of its lane, and what was once answered as
    /// [`Outcome::Held`] stays so until [`accepts`](Self::accepts) names it. The sink retries
    /// whatever can be retried, for ever and without counting. A call that takes long gives way to others now and
    /// then, so that it can be cancelled; the sink is then aborted.
    ///
    /// `after` is for sinks that remember how far they are: the position that is reached once *all* these records, and all
    /// submitted before since the sink was opened, are delivered; `None` where the position does not move with them:
    /// something was kept back, or they come out of line.
    ///
    /// *Atomic* in such sinks: the records and the memory of them become visible together. From a record on that is
    /// answered as anything but delivered the position stands still until the sink is opened anew, and what is
    /// delivered nevertheless is remembered row by row, which has a bound: then the sink asks to be opened anew.
    ///
    /// # Errors
    /// When the sink must be opened anew; the receipts of earlier calls then resolve without further delay,
    /// and what was accepted of this call may or may not be delivered.
    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError>;

    /// By what name opening shuts earlier sinks out, so that the broker refuses what they still send. Sinks of the same
    /// name shut each other out; `None` for one that shuts out no other.
    fn fence(&self) -> Option<&str>;

    /// Says that the progress that [`open`](Self::open) returned is durable in the database by now, so that the rows it
    /// named one by one need not be remembered any longer.
    fn progress_stored(&mut self);

    /// Which of these held lanes it would accept records of by now. The relay asks about held lanes now and then; the answer
    /// borrows nothing, so that publishing goes on meanwhile.
    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>>;

    /// Whether the last failure taught something of records or topics that is heeded once the sink is opened again, so
    /// that there is nothing to wait for before that. Says so once.
    fn has_learnt(&mut self) -> bool;

    /// Forgets everything that is not delivered yet; its receipts resolve as [`Outcome::Unknown`]. Open the
    /// sink again before further use.
    fn abort(&mut self);

    /// Waits at most this long for everything submitted, then closes. What is left is forgotten as by `abort`.
    async fn close(&mut self, deadline: Duration);
}

/// Resolves to one outcome for each record of a submission, in its order.
pub type Receipt = BoxFuture<'static, Vec<Outcome>>;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it, on all replicas that its topic asks for.
    Delivered {
        /// The partition it went to.
        partition: i32,
        /// Its offset there.
        offset: i64,
    },
    /// Not sent: what it [belongs to](HoldCause::lane) waits for something, its topic or its lane.
    Held(HoldCause),
    /// It can never be published as it is: it failed alone. Open the sink again before anything of its lane follows.
    Rejected(Box<Rejection>),
    /// Not known: it may have been delivered. The relay reads it again. Of its lane nothing that was submitted after it is
    /// told to be delivered before the sink is opened again: it would not be read again, and stand before this one.
    Unknown,
}

/// A record that [`Sink::examine`] found impossible to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place among the records that were looked at.
    pub index: usize,
    /// Why.
    pub rejection: Rejection,
}

/// Why a record can never be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Rejection {
    /// The client's name of the error, bounded in number: it labels a metric.
    pub code: &'static str,
    /// What happened, to what, and what would do; never the payload or the key.
    pub message: String,
}
