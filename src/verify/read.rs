//! Reading partitions, in chunks, on a thread that may block.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::kafka::{Consumed, Consumer, ConsumerError, IsolationLevel, ReadRange};
use crate::outbox::{REPLAY_HEADER, REQUEUED_HEADER};
use crate::verify::report::Where;
use crate::verify::settings::Settings;

/// Rows and records that are handled at once.
pub(crate) const ROWS_PER_LOOKUP: usize = 5_000;

/// How long one look for a record takes at most.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a partition may say nothing before it counts as silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is kept of a record of this outbox.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) offset: i64,
    /// Milliseconds since 1970.
    pub(crate) written: i64,
    /// When an operator put it back into the outbox, as the relay was told, if one did.
    pub(crate) requeued: Option<String>,
}

/// Records read together.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<Record>,
    /// Offsets of records that say they are from this outbox, and not from which row.
    pub(crate) illegible: Vec<i64>,
    /// How many are from somewhere else.
    pub(crate) foreign: u64,
    /// The rows of those that were sent again because an operator asked for it.
    pub(crate) replayed: Vec<i64>,
}

/// Why a partition could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Unread {
    /// The client or the broker said no.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// The broker went quiet.
    #[error("nothing came for {SILENCE_TIMEOUT:?} before the end was reached")]
    Silent,
}

/// A partition that is being read.
pub(crate) struct Reading {
    chunks: mpsc::Receiver<Chunk>,
    thread: JoinHandle<Result<(), Unread>>,
}

impl Reading {
    /// The next records; `None` once there are no more, or reading failed.
    pub(crate) async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }

    /// Says whether all was read.
    ///
    /// # Errors
    /// When it was not.
    pub(crate) async fn end(self) -> Result<(), Unread> {
        self.thread.await.map_err(ConsumerError::from)?
    }
}

/// Reads the partitions one after the other, all with one client: another one costs half a second.
pub(crate) struct Reader {
    settings: Settings,
    consumer: Arc<Mutex<Consumer>>,
}

impl Reader {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When a client cannot be created.
    pub(crate) fn new(settings: &Settings, isolation: IsolationLevel) -> Result<Self, ConsumerError> {
        let consumer = Consumer::new(&settings.properties, isolation)?;
        Ok(Self { settings: settings.clone(), consumer: Arc::new(Mutex::new(consumer)) })
    }

    /// Begins to read records of a partition, once what was begun before has come to its end.
    pub(crate) fn read(&self, at: &Where, range: ReadRange) -> Reading {
        let (chunks, read) = mpsc::channel(4);
        let (settings, consumer, at) = (self.settings.clone(), Arc::clone(&self.consumer), at.clone());
        let thread = tokio::task::spawn_blocking(move || {
            let mut consumer = consumer.lock();
            consumer.turn_to(&at.topic, at.partition, range)?;
            pump(&settings, &mut consumer, &chunks)
        });
        Reading { chunks: read, thread }
    }
}

fn pump(settings: &Settings, consumer: &mut Consumer, chunks: &mpsc::Sender<Chunk>) -> Result<(), Unread> {
    let mut chunk = Chunk::default();
    let mut heard = Instant::now();
    while !consumer.is_at_end() {
        let Some(consumed) = consumer.next(POLL_TIMEOUT)? else {
            if heard.elapsed() > SILENCE_TIMEOUT {
                return Err(Unread::Silent);
            }
            continue;
        };
        heard = Instant::now();
        chunk.take(settings, consumed);
        if chunk.records.len() + chunk.illegible.len() >= ROWS_PER_LOOKUP
            && chunks.blocking_send(std::mem::take(&mut chunk)).is_err()
        {
            return Ok(());
        }
    }
    // The receiver may not be listening any more.
    let _ = chunks.blocking_send(chunk);
    Ok(())
}

impl Chunk {
    fn take(&mut self, settings: &Settings, consumed: Consumed) {
        if consumed.header("outbox-source") != Some(settings.source.as_str()) {
            self.foreign += 1;
            return;
        }
        let written = consumed.timestamp.unwrap_or(i64::MAX);
        if settings.since.is_some_and(|since| written < since.timestamp_millis()) {
            return;
        }
        // The relay leaves out what a row calls so: only an operator's replay bears it.
        let is_replayed = consumed.header(REPLAY_HEADER).is_some();
        let id = consumed.header("outbox-id").and_then(|id| id.parse().ok());
        let event_id = consumed.header("id").and_then(|id| Uuid::try_parse(id).ok());
        let requeued = consumed.header(REQUEUED_HEADER).map(requeued_at);
        match (id, event_id) {
            (Some(id), Some(_)) if is_replayed => self.replayed.push(id),
            (Some(id), Some(event_id)) => {
                let (key, offset) = (consumed.key, consumed.offset);
                self.records.push(Record { id, event_id, key, offset, written, requeued });
            }
            _ => self.illegible.push(consumed.offset),
        }
    }
}

/// When a record was put back, as its header tells; the whole header where that cannot be read.
fn requeued_at(header: &str) -> String {
    let read = serde_json::from_str::<serde_json::Value>(header).ok();
    read.and_then(|header| header["at"].as_str().map(str::to_owned)).unwrap_or_else(|| header.to_owned())
}
