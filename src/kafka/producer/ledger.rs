//! The ledger of one producer: delivery reports back to outcomes, in the order of each submission.
//!
//! Every submission has a slot, every record an index in it, and both travel through the client as one integer.
//! A report costs one uncontended lock and no allocation; a submission wakes its receipt once, when its last
//! report has come. The ledger holds nothing of the records themselves.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use crate::contract::{Outcome, Receipt, Rejection, SinkError};
use crate::kafka::errors::{not_open, unavailable};
use crate::kafka::producer::ledger::ticket::Ticket;
use crate::kafka::producer::sending::Destination;
use crate::outbox::HoldCause;

/// The client frees a record's room shortly after it reports it: looking again this often covers the gap.
const ROOM_TICK: Duration = Duration::from_millis(10);

const _: () = assert!(usize::BITS == 64, "a slot and an index share one pointer-sized integer");

/// Refused records that are remembered of one producer. More than any relay has in flight.
const REFUSALS_KEPT: usize = 100_000;

/// A record that the broker refused, alone or together with others of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The row's id, from the record's headers.
    pub(crate) id: Option<i64>,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) partition: i32,
    /// The word for the cause.
    pub(crate) code: &'static str,
    /// What the broker said.
    pub(crate) error: RDKafkaErrorCode,
}

impl Refused {
    /// What it comes to when the record was sent alone.
    pub(crate) fn rejection(&self) -> Rejection {
        let Self { topic, partition, error, .. } = self;
        let message = format!(
            "the broker refuses it, sent alone to partition {partition} of topic {topic}: {error}; correct the row, or the topic's settings"
        );
        Rejection { code: self.code, message }
    }
}

/// A topic whose records were refused, and what they wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldTopic {
    pub(crate) topic: String,
    pub(crate) cause: HoldCause,
}

/// What went wrong with a producer, so that it takes no more records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What the client said first.
    pub(crate) reason: String,
    /// Records that were refused, alone or in a batch: which of a batch are at fault is not known.
    pub(crate) refused: Vec<Refused>,
    /// Topics whose records wait.
    pub(crate) held: Vec<HeldTopic>,
    /// Partitions of which records were unanswered for long.
    pub(crate) stuck: Vec<Destination>,
}

impl Failure {
    /// A producer that has failed for a reason which teaches nothing about records.
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    /// Whether it says something of records or topics that the next producer is spared by.
    pub(crate) fn teaches(&self) -> bool {
        !self.refused.is_empty() || !self.held.is_empty() || !self.stuck.is_empty()
    }
}

/// A submission that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpenSubmission {
    began: Instant,
    /// Reports to come.
    left: usize,
}

/// The ledger of one producer.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    /// Signalled when there may be room again.
    room: Notify,
    /// Signalled when a submission begins.
    begun: Notify,
    /// Signalled at every other change that a task may wait for.
    changed: Notify,
    /// Signalled when the producer is found to be no good. Who waits for that is not woken by every report.
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    /// Submissions and transactions that have not ended.
    open: usize,
    transactions: Transactions,
    warming: usize,
    reported: u64,
    /// The count of reports at which the task that waits for room is woken.
    room_at: Option<u64>,
    failure: Option<Failure>,
    /// Whether a transaction was aborted, so that the producer can go on.
    aborted: bool,
    /// Whether a connection broke.
    disconnected: bool,
    abandoned: bool,
}

/// How many transactions there were. They begin one after the other, and are committed in that order.
#[derive(Debug, Default)]
struct Transactions {
    begun: u64,
    ended: u64,
    /// Committed since the sink [asked](Ledger::take_committed).
    committed: usize,
}

impl Transactions {
    fn open(&self) -> usize {
        (self.begun - self.ended) as usize
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was committed.
    Committed,
    /// It was undone, and the producer can go on once that is [recovered](Ledger::recover).
    Undone,
    /// The sink does not know.
    Unknown,
}

#[derive(Debug)]
struct Slot {
    outcomes: Vec<Outcome>,
    /// Where those that were handed over go, by their places.
    destinations: Vec<(u32, Destination)>,
    /// Reports to come, and one more while the submission is being written.
    left: usize,
    began: Instant,
    answer: oneshot::Sender<Vec<Outcome>>,
}

impl Ledger {
    /// Opens a slot for so many records. Returns its number, and what becomes of them.
    fn open(&self, records: usize) -> (usize, Receipt) {
        let (answer, outcomes) = oneshot::channel();
        let outcomes_so_far = vec![Outcome::Unknown; records];
        let slot = Slot {
            outcomes: outcomes_so_far,
            destinations: Vec::new(),
            left: records + 1,
            began: Instant::now(),
            answer,
        };
        let mut state = self.state();
        state.open += 1;
        self.begun.notify_waiters();
        let number = match state.free.pop() {
            Some(number) => {
                state.slots[number] = Some(slot);
                number
            }
            None => {
                state.slots.push(Some(slot));
                state.slots.len() - 1
            }
        };
        drop(state);
        let receipt: Receipt =
            Box::pin(async move { outcomes.await.unwrap_or_else(|_abandoned| vec![Outcome::Unknown; records]) });
        (number, receipt)
    }

