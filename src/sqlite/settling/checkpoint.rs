//! The stored checkpoint.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Checkpoint, StoreError};
use crate::outbox::{HeldChanges, Settle, Term};
use crate::sqlite::errors::classify;
use crate::sqlite::settling::held;
use crate::sqlite::table::OutboxTable;

/// The id up to which every row is settled, or belongs to a held lane.
pub(crate) async fn stored_position(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
) -> Result<i64, sqlx::Error> {
    let sql = format!("/* outboxd: stored_position */ select position from {}", table.checkpoint());
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await
}

/// The positions of a checkpoint, as ids.
pub(crate) struct StoredPositions {
    /// Every row up to here is settled, or belongs to a held lane.
    pub(crate) settled: i64,
    /// Every row up to here is read.
    pub(crate) read: i64,
}

/// Stores the checkpoint, and what changed of the held lanes. The connection must be one whose commits are flushed.
pub(crate) async fn save(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    mode: Settle,
    checkpoint: &Checkpoint,
    at: &StoredPositions,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let doing = |error| classify("storing the checkpoint", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    move_checkpoint(&mut transaction, table, checkpoint.term, at, settled_to(mode)).await?;
    held::store(&mut transaction, table, changes).await?;
    transaction.commit().await.map_err(doing)
}

/// What becomes of the id up to which rows count as settled, in SQL, when the position becomes `?1`: a relay that marks
/// no rows leaves word of what it read, for one that does.
pub(crate) fn settled_to(mode: Settle) -> &'static str {
    match mode {
        Settle::Mark | Settle::Delete => "settled_to",
        Settle::Checkpoint => "max(settled_to, ?1)",
    }
}

/// Moves the stored position, unless the term is over.
async fn move_checkpoint(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    term: Term,
    at: &StoredPositions,
    settled_to: &'static str,
) -> Result<(), StoreError> {
    let sql = format!(
        "/* outboxd: move_checkpoint */ update {checkpoint}
         set position = ?1, settled_to = {settled_to}, read_position = ?3, term = ?2, saved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where (select term from {lease}) = ?2",
        checkpoint = table.checkpoint(),
        lease = table.lease()
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(at.settled).bind(term.0).bind(at.read);
    let done = query.execute(connection).await.map_err(|error| classify("storing the checkpoint", error))?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}
