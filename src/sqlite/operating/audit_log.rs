//! The audit log: what operators changed. A change and its entry are one transaction.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use crate::contract::{AuditEntry, StoreError};
use crate::outbox::Intent;
use crate::sqlite::errors::classify;
use crate::sqlite::table::OutboxTable;

/// The latest entries, the last first.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let doing = |error| classify("reading the audit log", error);
    let sql = format!(
        "/* outboxd: audit_log */ select id, at, command, subject, affected, reason, actor from {} order by id desc limit ?",
        table.audit_log()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(limit).fetch_all(connection).await.map_err(doing)?;
    rows.iter().map(|row| entry(row).map_err(doing)).collect()
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, sqlx::Error> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        command: row.try_get(2)?,
        subject: row.try_get(3)?,
        affected: row.try_get::<i64, _>(4)?.unsigned_abs(),
        reason: row.try_get(5)?,
        actor: row.try_get(6)?,
        role: None,
    })
}

/// Writes an entry, in the transaction that makes the change; none for one that changed nothing.
pub(crate) async fn note(
    transaction: &mut SqliteConnection,
    table: &OutboxTable,
    Intent { command, subject, reason, actor }: &Intent,
    affected: u64,
) -> Result<(), StoreError> {
    if affected == 0 {
        return Ok(());
    }
    let sql = format!(
        "/* outboxd: note_change */ insert into {} (command, subject, reason, actor, affected) values (?, ?, ?, ?, ?)",
        table.audit_log()
    );
    let entry = sqlx::query(AssertSqlSafe(sql)).bind(*command).bind(subject).bind(reason).bind(actor);
    let entry = entry.bind(i64::try_from(affected).unwrap_or(i64::MAX)).execute(transaction);
    entry.await.map_err(|error| classify("writing to the audit log", error)).map(drop)
}