    /// Takes the report of one record.
    pub(crate) fn report(&self, opaque: usize, outcome: Outcome) {
        let Ticket { slot, index, first } = Ticket::read(opaque);
        let mut state = self.state();
        state.reported += 1;
        if state.room_at.is_some_and(|at| state.reported >= at) {
            state.room_at = None;
            self.room.notify_one();
        }
        if state.abandoned {
            return;
        }
        if first {
            state.warming -= 1;
            if state.warming == 0 {
                self.changed.notify_waiters();
            }
        }
        let entry = state.slots[slot].as_mut().expect("a slot stays until its last report");
        entry.outcomes[index] = outcome;
        self.count_down(&mut state, slot, 1);
    }

    /// Notes that the producer is to be built anew. The first reason is kept; topics and suspicion add up.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut state = self.state();
        match &mut state.failure {
            Some(first) => {
                let room = REFUSALS_KEPT.saturating_sub(first.refused.len());
                first.refused.extend(failure.refused.into_iter().take(room));
                for held in failure.held {
                    if !first.held.contains(&held) {
                        first.held.push(held);
                    }
                }
            }
            none => *none = Some(failure),
        }
        drop(state);
        self.tell_of_the_end();
    }

    /// Counts a transaction as open, until [`release`](Self::release): its records alone do not end it. Returns its
    /// number.
    pub(crate) fn retain(&self) -> u64 {
        let mut state = self.state();
        state.open += 1;
        state.transactions.begun += 1;
        state.transactions.begun
    }

    /// Notes that a transaction has ended.
    pub(crate) fn release(&self, ended: Ended) {
        let mut state = self.state();
        state.transactions.ended += 1;
        state.transactions.committed += usize::from(ended == Ended::Committed);
        state.aborted |= ended == Ended::Undone;
        if !state.abandoned {
            state.open -= 1;
            self.changed.notify_waiters();
        }
    }

    /// Waits until every transaction before this one has ended, or the producer is found to be no good.
    pub(crate) async fn predecessors_ended(&self, transaction: u64) {
        self.until(|state| state.transactions.ended + 1 >= transaction || state.failure.is_some() || state.abandoned)
            .await;
    }

    /// Waits until another transaction may begin, or the producer is found to be no good. Every record of the one before
    /// is acknowledged then, and the one before that has ended.
    pub(crate) async fn transaction_slot(&self) {
        let may_begin = |state: &State| state.open == state.transactions.open() && state.open <= 1;
        self.until(|state| may_begin(state) || state.failure.is_some() || state.abandoned).await;
    }

    /// How many transactions were committed since this was asked last.
    pub(crate) fn take_committed(&self) -> usize {
        std::mem::take(&mut self.state().transactions.committed)
    }

    /// Notes that a connection broke. What was under way is sent again through another one.
    pub(crate) fn disconnected(&self) {
        self.state().disconnected = true;
    }

    /// Whether requests of a transaction may reach the broker when it has ended: they were sent twice. It would take them
    /// for those of the next one, unless that is a new producer's.
    pub(crate) fn has_strays(&self) -> bool {
        self.state().disconnected
    }

    /// Makes a producer good again whose transactions were aborted, and says what they taught.
    pub(crate) fn recover(&self) -> Option<Failure> {
        let mut state = self.state();
        if !state.aborted || state.abandoned || state.open > 0 {
            return None;
        }
        state.aborted = false;
        state.warming = 0;
        state.failure.take()
    }

    /// Why the producer takes no more records, if it does not.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }

    /// Says why the producer cannot take records, if it cannot.
    pub(crate) fn check(&self, doing: &'static str) -> Result<(), SinkError> {
        match self.failure() {
            Some(failure) => Err(unavailable(doing, failure.reason)),
            None if self.is_healthy() => Ok(()),
            None => Err(not_open()),
        }
    }

    /// Whether the producer can take records.
    pub(crate) fn is_healthy(&self) -> bool {
        let state = self.state();
        state.failure.is_none() && !state.abandoned
    }

    /// The oldest submission that is not answered.
    pub(crate) fn oldest(&self) -> Option<OpenSubmission> {
        self.state().oldest()
    }

