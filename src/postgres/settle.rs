//! Recording deliveries.

use sqlx::{Connection, PgConnection};

use crate::contract::StoreError;
use crate::outbox::{Settle, Settlement, Table};
use crate::postgres::errors::classify;
use crate::postgres::session::{Guc, ask, sql};

/// Settlements need no flush of their own: the next stored checkpoint flushes the log up to itself. What a crash of
/// the database forgets in between is delivered again.
pub(super) const UNFLUSHED: Guc = ("synchronous_commit", "off");

/// Carries out a settlement. A row whose event id differs is another row than the one that was delivered.
pub(super) async fn settle(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    match how {
        Settle::Checkpoint if !settlement.is_out_of_line() => Ok(()),
        Settle::Checkpoint | Settle::Mark => run(conn, mark(table), settlement).await,
        Settle::Delete => run(conn, delete(table), settlement).await,
    }
}

/// As [`settle`], flushed whatever the session's `synchronous_commit`.
pub(super) async fn settle_flushed(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let doing = "settling";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    let flush = sqlx::query("/* outboxd: flush */ set local synchronous_commit = on");
    ask(doing, flush.execute(&mut *transaction)).await?;
    settle(&mut transaction, table, how, settlement).await?;
    ask(doing, transaction.commit()).await
}

fn mark(table: &Table) -> String {
    format!(
        "/* outboxd: mark */ update {outbox} o set sent_at = now()
         from unnest($1::bigint[], $2::uuid[]) s (id, event_id)
         where o.id = s.id and o.event_id = s.event_id and o.sent_at is null",
        outbox = table.outbox()
    )
}

fn delete(table: &Table) -> String {
    format!(
        "/* outboxd: delete */ delete from {outbox} o
         using unnest($1::bigint[], $2::uuid[]) s (id, event_id)
         where o.id = s.id and o.event_id = s.event_id",
        outbox = table.outbox()
    )
}

async fn run(conn: &mut PgConnection, text: String, settlement: &Settlement) -> Result<(), StoreError> {
    let statement = sqlx::query(sql(text)).bind(settlement.ids()).bind(settlement.event_ids());
    ask("settling", statement.execute(conn)).await.map(drop)
}
