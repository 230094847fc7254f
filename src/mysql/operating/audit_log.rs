//! The audit log: what operators changed. A change and its entry are one transaction.

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::contract::{AuditEntry, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::session::{ask, sql};
use crate::mysql::table::OutboxTable;
use crate::outbox::Intent;

/// The latest entries, the last first.
pub(crate) async fn list(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let doing = "reading the audit log";
    let text = format!(
        "/* outboxd: audit_log */ select id, at, command, subject, affected, reason, actor, role from {}
         order by id desc limit ?",
        table.audit_log()
    );
    let rows = ask(doing, sqlx::query(sql(text)).bind(limit).fetch_all(conn)).await?;
    rows.iter().map(|row| entry(row).map_err(|error| classify(doing, error))).collect()
}

fn entry(row: &MySqlRow) -> Result<AuditEntry, sqlx::Error> {
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

/// Writes an entry, in the transaction that makes the change; none for one that changed nothing.
pub(crate) async fn note(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    Intent { command, subject, reason, actor }: &Intent,
    affected: u64,
) -> Result<(), StoreError> {
    if affected == 0 {
        return Ok(());
    }
    let text = format!(
        "/* outboxd: note_change */ insert into {} (command, subject, reason, actor, affected, role)
         values (?, ?, ?, ?, ?, current_user())",
        table.audit_log()
    );
    let entry = sqlx::query(sql(text)).bind(*command).bind(subject).bind(reason).bind(actor);
    let entry = entry.bind(i64::try_from(affected).unwrap_or(i64::MAX)).execute(transaction);
    ask("writing to the audit log", entry).await.map(drop)
}
