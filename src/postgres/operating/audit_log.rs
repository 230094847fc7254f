//! The audit log: what operators changed. A change and its entry are one statement.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use crate::contract::{AuditEntry, StoreError};
use crate::outbox::Intent;
use crate::postgres::errors::classify;
use crate::postgres::session::{ask, sql};
use crate::postgres::table::OutboxTable;

/// The latest entries, the last first.
pub(crate) async fn list(
    conn: &mut PgConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let text = format!(
        "/* outboxd: audit_log */ select id, at, command, subject, affected, reason, actor, role from {}
         order by id desc limit $1",
        table.audit_log()
    );
    let rows = sqlx::query(sql(text)).bind(i64::from(limit)).fetch_all(conn);
    let rows = ask("reading the audit log", rows).await?;
    rows.iter().map(|row| entry(row).map_err(|error| classify("reading the audit log", error))).collect()
}

fn entry(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        command: row.try_get(2)?,
        subject: row.try_get(3)?,
        affected: row.try_get::<i64, _>(4)?.unsigned_abs(),
        reason: row.try_get(5)?,
        actor: row.try_get(6)?,
        role: Some(row.try_get(7)?),
    })
}

/// The statement that makes a change, which returns a row for each thing that it changes, and writes an entry if it changed
/// any. It says how many they were. The intent's parameters begin at `$first`: [`bind_intent`] binds them.
pub(crate) fn audited(name: &str, table: &OutboxTable, change: &str, first: usize) -> String {
    let [command, subject, reason, actor] = [0, 1, 2, 3].map(|at| format!("${}::text", first + at));
    format!(
        "/* outboxd: {name} */
         with changed as ({change}),
         noted as (
             insert into {audit_log} (command, subject, reason, actor, affected)
             select {command}, {subject}, {reason}, {actor}, count(*) from changed having count(*) > 0
         )
         select count(*) from changed",
        audit_log = table.audit_log()
    )
}

/// Writes an entry, in the transaction that makes the change.
pub(crate) async fn note(
    transaction: &mut PgConnection,
    table: &OutboxTable,
    intent: &Intent,
    affected: u64,
) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: note_change */ insert into {} (command, subject, reason, actor, affected) values ($1, $2, $3, $4, $5)",
        table.audit_log()
    );
    let entry = bind_intent(sqlx::query(sql(text)), intent).bind(i64::try_from(affected).unwrap_or(i64::MAX));
    ask("writing to the audit log", entry.execute(transaction)).await.map(drop)
}

/// Binds an intent as [`audited`] takes it.
pub(crate) fn bind_intent<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    Intent { command, subject, reason, actor }: &'q Intent,
) -> Query<'q, Postgres, PgArguments> {
    statement.bind(*command).bind(subject).bind(reason).bind(actor)
}

/// Makes an [`audited`] change, and returns how many things it changed.
pub(crate) async fn change(
    conn: &mut PgConnection,
    doing: &'static str,
    statement: Query<'_, Postgres, PgArguments>,
) -> Result<u64, StoreError> {
    Ok(ask(doing, statement.fetch_one(conn)).await?.get::<i64, _>(0).unsigned_abs())
}
