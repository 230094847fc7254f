//! Publishing dead letters to a topic of their own.
//!
//! They are stored before anything else happens to them, so this can be late, fail, and be repeated, and nothing is
//! lost. It has a sink of its own: what it meets concerns no other record.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::contract::{DueLetter, Outcome, Rejection, Sink, SinkError, Store, StoreError};
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::outbox::{DeadLetter, Lane, Limit, Orders, Record, Term, Unreadable};
use crate::relay::probation::PROBE_RECORDS;

/// How many are read and published at once.
const PAGE_RECORDS: usize = 500;

/// Rounds begin no closer to each other than this: each looks at all dead letters that are due.
const ROUND_PAUSE: Duration = Duration::from_secs(1);

/// How often dead letters are looked for that no task told of, and topics that are missing are asked for again.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);

/// Publishes dead letters.
pub(crate) struct DeadLetterPublisher {
    store: Arc<dyn Store>,
    sink: Box<dyn Sink>,
    dead_lettered: Arc<Notify>,
    /// How much is read and published at once: no letter that is larger is loaded.
    page: Limit,
    /// Published, and not recorded yet.
    unrecorded: Vec<i64>,
    /// Refused by their topic, and not recorded yet.
    refused: VecDeque<(i64, Rejection)>,
    /// Whether any was recorded by this process: before that few are published, since a restart repeats them.
    has_recorded: bool,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the broker's client gave dead letters up unacknowledged")]
    Unacknowledged,
}

impl DeadLetterPublisher {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        sink: Box<dyn Sink>,
        dead_lettered: Arc<Notify>,
        record_bytes: usize,
    ) -> Self {
        let page = Limit { records: PAGE_RECORDS, bytes: record_bytes };
        Self { store, sink, dead_lettered, page, unrecorded: Vec::new(), refused: VecDeque::new(), has_recorded: false }
    }

    /// Publishes what is due, and what becomes due. May be cancelled.
    pub(crate) async fn run(&mut self, term: Term, mut orders: watch::Receiver<Orders>) -> Infallible {
        let mut backoff = Backoff::default();
        let outage = Outage::default();
        loop {
            let began = Instant::now();
            match self.round(term).await {
                Ok(()) => {
                    backoff.reset();
                    outage.ends();
                    self.sink.close(Duration::ZERO).await;
                    sleep_until(began + ROUND_PAUSE).await;
                    // What was paused may have been resumed.
                    tokio::select! {
                        () = sleep_until(began + ROUND_INTERVAL) => {}
                        () = self.dead_lettered.notified() => {}
                        Ok(()) = orders.changed() => {}
                    }
                }
                Err(error) => {
                    self.sink.abort();
                    if outage.begins() {
                        tracing::warn!(error = %chain(&error), "dead letters wait to be published to their topic; they are kept in the table");
                    }
                    sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn round(&mut self, term: Term) -> Result<(), Interrupted> {
        // What a failure left unrecorded would be published again.
        self.record().await?;
        let mut waiting = BTreeSet::new();
        let mut after = i64::MIN;
        loop {
            let orders = self.store.orders().await?;
            if orders.pause_all() {
                break;
            }
            let records = if self.has_recorded { PAGE_RECORDS } else { PROBE_RECORDS };
            let letters = self.store.due(after, Limit { records, ..self.page }).await?;
            let Some(last) = letters.last() else { break };
            after = last.letter.id;
            self.publish(term, letters, &orders, &mut waiting).await?;
        }
        if let Some(first) = waiting.first() {
            tracing::warn!(lanes = waiting.len(), %first, "dead letters wait for their topic; they are kept in the table");
            // Those that it accepts the sink lets go, and the next round's letters through.
            self.sink.accepts(waiting.into_iter().collect()).await?;
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        term: Term,
        letters: Vec<DueLetter>,
        orders: &Orders,
        waiting: &mut BTreeSet<Lane>,
    ) -> Result<(), Interrupted> {
        let mut records = Vec::with_capacity(letters.len());
        for DueLetter { letter, read } in letters {
            match read {
                Ok(record) => {
                    // Of a topic that is paused they stay due.
                    let is_due = |record: &Record| !orders.pauses_topic(&record.topic);
                    records.extend(addressed(letter, record).filter(is_due));
                }
                Err(Unreadable { code, why, .. }) => {
                    self.refused.push_back((letter.id, Rejection { code, message: why }));
                }
            }
        }
        self.sink.open(term, None).await?;
        loop {
            let refusals = self.sink.examine(&records).await?;
            if refusals.is_empty() {
                break;
            }
            for refusal in refusals.into_iter().rev() {
                self.refused.push_back((records.remove(refusal.index).id, refusal.rejection));
            }
        }
        let outcomes = match records.is_empty() {
            true => Vec::new(),
            false => self.sink.submit(&records, None).await?.await,
        };
        let mut unknown = false;
        for (record, outcome) in records.iter().zip(outcomes) {
            match outcome {
                Outcome::Delivered { .. } => {
                    metrics::count_published(&record.topic, 1);
                    self.unrecorded.push(record.id);
                }
                Outcome::Held(cause) => drop(waiting.insert(cause.lane(&record.topic, record.lane()))),
                Outcome::Rejected(rejection) => self.refused.push_back((record.id, *rejection)),
                Outcome::Unknown => unknown = true,
            }
        }
        self.record().await?;
        if unknown { Err(Interrupted::Unacknowledged) } else { Ok(()) }
    }

    /// Records what became of dead letters.
    async fn record(&mut self) -> Result<(), StoreError> {
        if !self.unrecorded.is_empty() {
            self.store.delivered(&self.unrecorded).await?;
            self.unrecorded.clear();
            self.has_recorded = true;
        }
        while let Some((id, rejection)) = self.refused.front() {
            self.store.undeliverable(*id, &rejection.to_string()).await?;
            tracing::warn!(id, error = %rejection, "a dead letter cannot be published to its topic: it stays in the table");
            self.refused.pop_front();
            self.has_recorded = true;
        }
        Ok(())
    }
}

/// The headers that tell of the cause.
const ERROR_CODE: &str = "outbox-error-code";
const ERROR_MESSAGE: &str = "outbox-error-message";
const ORIGINAL_TOPIC: &str = "outbox-original-topic";

/// The record that tells of a dead letter: as the application wrote it, with the cause in headers. Its row's partition
/// is left out, because the dead letters' topic has partitions of its own.
fn addressed(letter: DeadLetter, record: Record) -> Option<Record> {
    let Record { topic: original, mut headers, .. } = record;
    // Of an earlier letter, which an application may have written again, or made up.
    headers.retain(|(name, _)| ![ERROR_CODE, ERROR_MESSAGE, ORIGINAL_TOPIC].contains(&name.as_str()));
    headers.push((ERROR_CODE.to_owned(), Some(letter.code)));
    headers.push((ERROR_MESSAGE.to_owned(), Some(letter.message)));
    headers.push((ORIGINAL_TOPIC.to_owned(), Some(original.to_string())));
    Some(Record { topic: letter.topic?.into(), headers, partition: None, ..record })
}
