//! Work that operators ask for and that the leader carries out: sending rows again.

use async_trait::async_trait;

use crate::contract::error::StoreError;
use crate::outbox::{Intent, Limit, Operation, OperationProgress, Record, Replay, Replayable, Term, Unreadable};

/// Rows that are to be sent again.
#[derive(Debug, Default)]
pub struct ReplayPage {
    /// As the application wrote them, by id.
    pub records: Vec<Record>,
    /// Those among them that cannot be read, or are larger than may be loaded.
    pub unreadable: Vec<Unreadable>,
    /// Rows up to this id were looked at.
    pub done_to: i64,
}

/// Operations, as they are asked for and carried out. They are kept with the outbox, so that whichever relay leads goes on
/// where the last one was.
///
/// An operator asks, which a database writes to its [audit log](crate::contract::Operate) in the same transaction; what is
/// asked is durable when the call returns.
#[async_trait]
pub trait Operations: Send + Sync {
    /// What a replay would send now, looking at no more than so many rows. Changes nothing.
    async fn replayable(&self, replay: &Replay, look_at: u64) -> Result<Replayable, StoreError>;

    /// Asks for a replay of the rows that there are by now, and returns its number.
    async fn start_replay(&self, replay: &Replay, intent: &Intent) -> Result<i64, StoreError>;

    /// The latest operations, the last first.
    async fn operations(&self, limit: u32) -> Result<Vec<Operation>, StoreError>;

    /// Ends an operation. Returns whether it was running.
    async fn cancel_operation(&self, id: i64, intent: &Intent) -> Result<bool, StoreError>;

    /// The operation that runs: the first that was asked for of those that have not ended.
    async fn next_operation(&self) -> Result<Option<Operation>, StoreError>;

    /// The next rows that an operation sends again, by id, from `progress.done_to` on: some of those that were sent, as far as
    /// the store knows, and none that waits. A page without any may be followed by others: the last one ends at
    /// `last_id`. Bounded, like a [fetch](crate::contract::Reader::fetch).
    async fn replay_page(&self, operation: &Operation, limit: Limit) -> Result<ReplayPage, StoreError>;

    /// Notes how far an operation is. Returns whether it still runs: not if it was cancelled, or is done by this.
    ///
    /// # Errors
    /// [`StoreError::TermOver`], and nothing is noted, when `term` is no longer the leader's.
    async fn note_progress(&self, term: Term, id: i64, progress: &OperationProgress) -> Result<bool, StoreError>;
}
