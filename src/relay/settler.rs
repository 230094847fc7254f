//! Recording what became of records: many receipts in one settlement, retried until it is written.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::contract::{Outcome, Receipt, Store, StoreError};
use crate::observe::{chain, metrics};
use crate::outbox::{Held, HoldCause, Lane, Position, Settlement};
use crate::relay::fetcher::Permit;
use crate::relay::lanes::Lanes;
use crate::relay::publisher::Row;
use crate::relay::rejections::{Rejected, Rejections};
use crate::relay::session::{Ending, Verdict};
use crate::relay::{Status, store_verdict};

/// Records in one settlement at most: enough for few commits, small enough to be quick.
const SETTLEMENT: usize = 10_000;

/// A settlement of fewer records is followed by a pause, in which more are delivered: the next one settles them together.
const FEW: usize = 500;

/// That pause.
const PAUSE: Duration = Duration::from_millis(10);

/// How long an attempt to settle that was under way may still take once the session has to end.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// Batches that the sink has taken over together.
pub(crate) struct Submitted {
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
    /// The position after it.
    pub(crate) position: Position,
}

/// The third stage. It outlives the others: what was delivered is recorded.
pub(crate) struct Settler {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    pub(crate) rejections: Rejections,
    /// Whether the broker remembers a position, which stands still once a record waits.
    pub(crate) exactly_once: bool,
    /// The era in which the session reads.
    pub(crate) era: Option<u64>,
    pub(crate) submitted: mpsc::Receiver<Submitted>,
    pub(crate) progress: watch::Sender<Frontier>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ending: Ending,
}

/// Batches whose outcomes are known, about to be settled together.
#[derive(Default)]
pub(crate) struct Fold {
    settlement: Settlement,
    rejected: Vec<Rejected>,
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
            if let Err(failed) = self.settle(&fold.settlement).await {
                self.ending.soft.cancel();
                return Err(failed);
            }
            let rejected = std::mem::take(&mut fold.rejected);
            if let Err(failed) = self.rejections.decide(rejected).await {
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
        verdict
    }

    /// The next submission in order, once its outcomes are known.
    async fn next(&mut self, ready: &mut VecDeque<Submitted>) -> Option<(Submitted, Vec<Outcome>)> {
        let mut submitted = match ready.pop_front() {
            Some(submitted) => submitted,
            None => self.submitted.recv().await?,
        };
        let outcomes = (&mut submitted.receipt).await;
        Some((submitted, outcomes))
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
    fn fold(&self, fold: &mut Fold, batch: Submitted, outcomes: Vec<Outcome>, verdict: &mut Result<(), Verdict>) {
        if !batch.rows.is_empty() {
            metrics::record_publish_ack(batch.began.elapsed());
        }
        let held = fold.add(batch, outcomes, self.exactly_once, verdict);
        held.iter().for_each(|(row, cause)| self.hold(row, *cause));
        if verdict.is_err() {
            self.ending.soft.cancel();
        }
    }

    fn hold(&self, row: &Row, cause: HoldCause) {
        let lane = Lane::Topic { topic: Arc::clone(&row.topic) };
        if self.lanes().hold(lane, row.id, cause) {
            tracing::warn!(topic = %row.topic, cause = cause.as_str(), from_id = row.id, "topic is held until the broker accepts it; other topics flow on");
        }
    }

    /// Writes the settlement, for as long as it takes.
    async fn settle(&self, settlement: &Settlement) -> Result<(), Verdict> {
        if settlement.is_empty() {
            return Ok(());
        }
        let mut backoff = Backoff::default();
        let mut waiting = false;
        loop {
            let began = Instant::now();
            match self.try_settle(settlement).await {
                Ok(()) => {
                    metrics::record_settle(began.elapsed());
                    if waiting {
                        tracing::info!("the database is back; settled what was delivered");
                    }
                    return Ok(());
                }
                Err(error) if error.is_transient() && !self.ending.give_up.is_cancelled() => {
                    self.status.send_modify(|status| status.connected = false);
                    if !std::mem::replace(&mut waiting, true) {
                        tracing::warn!(error = %chain(&error), "waiting for the database before settling what was delivered");
                    }
                    tokio::select! {
                        () = sleep(backoff.next_wait()) => {}
                        () = self.ending.give_up.cancelled() => {}
                    }
                }
                Err(error) => return Err(store_verdict(error)),
            }
        }
    }

    async fn try_settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        let last_chance = async {
            self.ending.give_up.cancelled().await;
            sleep(LAST_CHANCE).await;
        };
        // An attempt that was under way when the lease was lost may go through the same dead connection.
        let began_before = !self.ending.abort.is_cancelled();
        let new_chance = async {
            self.ending.abort.cancelled().await;
            sleep(LAST_CHANCE).await;
        };
        let unanswered = |doing| {
            let source = "it did not answer in time".into();
            Err(StoreError::Unavailable { doing, source })
        };
        tokio::select! {
            settled = self.store.settle(settlement) => settled,
            () = last_chance => unanswered("settling before the deadline of the stop"),
            () = new_chance, if began_before => unanswered("settling while the lease was lost"),
        }
    }

    fn settled(&self, fold: Fold) {
        let Fold { settlement, read, end, closed, permits, rejected: _decided } = fold;
        drop(permits);
        let held = {
            let mut lanes = self.lanes();
            closed.iter().for_each(|(lane, heard)| lanes.close(lane, *heard));
            lanes.stored()
        };
        count_held(&held);
        self.status.send_modify(|status| {
            status.in_flight = status.in_flight.saturating_sub(read);
            status.published += settlement.len() as u64;
            status.held = held;
            status.connected = true;
            status.progressed();
        });
        metrics::set_in_flight(self.status.borrow().in_flight);
        metrics::set_progress_now();
        if let Some((number, position)) = end {
            self.progress.send_replace(Frontier { number, position });
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
                    self.rejected.push((row, *rejection));
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
