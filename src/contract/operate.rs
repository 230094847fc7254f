//! What operators ask of a database, besides a relay.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::error::StoreError;

/// A change that an operator made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number; later ones are higher.
    pub id: i64,
    /// When it was made, by the database's clock.
    pub at: DateTime<Utc>,
    /// The command, such as `held release`.
    pub command: String,
    /// What it was about, as it was typed.
    pub subject: String,
    /// How many rows, letters or lanes it changed.
    pub affected: u64,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who asked: a user and a host, or the identity of an HTTP request.
    pub actor: String,
    /// The role that the database knows, where it has roles.
    pub role: Option<String>,
}

/// Commands of operators. Every change is written to the audit log in the transaction that makes it, and durable with it
/// when the call returns; one that changes nothing is not written.
#[async_trait]
pub trait Operate: Send + Sync {
    /// The latest changes, the last first.
    ///
    /// # Errors
    /// When the database does not answer, or the role may not see them.
    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;
}
