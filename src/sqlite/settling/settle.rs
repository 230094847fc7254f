//! Recording deliveries.

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{RecordMetadata, Settle, Settlement};
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
    let Columns { id, sent_at, sent_partition, sent_offset, .. } = &columns;
    let outbox = table.outbox();
    let now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let Some(metadata) = settlement.metadata() else {
        let (unsent, named) = (columns.unsent(), named(table));
        let sql =
            format!("/* outboxd: mark */ update {outbox} set {sent_at} = {now} where {unsent} and {id} in ({named})");
        return in_immediate(connection, sql, names(settlement)).await;
    };
    let named = table.columns_of("o");
    let sql = format!(
        "/* outboxd: mark_with_metadata */
         update {outbox} as m set {sent_at} = {now}, {sent_partition} = s.partition, {sent_offset} = s.record_offset
         from (select {o_id} as id, d.value ->> 1 as partition, d.value ->> 2 as record_offset
               from json_each(?) as d
               cross join {outbox} as o on {o_id} = cast(d.key as integer) and {event_id} = d.value ->> 0
               where {unsent}) as s
         where m.{id} = s.id",
        o_id = named.id,
        event_id = named.event_id,
        unsent = named.unsent()
    );
    in_immediate(connection, sql, names_with_metadata(settlement, metadata)).await
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
    in_immediate(connection, sql, names(settlement)).await
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

async fn in_immediate(connection: &mut SqliteConnection, sql: String, names: String) -> Result<u64, sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let done = sqlx::query(AssertSqlSafe(sql)).bind(names).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(done.rows_affected())
}

/// The settlement as a JSON object from ids to event ids: SQLite has no arrays to bind.
fn names(settlement: &Settlement) -> String {
    let pairs = settlement.ids().iter().zip(settlement.event_ids());
    let pairs: Vec<String> = pairs.map(|(id, event_id)| format!("\"{id}\":\"{event_id}\"")).collect();
    format!("{{{}}}", pairs.join(","))
}

/// The same, with partition and offset of each record beside its event id.
fn names_with_metadata(settlement: &Settlement, metadata: &[Option<RecordMetadata>]) -> String {
    let rows = settlement.ids().iter().zip(settlement.event_ids()).zip(metadata);
    let rows = rows.map(|((id, event_id), known)| match known {
        Some(RecordMetadata { partition, offset }) => format!("\"{id}\":[\"{event_id}\",{partition},{offset}]"),
        None => format!("\"{id}\":[\"{event_id}\",null,null]"),
    });
    format!("{{{}}}", rows.collect::<Vec<String>>().join(","))
}
