//! Which record goes where, and what becomes of it.

use crate::contract::Outcome;

/// Where a record goes: to a partition of a topic, by the topic's number in the sink's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Destination {
    pub(crate) topic: u32,
    pub(crate) partition: i32,
}

/// A record that is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    /// Its place in the submission.
    pub(crate) index: usize,
    /// Its topic's number.
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    /// Whether the topic does not take the time at which its row was written.
    pub(crate) is_untimely: bool,
}

impl Sending {
    /// Where it goes.
    pub(crate) fn destination(&self) -> Destination {
        Destination { topic: self.topic as u32, partition: self.partition }
    }
}

/// What became of a record.
#[derive(Debug)]
pub(crate) struct RecordOutcome {
    /// Its place in the submission.
    pub(crate) index: usize,
    pub(crate) outcome: Outcome,
}