    /// The partitions of which records are not answered that were submitted before so much time. A transaction of which
    /// nothing is answered says nothing of its partitions: it may be another one that Kafka does not let into it.
    pub(crate) fn unanswered_for(&self, age: Duration) -> Vec<Destination> {
        let state = self.state();
        let are_transactions = state.transactions.begun > 0;
        let tells = |slot: &&Slot| !are_transactions || slot.outcomes.iter().any(|told| *told != Outcome::Unknown);
        let old = state.slots.iter().flatten().filter(|slot| slot.began.elapsed() >= age).filter(tells);
        let unanswered = old.flat_map(|slot| {
            let is_unanswered = |place: u32| slot.outcomes[place as usize] == Outcome::Unknown;
            slot.destinations.iter().filter(move |(place, _)| is_unanswered(*place)).map(|(_, partition)| *partition)
        });
        let unanswered: BTreeSet<Destination> = unanswered.collect();
        unanswered.into_iter().collect()
    }

    /// How many reports came by now.
    pub(crate) fn reports(&self) -> u64 {
        self.state().reported
    }

    /// Whether every submission is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.state().open == 0
    }

    /// Answers every submission with what is known by now, and takes no notice of reports from here on.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.open = 0;
        state.warming = 0;
        for slot in state.slots.drain(..).flatten() {
            // A receipt that no task waits for any more is no failure.
            let _ = slot.answer.send(slot.outcomes);
        }
        drop(state);
        self.tell_of_the_end();
    }

    /// Wakes the tasks that wait for an end, or in vain.
    fn tell_of_the_end(&self) {
        self.over.notify_waiters();
        self.changed.notify_waiters();
        self.room.notify_one();
    }

    /// Waits until every submission is answered, or the producer is found to be no good.
    pub(crate) async fn drained(&self) {
        self.until(|state| state.open == 0 || state.failure.is_some() || state.abandoned).await;
    }

    /// Waits until a submission is not answered.
    pub(crate) async fn busy(&self) {
        wait_for(&self.begun, || self.state().open > 0).await;
    }

    /// Waits until the producer is given up.
    pub(crate) async fn given_up(&self) {
        wait_for(&self.over, || self.state().abandoned).await;
    }

    /// Waits until every submission is answered, good producer or not.
    pub(crate) async fn answered(&self) {
        self.until(|state| state.open == 0 || state.abandoned).await;
    }

    /// Waits until the first records of all cold partitions are reported, or the producer is found to be no good.
    pub(crate) async fn warmed(&self) {
        self.until(|state| state.warming == 0 || state.failure.is_some() || state.abandoned).await;
    }

    /// Waits until the producer is found to be no good.
    pub(crate) async fn ended(&self) {
        wait_for(&self.over, || !self.is_healthy()).await;
    }

    /// Waits until no submission has been under way for longer than this, or the producer is found to be no good.
    pub(crate) async fn caught_up(&self, age: Duration) {
        let is_young = |oldest: OpenSubmission| oldest.began.elapsed() <= age;
        self.until(|state| state.oldest().is_none_or(is_young) || state.failure.is_some() || state.abandoned).await;
    }

    /// Waits until the client, which holds records up to this count, has room again. May return early.
    pub(crate) async fn queue_room(&self, enqueued: u64) {
        {
            let mut state = self.state();
            // A quarter of what is out, so that one report does not wake us for one record.
            let outstanding = enqueued.saturating_sub(state.reported);
            state.room_at = Some(state.reported + (outstanding / 4).max(1));
        }
        let _ = timeout(ROOM_TICK, self.room.notified()).await;
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        wait_for(&self.changed, || done(&self.state())).await;
    }

    fn count_down(&self, state: &mut State, number: usize, by: usize) {
        let Some(slot) = &mut state.slots[number] else { return };
        slot.left -= by;
        if slot.left > 0 {
            return;
        }
        if let Some(slot) = state.slots[number].take() {
            let _ = slot.answer.send(slot.outcomes);
        }
        state.free.push(number);
        state.open -= 1;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Waits until it is so. The signal comes whenever that may have changed.
async fn wait_for(signal: &Notify, is_so: impl Fn() -> bool) {
    loop {
        let mut signalled = pin!(signal.notified());
        signalled.as_mut().enable();
        if is_so() {
            return;
        }
        signalled.await;
    }
}

impl State {
    /// The oldest submission that is not answered. There are few of them at a time.
    fn oldest(&self) -> Option<OpenSubmission> {
        self.slots.iter().flatten().map(|slot| OpenSubmission { began: slot.began, left: slot.left }).min()
    }
}

pub(crate) mod submission;
mod ticket;

#[cfg(test)]
mod tests;
