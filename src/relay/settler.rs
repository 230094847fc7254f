//! Recording what became of records: many receipts in one settlement, retried until it is written.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::contract::Outcome;
use crate::observe::metrics;
use crate::outbox::{HoldCause, Lane, Position, RecordMetadata, Settlement};
use crate::relay::flow::{Before, Ending, Frontier, Permit, Row, SessionEnd, Submitted};
use crate::relay::lanes::HeldLaneStates;
use crate::relay::recorder::Recorder;
use crate::relay::rejections::{Rejected, Rejections};
use crate::relay::status::{Status, tell_held};

/// Records in one settlement at most: enough for few commits, small enough to be quick.
const SETTLEMENT_RECORDS: usize = 10_000;

/// A settlement of fewer records is followed by a pause, in which more are delivered: the next one settles them together.
const FEW_RECORDS: usize = 500;

/// That pause.
const SETTLEMENT_PAUSE: Duration = Duration::from_millis(10);

/// Under what name each published record is logged, so that it can be asked for alone.
const PUBLISHED_TARGET: &str = "outboxd::published";

/// So many held lanes are shown whenever they change; of more the [publisher](crate::relay::publisher) tells now and then.
const TOLD_LANES: usize = 1_000;

/// The third stage. It outlives the others: what was delivered is recorded.
pub(crate) struct Settler {
    pub(crate) recorder: Recorder,
    pub(crate) lanes: Arc<Mutex<HeldLaneStates>>,
    pub(crate) rejections: Rejections,
    pub(crate) mode: SettlingMode,
    pub(crate) submitted: mpsc::Receiver<Submitted>,
    pub(crate) progress: watch::Sender<Frontier>,
    /// How far the session would be without what was set aside.
    pub(crate) beyond: Option<Position>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ending: Ending,
}

/// How records are settled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SettlingMode {
    /// Whether the broker remembers a position, which stands still once a record waits.
    pub(crate) exactly_once: bool,
    /// Whether it is recorded where each record is.
    pub(crate) record_position: bool,
}

/// Submissions whose outcomes are known, about to be settled together.
pub(crate) struct SettlementBatch {
    settlement: Settlement,
    rejected: Vec<Rejected>,
    /// Where the first submission begins of which a record was rejected.
    rejected_in: Option<Before>,
    read: usize,
    /// How far the position moves with it, if it moves.
    end: Option<End>,
    closed: Vec<(Lane, u64)>,
    permits: Vec<Permit>,
    /// When the outcomes of each submission were known.
    answered: Vec<Instant>,
    /// Why another session has to begin, once that is known.
    session_end: Result<(), SessionEnd>,
}

/// Where a submission ends.
struct End {
    /// The number of its last batch.
    number: u64,
    position: Position,
}

