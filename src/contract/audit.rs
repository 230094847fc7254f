//! Looking at what committed, to compare it with what the broker holds.

use std::sync::Arc;

use uuid::Uuid;

use crate::contract::{BoxFuture, StoreError};

/// An audit of one outbox. What counts as published was decided when it was opened; statements are bounded and hold
/// up nobody.
pub trait Audit: Send {
    /// Committed rows above an id, by id, at most so many: those written since the time for which it was opened.
    fn rows(&mut self, after: i64, limit: usize) -> BoxFuture<'_, Result<Vec<AuditedRow>, StoreError>>;

    /// Which of these rows there are by now, in the outbox or among the dead letters, in any order.
    fn known<'a>(&'a mut self, ids: &'a [i64]) -> BoxFuture<'a, Result<Vec<KnownRow>, StoreError>>;

    /// How many dead letters and how many held lanes there are.
    fn set_aside(&mut self) -> BoxFuture<'_, Result<SetAside, StoreError>>;
}

/// A committed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedRow {
    /// The row's id.
    pub id: i64,
    /// The topic.
    pub topic: Arc<str>,
    /// Whether the relay has recorded it as published.
    pub is_published: bool,
}

/// A row that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRow {
    /// The row's id.
    pub id: i64,
    /// The event's identity.
    pub event_id: Uuid,
    /// Whether the row names its partition, which is its lane then.
    pub names_partition: bool,
}

/// What does not flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAside {
    /// Dead letters.
    pub dead_letters: u64,
    /// Held lanes.
    pub held_lanes: u64,
}
