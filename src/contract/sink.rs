//! What a broker must do for the relay.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::{BoxFuture, SinkError};
use crate::outbox::{HoldCause, Lane, Position, Progress, Record, Term};

/// Whom a sink asks whether the relay that uses it still leads.
pub trait Mandate: Send + Sync {
    /// Whether the term stands, now, as where leadership is decided says. Waits for the answer while the lease is trusted.
    fn stands(&self) -> BoxFuture<'_, bool>;
}

/// Where records are published.
pub trait Sink: Send {
    /// Says whom to ask whether the term of the calls of [`open`](Self::open) that follow still stands. A sink that shuts
    /// out other producers of its outbox asks before each time that it does so, lest a former leader shuts its successor
    /// out, and once more after it: who was shut out may have been the leader. If the term is over it fails with
    /// [`SinkError::TermOver`]. Without a mandate the term stands.
    fn appoint(&mut self, mandate: Arc<dyn Mandate>) {
        let _ = mandate;
    }

    /// Makes ready for a session of this term. Called before the first record, and again after every error
    /// and at every change of leadership; cheap when all is well.
    ///
    /// Nothing that was submitted before may be delivered after it returns, as far as the broker can tell.
    fn open(&mut self, term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        let _ = term;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Waits until the client has room for these records, knows where they go, and is not behind with earlier ones.
    /// Takes nothing over, and may be cancelled: whoever is to stop need not wait for a broker that is away.
    ///
    /// # Errors
    /// As of [`submit`](Self::submit).
    fn prepare<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<(), SinkError>> {
        let _ = records;
        Box::pin(std::future::ready(Ok(())))
    }

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
    fn examine<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Vec<Refusal>, SinkError>> {
        let _ = records;
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Takes records over, in order, and returns once all of them are handed to the client, waiting where it
    /// has no room. The receipt tells later what became of them; several may be pending.
    ///
    /// *Ordered*: records of one lane become visible to consumers in the order of the calls and, inside a
    /// call, of the slice; a record that fails is followed by none of its lane, and what was once answered as
    /// [`Outcome::Held`] stays so until [`accepts`](Self::accepts) names it. The sink retries
    /// whatever can be retried, for ever and without counting. A call that takes long gives way to others now and
    /// then, so that it can be cancelled; the sink is then aborted.
    ///
    /// # Errors
    /// When the sink must be opened anew; the receipts of earlier calls then resolve without further delay,
    /// and what was taken over of this call may or may not be delivered.
    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>>;

    /// As [`submit`](Self::submit), for sinks that remember how far they are. `after` is the position that is reached
    /// once *all* these records, and all submitted before since the sink was opened, are delivered; `None` where the
    /// position does not move with them: something was kept back, or they come out of line.
    ///
    /// *Atomic* in such sinks: the records and the memory of them become visible together. From a record on that is
    /// answered as anything but delivered the position stands still until the sink is opened anew, and what is
    /// delivered nevertheless is remembered row by row, which has a bound: then the sink asks to be opened anew.
    ///
    /// # Errors
    /// As of `submit`.
    fn submit_with_progress<'a>(
        &'a mut self,
        records: &'a [Record],
        after: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        let _ = after;
        self.submit(records)
    }

    /// By what name opening shuts earlier sinks out, so that the broker refuses what they still send. Sinks of the same
    /// name shut each other out; `None` for one that shuts out nobody.
    fn fence(&self) -> Option<&str> {
        None
    }

    /// After [`open`](Self::open): what was published by sinks of this outbox before, read from the broker. `None`
    /// where that is not remembered, or nothing is.
    fn progress(&mut self) -> Option<Progress> {
        None
    }

    /// Says that what [`progress`](Self::progress) told is durable in the database by now, so that the rows it named
    /// one by one need not be remembered any longer.
    fn taken_over(&mut self) {}

    /// Which of these held lanes it would take records of by now. The relay asks about held lanes now and then; the answer
    /// borrows nothing, so that publishing goes on meanwhile.
    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        Box::pin(std::future::ready(Ok(lanes)))
    }

    /// Whether the last failure taught something of records or topics that is heeded once the sink is opened again, so
    /// that there is nothing to wait for before that. Says so once.
    fn has_learnt(&mut self) -> bool {
        false
    }

    /// Forgets everything that is not delivered yet; its receipts resolve as [`Outcome::Unknown`]. Open the
    /// sink again before further use.
    fn abort(&mut self);

    /// Waits at most this long for everything submitted, then closes. What is left is forgotten as by `abort`.
    fn close(&mut self, deadline: Duration) -> BoxFuture<'_, ()> {
        let _ = deadline;
        Box::pin(async { self.abort() })
    }
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
