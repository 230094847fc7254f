//! Recording deliveries.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Settle, Settlement};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::table::{Columns, OutboxTable};

/// Carries out a settlement. It is durable with the next flushed commit.
pub(crate) async fn settle(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
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
    table: &OutboxTable,
    mode: Settle,
    settlement: &Settlement,
) -> Result<Option<i64>, sqlx::Error> {
    let columns = table.columns();
    let unsettled = if mode == Settle::Delete { String::new() } else { format!("and {}", columns.unsent()) };
    let sql = format!(
        "/* outboxd: look_for_swallowed */ select min({id}) from {outbox} where {id} in ({named}) {unsettled}",
        id = columns.id,
        outbox = table.outbox(),
        named = named(table)
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(names(settlement)).fetch_one(connection).await
}

async fn mark(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settlement: &Settlement,
) -> Result<u64, sqlx::Error> {
    let columns = table.columns();
    let Columns { id, sent_at, .. } = &columns;
    let unsent = columns.unsent();
    let sql = format!(
        "/* outboxd: mark */ update {outbox} set {sent_at} = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where {unsent} and {id} in ({named})",
        outbox = table.outbox(),
        named = named(table)
    );
    in_immediate(connection, sql, settlement).await
}

async fn delete(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settlement: &Settlement,
) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "/* outboxd: delete */ delete from {outbox} where {id} in ({named})",
        id = table.columns().id,
        outbox = table.outbox(),
        named = named(table)
    );
    in_immediate(connection, sql, settlement).await
}

/// The ids of rows that are named by id and event id alike. The cross join has SQLite look each one up by its id.
fn named(table: &OutboxTable) -> String {
    let Columns { id, event_id, .. } = table.columns_of("o");
    format!(
        "select {id} from json_each(?) as d
         cross join {} as o on {id} = cast(d.key as integer) and {event_id} = d.value",
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
