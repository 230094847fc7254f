//! Recording what became of records: many receipts in one settlement, retried until it is written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::contract::{Outcome, Receipt};
use crate::observe::metrics;
use crate::outbox::{Held, HoldCause, Lane, Position, Settlement};
use crate::relay::Status;
use crate::relay::fetcher::Permit;
use crate::relay::lanes::{Before, Lanes};
use crate::relay::publisher::Row;
use crate::relay::recorder::Recorder;
use crate::relay::rejections::{Rejected, Rejections};
use crate::relay::session::{Ending, Verdict, graver};

/// Records in one settlement at most: enough for few commits, small enough to be quick.
const SETTLEMENT: usize = 10_000;

/// A settlement of fewer records is followed by a pause, in which more are delivered: the next one settles them together.
const FEW: usize = 500;

/// That pause.
const PAUSE: Duration = Duration::from_millis(10);

/// So many held lanes are shown whenever they change; of more the [publisher](crate::relay::publisher) tells now and then.
const TOLD_LANES: usize = 1_000;

/// Batches that the sink has taken over together.
pub(crate) struct Submitted {
    /// Where the first of them begins.
    pub(crate) before: Before,
    /// The number of the last of them.
    pub(crate) number: u64,
    pub(crate) rows: Vec<Row>,
    /// How many records were read with it, those kept back included.
    pub(crate) read: usize,
    pub(crate) receipt: Receipt,
    pub(crate) began: Instant,
    pub(crate) end: Position,
    /// Whether some of them came out of line: no position tells of those.
    pub(crate) out_of_line: bool,
    /// Lanes whose release is complete with them, and how many commands the reader had heard when it said so.
    pub(crate) closed: Vec<(Lane, u64)>,
    pub(crate) permits: Vec<Permit>,
}

/// How far everything is settled or held.
#[derive(Debug, Clone)]
pub(crate) struct Frontier {
    /// The number of the last batch.
    pub(crate) number: u64,
    /// The position after it, or, if it stands still, before it.
    pub(crate) position: Position,
    /// The number of the batch after which the position stands.
    pub(crate) stands_after: u64,
    /// Whether the position stands still before a row that cannot be recorded.
    is_still: bool,
}

impl Frontier {
    /// At the beginning of a session.
    pub(crate) fn at(position: Position) -> Self {
        Self::after(0, position)
    }

    /// Everything up to this batch is settled or held, and nothing is set aside.
    pub(crate) fn after(number: u64, position: Position) -> Self {
        Self { number, position, stands_after: number, is_still: false }
    }

    /// As many batches are settled or held, but for what is set aside: the position stays where it is.
    pub(crate) fn still(self, number: u64) -> Self {
        Self { number, is_still: true, ..self }
    }

    /// Whether everything up to this batch is settled or held.
    pub(crate) fn covers(&self, number: u64) -> bool {
        self.number == number && !self.is_still
    }
}

/// The third stage. It outlives the others: what was delivered is recorded.
pub(crate) struct Settler {
    pub(crate) recorder: Recorder,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    pub(crate) rejections: Rejections,
    /// Whether the broker remembers a position, which stands still once a record waits.
    pub(crate) exactly_once: bool,
    /// The era in which the session reads.
    pub(crate) era: Option<u64>,
    pub(crate) submitted: mpsc::Receiver<Submitted>,
    pub(crate) progress: watch::Sender<Frontier>,
    /// How far the session would be without what was set aside.
    pub(crate) beyond: Option<Position>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ending: Ending,
}

/// Batches whose outcomes are known, about to be settled together.
#[derive(Default)]
pub(crate) struct Fold {
    settlement: Settlement,
    rejected: Vec<Rejected>,
    /// Where the first batch begins of which a record was rejected.
    rejected_in: Option<Before>,
    read: usize,
    end: Option<(u64, Position)>,
    closed: Vec<(Lane, u64)>,
    permits: Vec<Permit>,
}

