//! How the file keeps the outbox. There is neither a clock of its own, nor vacuum, nor who holds it back.

use std::time::Duration;

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::contract::{StoreError, Vitals};
use crate::sqlite::errors::classify;
use crate::sqlite::operating::purge::PurgeScope;

/// Looks at the checkpoint, and at a bounded number of rows.
pub(crate) async fn vitals(connection: &mut SqliteConnection, walk: PurgeScope<'_>) -> Result<Vitals, StoreError> {
    let doing = |error| classify("looking at how the outbox is kept", error);
    let overdue = walk.overdue(connection).await.map_err(doing)?;
    let sql = format!(
        "/* outboxd: checkpoint_age */ select max(0.0, (julianday('now') - julianday(saved_at)) * 86400.0) from {}",
        walk.table.checkpoint()
    );
    let age = sqlx::query_scalar::<_, Option<f64>>(AssertSqlSafe(sql)).fetch_optional(connection).await;
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    Ok(Vitals { overdue: time(overdue), checkpoint_age: age.map_err(doing)?.flatten().map(time), ..Vitals::default() })
}
