//! What is written back: delivered rows, and the checkpoint with the held lanes.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Checkpoint, StoreError};
use crate::outbox::{HeldChanges, Settle, Settlement, Table};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::held;

/// Carries out a settlement. It is durable with the next flushed commit.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    table: &Table,
    mode: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let doing = |error| classify("settling", error);
    let done = match mode {
        Settle::Checkpoint if !settlement.is_out_of_line() => return Ok(()),
        Settle::Checkpoint | Settle::Mark => mark(connection, table, settlement).await,
        Settle::Delete => delete(connection, table, settlement).await,
    };
    if done.map_err(doing)? == settlement.len() as u64 {
        return Ok(());
    }
    match swallowed(connection, table, mode, settlement).await.map_err(doing)? {
        None => Ok(()),
        Some(id) => Err(unusable(
            format!("SQLite settled row {id} and kept it as it was"),
            format!("drop the trigger on {table} that swallows what the relay records"),
        )),
    }
}

/// A row that is there as if nothing had happened, kept by a trigger that raises `ignore`. Rows that are settled or gone
/// already are no matter.
async fn swallowed(
    connection: &mut SqliteConnection,
    table: &Table,
    mode: Settle,
    settlement: &Settlement,
) -> Result<Option<i64>, sqlx::Error> {
    let unsettled = if mode == Settle::Delete { "" } else { "and sent_at is null" };
    let sql = format!(
        "/* outboxd: look_for_swallowed */ select min(id) from {outbox} where id in ({named}) {unsettled}",
        outbox = table.outbox(),
        named = named(table)
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(names(settlement)).fetch_one(connection).await
}

async fn mark(connection: &mut SqliteConnection, table: &Table, settlement: &Settlement) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "/* outboxd: mark */ update {outbox} set sent_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where sent_at is null and id in ({named})",
        outbox = table.outbox(),
        named = named(table)
    );
    in_immediate(connection, sql, settlement).await
}

async fn delete(connection: &mut SqliteConnection, table: &Table, settlement: &Settlement) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "/* outboxd: delete */ delete from {outbox} where id in ({named})",
        outbox = table.outbox(),
        named = named(table)
    );
    in_immediate(connection, sql, settlement).await
}

/// The ids of rows that are named by id and event id alike. The cross join has SQLite look each one up by its id.
fn named(table: &Table) -> String {
    format!(
        "select o.id from json_each(?) as d
         cross join {} as o on o.id = cast(d.key as integer) and o.event_id = d.value",
        table.outbox()
    )
}

async fn in_immediate(
    connection: &mut SqliteConnection,
    sql: String,
    settlement: &Settlement,
) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let done = sqlx::query(AssertSqlSafe(sql)).bind(names(settlement)).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(done.rows_affected())
}

/// The settlement as a JSON object from ids to event ids: SQLite has no arrays to bind.
fn names(settlement: &Settlement) -> String {
    let pairs = settlement.ids().iter().zip(settlement.event_ids());
    let pairs: Vec<String> = pairs.map(|(id, event_id)| format!("\"{id}\":\"{event_id}\"")).collect();
    format!("{{{}}}", pairs.join(","))
}

/// Stores the checkpoint, and what changed of the held lanes. The connection must be one whose commits are flushed.
pub(super) async fn save(
    connection: &mut SqliteConnection,
    table: &Table,
    mode: Settle,
    checkpoint: &Checkpoint,
    (position, changes): (i64, &HeldChanges<'_>),
) -> Result<(), StoreError> {
    let doing = |error| classify("storing the checkpoint", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    if !move_checkpoint(&mut transaction, table, checkpoint, position, settled_to(mode)).await.map_err(doing)? {
        return Err(StoreError::TermOver { term: checkpoint.term });
    }
    held::store(&mut transaction, table, changes).await?;
    transaction.commit().await.map_err(doing)
}

/// What becomes of the id up to which rows count as settled, in SQL, when the position becomes `?1`: a relay that marks
/// no rows leaves word of what it read, for one that does.
pub(super) fn settled_to(mode: Settle) -> &'static str {
    match mode {
        Settle::Mark | Settle::Delete => "settled_to",
        Settle::Checkpoint => "max(settled_to, ?1)",
    }
}

/// Moves the stored position, unless the term is over.
async fn move_checkpoint(
    connection: &mut SqliteConnection,
    table: &Table,
    checkpoint: &Checkpoint,
    position: i64,
    settled_to: &'static str,
) -> Result<bool, sqlx::Error> {
    let sql = format!(
        "/* outboxd: move_checkpoint */ update {checkpoint}
         set position = ?1, settled_to = {settled_to}, term = ?2, saved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where (select term from {lease}) = ?2",
        checkpoint = table.checkpoint(),
        lease = table.lease()
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(position).bind(checkpoint.term.0);
    Ok(query.execute(connection).await?.rows_affected() == 1)
}