impl Settler {
    /// Settles until the publisher has ended and everything it submitted is settled.
    ///
    /// # Errors
    /// When something submitted is not delivered, or not settled.
    pub(crate) async fn run(mut self) -> Result<(), Verdict> {
        let mut ready = VecDeque::new();
        let mut verdict = Ok(());
        while let Some((first, outcomes)) = self.next(&mut ready).await {
            let mut fold = Fold::default();
            self.fold(&mut fold, first, outcomes, &mut verdict);
            while fold.settlement.len() < SETTLEMENT
                && let Some((next, outcomes)) = self.next_ready(&mut ready)
            {
                self.fold(&mut fold, next, outcomes, &mut verdict);
            }
            fold.settlement.set_era(self.era);
            if let Err(failed) = self.recorder.record(&fold.settlement).await {
                self.ending.soft.cancel();
                return Err(failed);
            }
            let rejected = std::mem::take(&mut fold.rejected);
            if let Some(before) = fold.rejected_in.take()
                && let Err(failed) = self.rejections.decide(rejected, &before).await
            {
                verdict = Err(failed);
            }
            let were_few = fold.settlement.len() < FEW;
            self.settled(fold);
            if were_few {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    () = self.ending.soft.cancelled() => {}
                }
            }
        }
        self.record_the_rest().await;
        match self.recorder.into_refusal() {
            None => verdict,
            Some(refusal) => Err(verdict.err().into_iter().fold(Verdict::Refused(refusal), graver)),
        }
    }

    /// The next submission in order, once its outcomes are known. Tries meanwhile to record what was refused.
    async fn next(&mut self, ready: &mut VecDeque<Submitted>) -> Option<(Submitted, Vec<Outcome>)> {
        loop {
            tokio::select! {
                biased;
                () = self.recorder.is_due() => self.record_the_rest().await,
                next = told(&mut self.submitted, ready) => return next,
            }
        }
    }

    /// The next submission in order, if its outcomes are known already.
    fn next_ready(&mut self, ready: &mut VecDeque<Submitted>) -> Option<(Submitted, Vec<Outcome>)> {
        if ready.is_empty() {
            ready.push_back(self.submitted.try_recv().ok()?);
        }
        let outcomes = (&mut ready.front_mut()?.receipt).now_or_never()?;
        Some((ready.pop_front()?, outcomes))
    }

    /// Adds what became of one batch.
    fn fold(&self, fold: &mut Fold, mut batch: Submitted, outcomes: Vec<Outcome>, verdict: &mut Result<(), Verdict>) {
        if !batch.rows.is_empty() {
            metrics::record_publish_ack(batch.began.elapsed());
        }
        // The position at which a lane came to be held tells of no record of the lane that was under way then.
        let waits = |outcome: &Outcome| matches!(outcome, Outcome::Held(_) | Outcome::Rejected(_));
        batch.out_of_line |= outcomes.iter().any(waits) || self.lanes().came_to_wait(batch.number, &batch.rows);
        let before = batch.before.clone();
        let held = fold.add(batch, outcomes, self.exactly_once, verdict);
        held.iter().for_each(|(row, cause)| self.hold(row, *cause, &before));
        if verdict.is_err() {
            self.ending.soft.cancel();
        }
    }

    /// Holds what a record waits with: its lane where a partition is unavailable, and its topic otherwise.
    fn hold(&self, row: &Row, cause: HoldCause, before: &Before) {
        let mut lanes = self.lanes();
        match cause.lane(&row.topic, row.lane()) {
            Lane::Topic { topic } => {
                if lanes.hold_topic_of(row, cause, before) {
                    tracing::warn!(%topic, cause = cause.as_str(), from_id = row.id, "topic is held until the broker accepts it; other topics flow on");
                }
            }
            // The sink has said which partition it is, once for all of its lanes.
            lane => drop(lanes.hold(lane, row.id, cause, before)),
        }
    }

    fn settled(&mut self, fold: Fold) {
        let Fold { settlement, read, end, closed, permits, .. } = fold;
        drop(permits);
        let held = {
            let mut lanes = self.lanes();
            closed.iter().for_each(|(lane, heard)| lanes.close(lane, *heard));
            lanes.untold(TOLD_LANES)
        };
        if let Some(held) = held {
            tell_held(&self.status, held);
        }
        self.status.send_modify(|status| {
            status.in_flight = status.in_flight.saturating_sub(read);
            status.published += settlement.len() as u64;
            status.connected = true;
            status.progressed();
        });
        metrics::set_in_flight(self.status.borrow().in_flight);
        metrics::set_progress_now();
        if let Some((number, position)) = end {
            self.advance(number, position);
        }
    }

    /// Everything up to here is settled or held, but for rows that were set aside: the position stands still before
    /// them.
    fn advance(&mut self, number: u64, position: Position) {
        let frontier = if self.recorder.has_set_aside() {
            self.beyond = Some(position);
            self.progress.borrow().clone().still(number)
        } else {
            Frontier::after(number, position)
        };
        self.progress.send_replace(frontier);
    }

    /// Tries again to record what was set aside, and lets the position move on if nothing is left.
    async fn record_the_rest(&mut self) {
        self.recorder.record_what_was_set_aside().await;
        if !self.recorder.has_set_aside()
            && let Some(position) = self.beyond.take()
        {
            let number = self.progress.borrow().number;
            self.progress.send_replace(Frontier::after(number, position));
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next submission in order, once its outcomes are known. May be cancelled.
async fn told(
    submitted: &mut mpsc::Receiver<Submitted>,
    ready: &mut VecDeque<Submitted>,
) -> Option<(Submitted, Vec<Outcome>)> {
    if ready.is_empty() {
        ready.push_back(submitted.recv().await?);
    }
    let outcomes = (&mut ready.front_mut()?.receipt).await;
    Some((ready.pop_front()?, outcomes))
}

impl Fold {
    /// Adds what became of one batch; returns the rows whose topics wait. From the first record on with which another
    /// session has to begin, as the verdict tells, the position stands still.
    pub(crate) fn add(
        &mut self,
        batch: Submitted,
        outcomes: Vec<Outcome>,
        exactly_once: bool,
        verdict: &mut Result<(), Verdict>,
    ) -> Vec<(Row, HoldCause)> {
        if batch.out_of_line {
            self.settlement.set_out_of_line();
        }
        let (now, commit_to_ack) = (Utc::now(), metrics::commit_to_ack());
        let mut held = Vec::new();
        let mut published = Published::default();
        for (row, outcome) in batch.rows.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered { .. } => {
                    self.settlement.push_row(row.id, row.event_id);
                    commit_to_ack.record((now - row.created_at).to_std().unwrap_or_default());
                    published.count(&row.topic);
                }
                Outcome::Held(cause) => {
                    held.push((row, cause));
                    if exactly_once && verdict.is_ok() {
                        *verdict = Err(Verdict::Afresh);
                    }
                }
                Outcome::Rejected(rejection) => {
                    self.rejected.push(Rejected::of(&row, *rejection));
                    self.rejected_in.get_or_insert_with(|| batch.before.clone());
                    // What follows in its lane was not sent: the next session reads it again.
                    if !matches!(verdict, Err(Verdict::Failed(_))) {
                        *verdict = Err(Verdict::Afresh);
                    }
                }
                Outcome::Unknown if verdict.is_ok() => {
                    *verdict = Err(Verdict::Again("the broker's client gave records up unacknowledged".to_owned()));
                }
                Outcome::Unknown => {}
            }
        }
        published.record();
        if verdict.is_ok() {
            self.end = Some((batch.number, batch.end));
            self.closed.extend(batch.closed);
        }
        self.read += batch.read;
        self.permits.extend(batch.permits);
        held
    }
}

#[cfg(feature = "microbench")]
impl Fold {
    /// What is settled.
    pub(crate) fn into_settlement(self) -> Settlement {
        self.settlement
    }
}

/// Shows what is held.
pub(crate) fn tell_held(status: &watch::Sender<Status>, held: Vec<Held>) {
    count_held(&held);
    status.send_modify(|status| status.held = held);
}

/// Shows how many lanes are held, by cause.
pub(crate) fn count_held(held: &[Held]) {
    for cause in HoldCause::ALL {
        metrics::set_held(cause.as_str(), held.iter().filter(|held| held.cause == cause).count());
    }
}

/// Counts published records by runs of one topic.
#[derive(Default)]
struct Published {
    run: Option<(Arc<str>, u64)>,
}

impl Published {
    fn count(&mut self, topic: &Arc<str>) {
        match &mut self.run {
            Some((of, count)) if of == topic => *count += 1,
            _ => {
                self.record();
                self.run = Some((Arc::clone(topic), 1));
            }
        }
    }

    fn record(&mut self) {
        if let Some((topic, count)) = self.run.take() {
            metrics::count_published(&topic, count);
        }
    }
}

#[cfg(test)]
mod properties;
