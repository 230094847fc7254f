//! What is audited, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::kafka::IsolationLevel;
use crate::outbox::Settle;

/// What is audited, and how.
#[derive(Clone)]
pub struct Settings {
    /// Properties of librdkafka.
    pub properties: BTreeMap<String, String>,
    /// What the header `outbox-source` says on this outbox's records.
    pub source: String,
    /// Topics to read; none: those that rows name.
    pub topics: Vec<String>,
    /// Only what was written since then.
    pub since: Option<DateTime<Utc>>,
    /// Which records of transactions are seen.
    pub isolation: IsolationLevel,
    /// How the relay records what was published.
    pub settle: Settle,
    /// How long published rows are kept.
    pub retention: Duration,
}
