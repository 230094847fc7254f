//! What is seen of the canary's rows.

use std::time::Duration;

use tokio::time::Instant;

use crate::contract::{BoxError, StoreError};
use crate::observe::chain;

/// How the canary's rows fare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The row that came back last.
    pub back: Option<Back>,
    /// How many were lost since then.
    pub lost: u64,
    /// Whether operators paused its topic, so that it sends nothing.
    pub is_paused: bool,
    /// Why the last row was not written.
    pub unwritten: Option<Unwritten>,
    /// Why its topic cannot be read, so that it sends nothing.
    pub unread: Option<String>,
}

/// A row that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Back {
    /// When.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
}

/// Why a row was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    /// What is wrong.
    pub problem: String,
    /// What to do about it, where that is known.
    pub repair: Option<String>,
}

impl From<StoreError> for Unwritten {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unusable { problem, repair, source } | StoreError::Incompatible { problem, repair, source } => {
                let said = source.map_or_else(String::new, |source| format!(": {}", chain(source.as_ref())));
                Self { problem: format!("{problem}{said}"), repair: Some(repair) }
            }
            other => Self { problem: chain(&other), repair: None },
        }
    }
}

impl From<BoxError> for Unwritten {
    fn from(error: BoxError) -> Self {
        Self { problem: chain(error.as_ref()), repair: None }
    }
}