impl Settler {
    /// Settles until the publisher has ended and everything it submitted is settled.
    ///
    /// # Errors
    /// When something submitted is not delivered, or not settled.
    pub(crate) async fn run(mut self) -> Result<(), SessionEnd> {
        let mut ready = VecDeque::new();
        let mut session_end = Ok(());
        while let Some((first, outcomes)) = self.next(&mut ready).await {
            let mut batch = SettlementBatch::after(session_end);
            self.add(&mut batch, first, outcomes);
            while batch.settlement.len() < SETTLEMENT_RECORDS
                && let Some((next, outcomes)) = self.next_ready(&mut ready)
            {
                self.add(&mut batch, next, outcomes);
            }
            if let Err(failed) = self.recorder.record(&batch.settlement).await {
                self.ending.soft.cancel();
                return Err(failed);
            }
            let rejected = std::mem::take(&mut batch.rejected);
            if let Some(before) = batch.rejected_in.take()
                && let Err(failed) = self.rejections.decide(rejected, &before).await
            {
                batch.session_end = Err(failed);
            }
            let were_few = batch.settlement.len() < FEW_RECORDS;
            session_end = self.settled(batch);
            if were_few {
                tokio::select! {
                    () = sleep(SETTLEMENT_PAUSE) => {}
                    () = self.ending.soft.cancelled() => {}
                }
            }
        }
        self.record_the_rest().await;
        match self.recorder.into_refusal() {
            None => session_end,
            Some(refusal) => Err(session_end.err().into_iter().fold(SessionEnd::Refused(refusal), SessionEnd::graver)),
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

    /// Adds what became of one submission.
    fn add(&self, batch: &mut SettlementBatch, mut submitted: Submitted, outcomes: Vec<Outcome>) {
        if !submitted.rows.is_empty() {
            let answered = Instant::now();
            metrics::record_publish_ack(answered - submitted.began);
            batch.answered.push(answered);
        }
        // The position at which a lane came to be held tells of no record of the lane that was under way then.
        let waits = |outcome: &Outcome| matches!(outcome, Outcome::Held(_) | Outcome::Rejected(_));
        submitted.out_of_line |=
            outcomes.iter().any(waits) || self.lanes().came_to_wait(submitted.number, &submitted.rows);
        let before = submitted.before.clone();
        let held = batch.add(submitted, outcomes, self.mode);
        held.iter().for_each(|(row, cause)| self.hold(row, *cause, &before));
        if batch.session_end.is_err() {
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

    /// Tells of what is settled, and gives its credit back. Says how the session ends, if that is decided.
    fn settled(&mut self, batch: SettlementBatch) -> Result<(), SessionEnd> {
        let SettlementBatch { settlement, read, end, closed, permits, answered, session_end, .. } = batch;
        drop(permits);
        answered.into_iter().for_each(|at| metrics::record_ack_to_settled(at.elapsed()));
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
        if let Some(End { number, position }) = end {
            self.advance(number, position);
        }
        session_end
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

    fn lanes(&self) -> MutexGuard<'_, HeldLaneStates> {
        self.lanes.lock()
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

impl SettlementBatch {
    /// One that is empty, after others that ended so.
    pub(crate) fn after(session_end: Result<(), SessionEnd>) -> Self {
        Self {
            settlement: Settlement::default(),
            rejected: Vec::new(),
            rejected_in: None,
            read: 0,
            end: None,
            closed: Vec::new(),
            permits: Vec::new(),
            answered: Vec::new(),
            session_end,
        }
    }

    /// Adds what became of one submission; returns the rows whose topics wait. From the first record on with which another
    /// session has to begin, the position stands still.
    pub(crate) fn add(
        &mut self,
        submitted: Submitted,
        outcomes: Vec<Outcome>,
        mode: SettlingMode,
    ) -> Vec<(Row, HoldCause)> {
        if submitted.out_of_line {
            self.settlement.set_out_of_line();
        }
        self.settlement.add_token(submitted.token);
        let (now, commit_to_ack) = (Utc::now(), metrics::commit_to_ack());
        let mut held = Vec::new();
        let mut published = Published::default();
        // Asked once for all of them: nobody pays for what is not logged.
        let told = tracing::enabled!(target: PUBLISHED_TARGET, tracing::Level::DEBUG);
        for (row, outcome) in submitted.rows.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered { partition, offset } => {
                    if mode.record_position {
                        let metadata = RecordMetadata { partition, offset };
                        self.settlement.push_with_metadata(row.id, row.event_id, metadata);
                    } else {
                        self.settlement.push_row(row.id, row.event_id);
                    }
                    if told {
                        tell_published(&row, partition, offset);
                    }
                    commit_to_ack.record((now - row.created_at).to_std().unwrap_or_default());
                    published.count(&row.topic);
                }
                Outcome::Held(cause) => {
                    held.push((row, cause));
                    if mode.exactly_once && self.session_end.is_ok() {
                        self.session_end = Err(SessionEnd::Afresh);
                    }
                }
                Outcome::Rejected(rejection) => {
                    self.rejected.push(Rejected::of(&row, *rejection));
                    self.rejected_in.get_or_insert_with(|| submitted.before.clone());
                    // What follows in its lane was not sent: the next session reads it again.
                    if !matches!(self.session_end, Err(SessionEnd::Failed(_))) {
                        self.session_end = Err(SessionEnd::Afresh);
                    }
                }
                Outcome::Unknown if self.session_end.is_ok() => {
                    let reason = "the broker's client gave records up unacknowledged".to_owned();
                    self.session_end = Err(SessionEnd::Again(reason));
                }
                Outcome::Unknown => {}
            }
        }
        published.record();
        if self.session_end.is_ok() {
            self.end = Some(End { number: submitted.number, position: submitted.end });
            self.closed.extend(submitted.closed);
        }
        self.read += submitted.read;
        self.permits.extend(submitted.permits);
        held
    }
}

#[cfg(feature = "microbench")]
impl SettlementBatch {
    /// What is settled.
    pub(crate) fn into_settlement(self) -> Settlement {
        self.settlement
    }
}

/// Says where a record went, and nothing of what it holds.
fn tell_published(row: &Row, partition: i32, offset: i64) {
    let Row { id, event_id, topic, .. } = row;
    tracing::debug!(target: PUBLISHED_TARGET, %topic, partition, offset, id, %event_id, "published");
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
