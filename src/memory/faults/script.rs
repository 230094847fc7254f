//! The script: which call fails how, and what was called so far.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::contract::{BoxError, SinkError, StoreError};

/// A call of a store, of its sessions, or of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Call {
    /// [`OutboxStore::open`](crate::contract::OutboxStore::open).
    Open,
    /// [`Reader::fetch`](crate::contract::Reader::fetch).
    Fetch,
    /// [`Reader::save`](crate::contract::Reader::save).
    Save,
    /// [`OutboxStore::settle`](crate::contract::OutboxStore::settle).
    Settle,
    /// [`OutboxStore::recover`](crate::contract::OutboxStore::recover).
    Recover,
    /// [`Reader::prove`](crate::contract::Reader::prove).
    Prove,
    /// [`LeaseStore::lease`](crate::contract::LeaseStore::lease).
    Lease,
    /// [`LeaseSession::bid`](crate::contract::LeaseSession::bid).
    Bid,
    /// [`LeaseSession::renew`](crate::contract::LeaseSession::renew).
    Renew,
    /// [`LeaseSession::resign`](crate::contract::LeaseSession::resign).
    Resign,
    /// [`Inspect::backlog`](crate::contract::Inspect::backlog).
    Backlog,
    /// `Inspect::leader`.
    Leader,
    /// `Inspect::footprint`.
    Footprint,
    /// `Inspect::bring_back_late`.
    BringBackLate,
    /// [`Inspect::purge`](crate::contract::Inspect::purge).
    Purge,
    /// [`DeadLetters::dead_letter`](crate::contract::DeadLetters::dead_letter).
    DeadLetter,
    /// [`DeadLetters::due`](crate::contract::DeadLetters::due).
    Due,
    /// [`DeadLetters::delivered`](crate::contract::DeadLetters::delivered) and
    /// [`undeliverable`](crate::contract::DeadLetters::undeliverable).
    DeadDelivered,
    /// [`HeldLanes::held_lanes`](crate::contract::HeldLanes::held_lanes).
    HeldLanes,
    /// [`HeldLanes::request_release`](crate::contract::HeldLanes::request_release).
    RequestRelease,
    /// [`HeldLanes::release_requests`](crate::contract::HeldLanes::release_requests).
    ReleaseRequests,
    /// [`HeldLanes::grant_releases`](crate::contract::HeldLanes::grant_releases).
    GrantReleases,
    /// [`Steering::orders`](crate::contract::Steering::orders).
    Orders,
    /// [`Steering::pause`](crate::contract::Steering::pause) and [`resume`](crate::contract::Steering::resume).
    Pause,
    /// [`Steering::request_step_down`](crate::contract::Steering::request_step_down).
    RequestStepDown,
    /// [`Steering::attend`](crate::contract::Steering::attend) and [`standbys`](crate::contract::Steering::standbys).
    Attend,
    /// Those of [`Operations`](crate::contract::Operations) that look, and those that operators ask with.
    Operations,
    /// [`Operations::replay_page`](crate::contract::Operations::replay_page).
    ReplayPage,
    /// [`Operations::note_progress`](crate::contract::Operations::note_progress).
    NoteProgress,
    /// [`Sink::open`](crate::contract::Sink::open).
    SinkOpen,
    /// [`Sink::examine`](crate::contract::Sink::examine).
    Examine,
    /// [`Sink::submit`](crate::contract::Sink::submit).
    Submit,
    /// The receipt of a submission: it was taken over, and its outcomes are to be told. Failing it makes them
    /// [`Outcome::Unknown`](crate::contract::Outcome::Unknown).
    Receipt,
    /// [`Sink::accepts`](crate::contract::Sink::accepts).
    Accepts,
}

/// What goes wrong with one call.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is done, and the call says that the other side is not available.
    Refuse,
    /// Nothing is done, and the call says that an operator has to allow it.
    Forbid,
    /// It is done, and the call says that the other side is not available.
    LoseReply,
    /// Nothing is done before the gate opens.
    Hold(Gate),
    /// It is done, and the call returns when the gate opens.
    HoldReply(Gate),
    /// Nothing is done for this long.
    Slow(Duration),
}

