//! Looking at what committed, to compare it with what the broker holds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::contract::error::StoreError;

/// An audit of one outbox. What counts as published was decided when it was opened; statements are bounded and hold
/// up no other session.
#[async_trait]
pub trait Audit: Send {
    /// Committed rows above an id, by id, at most so many: those written since the time for which it was opened.
    async fn rows(&mut self, after: i64, limit: usize) -> Result<Vec<AuditedRow>, StoreError>;

    /// Which of these rows there are by now, in the outbox or among the dead letters, in any order.
    async fn known(&mut self, ids: &[i64]) -> Result<Vec<KnownRow>, StoreError>;

    /// Which rows housekeeping may have removed by now, at this retention. What was looked up before this was asked is
    /// covered.
    async fn removable(&mut self, retention: Duration) -> Result<Removable, StoreError>;

    /// How many dead letters and how many held lanes there are.
    async fn set_aside(&mut self) -> Result<SetAside, StoreError>;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRow {
    /// The row's id.
    pub id: i64,
    /// The event's identity.
    pub event_id: Uuid,
    /// The topic.
    pub topic: Arc<str>,
    /// The partition, if the row names one, which is its lane then.
    pub partition: Option<i32>,
    /// Whether it is among the dead letters.
    pub is_dead: bool,
}

/// Rows of which nothing can be said once they are not there: they may have been removed after their retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removable {
    /// Every row up to this id.
    pub up_to: i64,
    /// Every row that was written before, by the database's clock.
    pub written_before: DateTime<Utc>,
}

/// What does not flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAside {
    /// Dead letters.
    pub dead_letters: u64,
    /// Held lanes.
    pub held_lanes: u64,
}
