//! What the outbox is to the database that keeps it.

use chrono::{DateTime, Utc};

/// How much room the outbox's table takes, and when it was cleaned up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the table with its indexes and large values; of all that the database holds where its tables are not kept
    /// apart.
    pub bytes: u64,
    /// Dead rows that take up room until they are vacuumed, by the database's estimate, where it has one.
    pub dead_rows: Option<u64>,
    /// When the table was vacuumed last, by the database's clock, if that is known and ever was.
    pub vacuumed_at: Option<DateTime<Utc>>,
}