/// What waits here goes on once it is opened. Clones are one gate.
#[derive(Debug, Clone)]
pub struct Gate {
    is_open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { is_open: Arc::new(watch::Sender::new(false)) }
    }

    /// Opens it, for good.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    pub(super) async fn pass(&self) {
        let mut is_open = self.is_open.subscribe();
        // Fails only without a sender, and the sender is part of `self`.
        let _ = is_open.wait_for(|is_open| *is_open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// How often something was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls that were made.
    pub begun: usize,
    /// Calls that returned, well or badly; those that were cancelled are not among them.
    pub ended: usize,
    /// Records that calls were given (`Settle`, `Submit`) or gave (`Fetch`, `Receipt`), when they returned.
    pub records: usize,
}

/// Faults to come and calls so far. Clones are one script; give it to a store and to a sink, and keep one.
#[derive(Debug, Clone, Default)]
pub struct Script {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<BTreeMap<Call, VecDeque<Fault>>>,
    counts: watch::Sender<BTreeMap<Call, Count>>,
}

impl Script {
    /// A script without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next such call that has no fault yet fail like this.
    pub fn on(&self, call: Call, fault: Fault) -> &Self {
        self.times(1, call, fault)
    }

    /// Lets the next so many such calls that have no fault yet fail like this.
    pub fn times(&self, times: usize, call: Call, fault: Fault) -> &Self {
        let mut faults = self.shared.faults.lock();
        faults.entry(call).or_default().extend(std::iter::repeat_n(fault, times));
        self
    }

    /// Faults that are still to come.
    pub fn left(&self) -> usize {
        self.shared.faults.lock().values().map(VecDeque::len).sum()
    }

    /// How often this was called so far.
    pub fn count(&self, call: Call) -> Count {
        self.shared.counts.borrow().get(&call).copied().unwrap_or_default()
    }

    /// Waits until the count is as wished. Put it under a timeout.
    pub async fn until(&self, call: Call, mut is_wished: impl FnMut(Count) -> bool) {
        let mut counts = self.shared.counts.subscribe();
        // Fails only without a sender, and the sender is part of `self`.
        let _ = counts.wait_for(|counts| is_wished(counts.get(&call).copied().unwrap_or_default())).await;
    }

    /// Makes a call as the script has it. `records` tells how many records a reply is about.
    pub(super) async fn play<T, E: Failure>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, E>> + Send,
        records: impl Fn(&T) -> usize + Send,
    ) -> Result<T, E> {
        let fault = self.begin(call);
        let result = match fault {
            None => work.await,
            Some(Fault::Refuse) => Err(E::unavailable("the script refused the call")),
            Some(Fault::Forbid) => Err(E::forbidden("the script forbids the call")),
            Some(Fault::LoseReply) => work.await.and(Err(E::unavailable("the script lost the reply"))),
            Some(Fault::Hold(gate)) => {
                gate.pass().await;
                work.await
            }
            Some(Fault::HoldReply(gate)) => {
                let result = work.await;
                gate.pass().await;
                result
            }
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
        };
        self.end(call, result.as_ref().map_or(0, &records));
        result
    }

    /// Counts a call and takes its fault.
    pub(super) fn begin(&self, call: Call) -> Option<Fault> {
        self.shared.counts.send_modify(|counts| counts.entry(call).or_default().begun += 1);
        let mut faults = self.shared.faults.lock();
        faults.get_mut(&call).and_then(VecDeque::pop_front)
    }

    pub(super) fn end(&self, call: Call, records: usize) {
        self.shared.counts.send_modify(|counts| {
            let count = counts.entry(call).or_default();
            count.ended += 1;
            count.records += records;
        });
    }
}

/// The errors that a script has calls fail with.
pub(super) trait Failure {
    /// Not available.
    fn unavailable(cause: &'static str) -> Self;
    /// Not allowed.
    fn forbidden(problem: &'static str) -> Self;
}

impl Failure for StoreError {
    fn unavailable(cause: &'static str) -> Self {
        StoreError::Unavailable { doing: "following a script of faults", source: BoxError::from(cause) }
    }

    fn forbidden(problem: &'static str) -> Self {
        StoreError::Unusable { problem: problem.to_owned(), repair: "allow it".to_owned(), source: None }
    }
}

impl Failure for SinkError {
    fn unavailable(cause: &'static str) -> Self {
        SinkError::Unavailable { doing: "following a script of faults", source: BoxError::from(cause) }
    }

    fn forbidden(problem: &'static str) -> Self {
        SinkError::Unusable { problem: problem.to_owned(), repair: "allow it".to_owned(), source: None }
    }
}
