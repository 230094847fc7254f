//! How far a reader is.

use std::sync::Arc;

/// How far a reader is: it tells of every row whether it was read. Only the store that made it can read it,
/// and it is worth nothing once the session that made it is gone, unless it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position(Arc<str>);

impl Position {
    /// Wraps what a store writes down as its position.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// What the store wrote down.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
