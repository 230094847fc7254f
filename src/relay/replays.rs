//! Sending rows again, as operators ask.
//!
//! Through a sink of its own, at least once, and never in the way of the records. How far it is is stored after every page,
//! so that the next leader goes on from there.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::contract::{Outcome, Refusal, Rejection, ReplayPage, Sink, SinkError, Store, StoreError};
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::outbox::{HoldCause, Lane, Limit, Operation, REPLAY_HEADER, Record, Replay, Term};
use crate::relay::orders::OrderBook;
use crate::relay::probation::PROBE_RECORDS;
use crate::relay::status::Status;

/// How many rows are read and sent at once at most.
const PAGE_RECORDS: u32 = 500;

/// Into so many pages a second's rows are divided at least.
const PAGES_A_SECOND: u32 = 4;

/// The pause after a page of which no row was meant, so that the database's other work goes first.
const EMPTY_PAGE_PAUSE: Duration = Duration::from_millis(10);

/// Operations are looked for no more often than this.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// Carries out replays.
pub(crate) struct ReplayPublisher {
    store: Arc<dyn Store>,
    sink: Box<dyn Sink>,
    /// Rows that are larger are not loaded.
    record_bytes: usize,
    /// While so many records are in flight nothing is sent again: they go first.
    crowd: usize,
    /// Whether progress was stored by this process: before that few rows are sent, since a restart repeats them.
    has_recorded: bool,
}

/// Why an operation is interrupted.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the broker's client gave rows up unacknowledged")]
    Unacknowledged,
    #[error("{lane} waits ({})", cause.as_str())]
    Held { lane: Lane, cause: HoldCause },
}

/// What became of the rows of a page.
#[derive(Debug, Default)]
struct Sent {
    delivered: u64,
    refused: u64,
}

impl ReplayPublisher {
    /// Sends through this sink, and lets the records go first from so many in flight on.
    pub(crate) fn new(store: Arc<dyn Store>, sink: Box<dyn Sink>, record_bytes: usize, crowd: usize) -> Self {
        Self { store, sink, record_bytes, crowd, has_recorded: false }
    }

