//! What the API works on.

use std::sync::Arc;

use crate::contract::Database;
use crate::secret::Secret;

/// What callers have to know.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// To read; without one whoever reaches the address may.
    pub read: Option<Secret>,
    /// To change, and to read; without one changes are not served.
    pub admin: Option<Secret>,
    /// To be shown payloads and headers, and to read; without one these are shown to nobody.
    pub payload: Option<Secret>,
}

/// What the API works on, and who may use it.
#[derive(Debug, Clone)]
pub struct Api {
    pub(super) database: Arc<dyn Database>,
    pub(super) tokens: Tokens,
}

impl Api {
    /// An API over an outbox.
    pub fn new(database: Arc<dyn Database>, tokens: Tokens) -> Self {
        Self { database, tokens }
    }
}
