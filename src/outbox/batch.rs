//! A batch: records read together, and how far the reader is after them.

use crate::outbox::held::Lane;
use crate::outbox::position::Position;
use crate::outbox::record::Record;
use crate::outbox::row::Unreadable;
use crate::outbox::settlement::ReadToken;

/// How much may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Records at most; at least 1.
    pub records: usize,
    /// Bytes of [`Record::footprint`] at most; a single larger record is still read, alone.
    pub bytes: usize,
}

/// Records in publishing order, and the reader's position after them.
#[derive(Debug)]
pub struct Batch {
    /// The records, in publishing order: by id inside each lane.
    pub records: Vec<Record>,
    /// Rows among them that are rejected as they are, by id.
    pub unreadable: Vec<Unreadable>,
    /// The position after these records. Once every record up to here is settled or held, it may be stored.
    pub end: Position,
    /// Whether more may be waiting, so that reading again at once is worth it.
    pub more: bool,
    /// To be given back with the settlement of these rows.
    pub token: Option<ReadToken>,
    /// Lanes of which a release begins with this batch: what was left out of them comes from here on.
    pub opened: Vec<Lane>,
    /// Lanes of which a release is complete with this batch: once it is settled they are no longer held.
    pub closed: Vec<Lane>,
}

impl Batch {
    /// How many rows it is of.
    pub fn len(&self) -> usize {
        self.records.len() + self.unreadable.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the records cost, roughly.
    pub fn footprint(&self) -> usize {
        self.records.iter().map(Record::footprint).sum()
    }
}