    /// Carries out what is asked for, and what comes to be. May be cancelled.
    pub(crate) async fn run(
        &mut self,
        term: Term,
        orders: &OrderBook,
        mut status: watch::Receiver<Status>,
    ) -> Infallible {
        let mut backoff = Backoff::default();
        let outage = Outage::default();
        loop {
            orders.operation_waits().await;
            match self.carry_out_all(term, orders, &mut status).await {
                Ok(()) => {
                    backoff.reset();
                    outage.ends();
                    self.sink.close(Duration::ZERO).await;
                    sleep(ROUND_PAUSE).await;
                }
                Err(error) => {
                    self.sink.abort();
                    if outage.begins() {
                        tracing::warn!(error = %chain(&error), "sending rows again waits, and goes on by itself");
                    }
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn carry_out_all(
        &mut self,
        term: Term,
        orders: &OrderBook,
        status: &mut watch::Receiver<Status>,
    ) -> Result<(), Interrupted> {
        while let Some(mut operation) = self.store.next_operation().await? {
            tracing::info!(
                operation = operation.id,
                topic = operation.replay.topic,
                to = operation.replay.target(),
                after = operation.progress.done_to,
                "sending rows again, as was asked for"
            );
            while self.send_page(term, &mut operation, orders, status).await? {}
            let what = if operation.progress.is_done { "all of it is sent" } else { "it was cancelled" };
            tracing::info!(operation = operation.id, sent = operation.progress.sent, "sending rows again ends: {what}");
        }
        Ok(())
    }

    /// Sends the next page, and takes its time for that. Says whether the operation goes on.
    async fn send_page(
        &mut self,
        term: Term,
        operation: &mut Operation,
        orders: &OrderBook,
        status: &mut watch::Receiver<Status>,
    ) -> Result<bool, Interrupted> {
        orders.flows(operation.replay.target()).await;
        // Fails only when the relay has ended, and this with it.
        let _ = status.wait_for(|status| status.in_flight < self.crowd).await;
        let began = Instant::now();
        let ReplayPage { records, unreadable, done_to } =
            self.store.replay_page(operation, self.page(&operation.replay)).await?;
        let records: Vec<Record> = records.into_iter().map(|record| again(record, operation)).collect();
        let sent = match self.publish(term, records).await {
            Ok(sent) => sent,
            Err(held @ Interrupted::Held { .. }) => {
                operation.progress.problem = Some(held.to_string());
                self.store.note_progress(term, operation.id, &operation.progress).await?;
                return Err(held);
            }
            Err(error) => return Err(error),
        };
        let progress = &mut operation.progress;
        progress.done_to = done_to;
        progress.sent += sent.delivered;
        progress.refused += sent.refused + unreadable.len() as u64;
        progress.problem = None;
        progress.is_done = done_to >= operation.last_id;
        let goes_on = self.store.note_progress(term, operation.id, progress).await?;
        self.has_recorded = true;
        let takes = Duration::from_secs(1).mul_f64(sent.delivered as f64 / f64::from(operation.replay.rate.max(1)));
        sleep_until(began + takes.max(EMPTY_PAGE_PAUSE)).await;
        Ok(goes_on)
    }

    fn page(&self, replay: &Replay) -> Limit {
        let records = (replay.rate / PAGES_A_SECOND).clamp(1, PAGE_RECORDS) as usize;
        let records = if self.has_recorded { records } else { records.min(PROBE_RECORDS) };
        Limit { records, bytes: self.record_bytes }
    }

    async fn publish(&mut self, term: Term, mut records: Vec<Record>) -> Result<Sent, Interrupted> {
        let mut sent = Sent::default();
        while !records.is_empty() {
            self.sink.open(term, None).await?;
            self.sink.prepare(&records).await?;
            self.give_up_the_impossible(&mut records, &mut sent).await?;
            if records.is_empty() {
                break;
            }
            let outcomes = self.sink.submit(&records, None).await?.await;
            let Told { left, held, is_refused } = sent.tell(records, outcomes);
            if let Some((lane, cause)) = held.first().cloned() {
                // Those that it accepts by now the sink lets go, and the next page through.
                self.sink.accepts(held.into_iter().map(|(lane, _)| lane).collect()).await?;
                return Err(Interrupted::Held { lane, cause });
            }
            if !left.is_empty() && !is_refused {
                return Err(Interrupted::Unacknowledged);
            }
            // What follows a refused record in its lane was not sent.
            records = left;
        }
        Ok(sent)
    }

    /// Takes out what can never be published.
    async fn give_up_the_impossible(&mut self, records: &mut Vec<Record>, sent: &mut Sent) -> Result<(), SinkError> {
        loop {
            let refusals = self.sink.examine(records).await?;
            if refusals.is_empty() {
                return Ok(());
            }
            for Refusal { index, rejection } in refusals.into_iter().rev() {
                sent.refuse(&records.remove(index), &rejection);
            }
        }
    }
}

/// What is known of a submission besides what was sent.
#[derive(Default)]
struct Told {
    /// Of which nothing is known.
    left: Vec<Record>,
    /// What waits.
    held: BTreeSet<(Lane, HoldCause)>,
    /// Whether one was refused, so that others were not sent.
    is_refused: bool,
}

impl Sent {
    fn tell(&mut self, records: Vec<Record>, outcomes: Vec<Outcome>) -> Told {
        let mut told = Told::default();
        for (record, outcome) in records.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered { .. } => {
                    metrics::count_replayed(&record.topic, 1);
                    self.delivered += 1;
                }
                Outcome::Held(cause) => drop(told.held.insert((cause.lane(&record.topic, record.lane()), cause))),
                Outcome::Rejected(rejection) => {
                    self.refuse(&record, &rejection);
                    told.is_refused = true;
                }
                Outcome::Unknown => told.left.push(record),
            }
        }
        told
    }

    fn refuse(&mut self, record: &Record, rejection: &Rejection) {
        tracing::warn!(id = record.id, error = %rejection, "a row cannot be sent again");
        self.refused += 1;
    }
}

/// A record as it is sent again: with the number of the operation in a header, and where the operator wants it. Another
/// topic has partitions of its own.
fn again(record: Record, operation: &Operation) -> Record {
    let Record { topic, mut headers, partition, .. } = record;
    headers.retain(|(name, _)| name != REPLAY_HEADER);
    headers.push((REPLAY_HEADER.to_owned(), Some(operation.id.to_string())));
    match &operation.replay.to_topic {
        Some(to_topic) if **to_topic != *topic => {
            Record { topic: to_topic.as_str().into(), headers, partition: None, ..record }
        }
        _ => Record { topic, headers, partition, ..record },
    }
}
