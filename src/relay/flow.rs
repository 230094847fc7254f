//! What passes between the stages of a session, and how a session ends. It imports none of them.
//!
//! ```text
//!             Fetched              Submitted
//!   fetcher ───────────▶ publisher ───────────▶ settler
//!      ▲                                           │
//!      └──────── Permit (credit) · Frontier ───────┘
//! ```

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::contract::{Checkpoint, Reader, Receipt, SinkError, StoreError};
use crate::observe::chain;
use crate::outbox::{Batch, Lane, Limit, Position, ReadToken, Record};
use crate::relay::error::{Ended, Error};

/// A batch on its way to the publisher.
pub(crate) struct Fetched {
    /// Counts the batches of a session from 1.
    pub(crate) number: u64,
    /// The position before it was read.
    pub(crate) start: Position,
    pub(crate) batch: Batch,
    /// How many commands about lanes the reader had heard when it read this.
    pub(crate) heard: u64,
    /// Returned when the batch is settled.
    pub(crate) permit: Permit,
    /// When it was read.
    pub(crate) read_at: Instant,
}

/// How much may be read and not settled.
pub(crate) struct Credit {
    records: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    batch: Limit,
    /// How many bytes may be read and not settled.
    bytes_in_all: usize,
}

/// The part of the credit that a batch holds.
pub(crate) struct Permit {
    records: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Credit {
    /// Credit for `in_flight`, and at least for one `batch`.
    pub(crate) fn new(in_flight: Limit, batch: Limit) -> Self {
        Self {
            records: Arc::new(Semaphore::new(in_flight.records.max(batch.records))),
            bytes: Arc::new(Semaphore::new(in_flight.bytes.max(batch.bytes))),
            batch,
            bytes_in_all: in_flight.bytes.max(batch.bytes),
        }
    }

    /// Waits until there is credit for all of a batch too, where one record is larger than a batch should be; or for all
    /// that there is.
    pub(crate) async fn extend(&self, permit: &mut Permit, batch: &Batch) {
        let missing = batch.footprint().min(self.bytes_in_all).saturating_sub(permit.bytes.num_permits());
        if missing > 0 {
            let more = Arc::clone(&self.bytes).acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
            permit.bytes.merge(more.await.expect("the semaphores are never closed"));
        }
    }

    /// Waits until there is credit for a whole batch.
    pub(crate) async fn reserve(&self) -> Permit {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let never = "the semaphores are never closed";
        Permit {
            records: Arc::clone(&self.records).acquire_many_owned(count(self.batch.records)).await.expect(never),
            bytes: Arc::clone(&self.bytes).acquire_many_owned(count(self.batch.bytes)).await.expect(never),
        }
    }
}

impl Permit {
    /// Gives back what the batch did not need.
    pub(crate) fn shrink_to(&mut self, batch: &Batch) {
        drop(self.records.split(self.records.num_permits().saturating_sub(batch.len())));
        drop(self.bytes.split(self.bytes.num_permits().saturating_sub(batch.footprint())));
    }
}

/// Where a batch begins.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// The batch's number.
    pub(crate) batch: u64,
    /// The position before it.
    pub(crate) position: Position,
}

/// What is remembered of a record once the sink has it: it is read again if it must be sent again.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) topic: Arc<str>,
    key: Option<String>,
    partition: Option<i32>,
    pub(crate) created_at: DateTime<Utc>,
}

impl From<Record> for Row {
    fn from(record: Record) -> Self {
        let Record { id, event_id, topic, key, partition, created_at, .. } = record;
        Self { id, event_id, topic, key, partition, created_at }
    }
}

impl Row {
    /// The lane in which its record keeps its order, if it does.
    pub(crate) fn lane(&self) -> Option<Lane> {
        let has_lane = self.key.is_some() || self.partition.is_some();
        has_lane.then(|| Lane::from_columns(&self.topic, self.key.as_deref(), self.partition))
    }
}

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
    /// The token with which they were read, if it is the same.
    pub(crate) token: Option<ReadToken>,
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

/// How a session ended.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// The relay was told to stop.
    Stopped(Ended),
    /// Operators paused everything.
    Paused,
    /// Operators want another relay to lead.
    SteppedDown,
    /// Something was decided that another session begins with.
    Afresh,
    /// Something failed that another session may mend.
    Again(String),
    /// The database refuses something until an operator changes that; another session tries again.
    Refused(StoreError),
    /// Another relay leads, or may.
    LeaseLost,
    /// The relay cannot go on by itself.
    Failed(Error),
}

impl SessionEnd {
    /// The one of two ends that says more.
    pub(crate) fn graver(self, other: Self) -> Self {
        let gravity = |end: &SessionEnd| match end {
            SessionEnd::Failed(_) => 5,
            SessionEnd::LeaseLost => 4,
            SessionEnd::Refused(_) => 3,
            SessionEnd::Afresh => 2,
            SessionEnd::Again(_) => 1,
            SessionEnd::Stopped(_) | SessionEnd::Paused | SessionEnd::SteppedDown => 0,
        };
        if gravity(&other) > gravity(&self) { other } else { self }
    }
}

/// Besides [`StoreError::Incompatible`] what ends the relay is a sink that can never work, a record that it is to halt for,
/// and a part of it that panics: see [`Error`].
impl From<StoreError> for SessionEnd {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::Forgotten => SessionEnd::Again(chain(&error)),
            StoreError::TermOver { .. } => SessionEnd::LeaseLost,
            StoreError::Unusable { .. } => SessionEnd::Refused(error),
            StoreError::Incompatible { .. } => SessionEnd::Failed(Error::Store(error)),
        }
    }
}

impl From<SinkError> for SessionEnd {
    fn from(error: SinkError) -> Self {
        match error {
            SinkError::Unavailable { .. } => SessionEnd::Again(chain(&error)),
            SinkError::TermOver => SessionEnd::LeaseLost,
            SinkError::Unusable { .. } => SessionEnd::Failed(Error::Sink(error)),
        }
    }
}

/// What ends a session, from mild to hard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// Nothing new is begun.
    pub(crate) soft: CancellationToken,
    /// The sink forgets what is not delivered yet.
    pub(crate) abort: CancellationToken,
    /// The settler tries once more, and no more.
    pub(crate) give_up: CancellationToken,
}

/// A reader that is still good, and what is to be stored through it.
pub(crate) struct LastCheckpoint {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) checkpoint: Checkpoint,
}
