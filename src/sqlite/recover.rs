//! Taking over what the broker knows to be published, and proving to it what the database holds. Connections must be
//! ones whose commits are flushed.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Settle, Table, Term};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::inspect::covered;

/// Commits something, flushed: the log is flushed as a whole, with what was read before.
pub(super) async fn prove(connection: &mut SqliteConnection, table: &Table, term: Term) -> Result<(), StoreError> {
    let doing = |error| classify("proving what was read", error);
    let sql = format!("/* outboxd: prove */ update {} set term = term where term = ?", table.lease());
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let done = sqlx::query(AssertSqlSafe(sql)).bind(term.0).execute(&mut *transaction).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// Records as delivered everything up to a position but for held lanes, and moves the checkpoint there.
pub(super) async fn recover(
    connection: &mut SqliteConnection,
    table: &Table,
    mode: Settle,
    term: Term,
    position: i64,
) -> Result<(), StoreError> {
    let doing = |error| classify("taking over the progress", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    if !is_leader(&mut transaction, table, term).await.map_err(doing)? {
        return Err(StoreError::TermOver { term });
    }
    if position > highest_ever(&mut transaction, table).await.map_err(doing)? {
        return Err(unusable(
            "the progress in Kafka is ahead of the database, or of another database file",
            "if the file was replaced on purpose, run once with relay.delivery = \"at-least-once\", and remove the progress record of this outbox from the progress topic",
        ));
    }
    settle_up_to(&mut transaction, table, mode, position).await.map_err(doing)?;
    let sql = format!(
        "/* outboxd: recover_checkpoint */ update {} set position = max(position, ?), term = ?,
             saved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        table.checkpoint()
    );
    sqlx::query(AssertSqlSafe(sql)).bind(position).bind(term.0).execute(&mut *transaction).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)
}

async fn is_leader(connection: &mut SqliteConnection, table: &Table, term: Term) -> Result<bool, sqlx::Error> {
    let sql = format!("/* outboxd: is_leader */ select 1 from {} where term = ?", table.lease());
    Ok(sqlx::query(AssertSqlSafe(sql)).bind(term.0).fetch_optional(connection).await?.is_some())
}

/// The highest id that was ever given out, also where its row is gone.
async fn highest_ever(connection: &mut SqliteConnection, table: &Table) -> Result<i64, sqlx::Error> {
    let sql = "/* outboxd: highest_ever */ select coalesce(max(seq), 0) from sqlite_sequence where name = ?";
    sqlx::query_scalar(sql).bind(table.name()).fetch_one(connection).await
}

async fn settle_up_to(
    connection: &mut SqliteConnection,
    table: &Table,
    mode: Settle,
    position: i64,
) -> Result<(), sqlx::Error> {
    let outbox = table.outbox();
    let change = match mode {
        Settle::Checkpoint => return Ok(()),
        Settle::Mark => format!("update {outbox} as o set sent_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"),
        Settle::Delete => format!("delete from {outbox} as o"),
    };
    let sql = format!(
        "/* outboxd: settle_progress */ {change}
         where o.sent_at is null and o.id <= ? and o.id > (select position from {checkpoint}) and not {covered}",
        checkpoint = table.checkpoint(),
        covered = covered(table)
    );
    sqlx::query(AssertSqlSafe(sql)).bind(position).execute(connection).await.map(drop)
}
