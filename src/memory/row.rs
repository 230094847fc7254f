//! A row as the store keeps it.

use chrono::{DateTime, Utc};

use crate::memory::position;
use crate::outbox::{Fault, Held, Lane, Record, Unreadable};

/// A committed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The row as a relay reads it.
    pub record: Record,
    /// When it was settled; only ever set where rows are marked.
    pub sent_at: Option<DateTime<Utc>>,
    /// How many rows were visible up to this one: the order of commits.
    pub(super) number: u64,
}

/// Whether any held lane keeps the row back.
pub(super) fn covered(held: &[Held], row: &Row) -> bool {
    let is_of = |lane: &Lane| match lane {
        Lane::Topic { topic } => *topic == row.record.topic,
        lane => row.record.lane().as_ref() == Some(lane),
    };
    held.iter().any(|held| is_left(held, row) && is_of(&held.lane))
}

/// Whether the row, which is of a held lane, is part of what is left of it.
pub(super) fn is_left(held: &Held, row: &Row) -> bool {
    let after = held.after.as_ref().and_then(|after| position::parse(after).ok());
    row.record.id >= held.from_id && after.is_none_or(|after| row.number > after.at)
}

/// A copy of the record, unless it is larger than may be loaded.
#[expect(clippy::result_large_err, reason = "a record is larger")]
pub(super) fn load(record: &Record, most: usize) -> Result<Record, Unreadable> {
    let size = record.size();
    if size > most { Err(record.clone().refused(Fault::too_large(size, most))) } else { Ok(record.clone()) }
}
