//! How much room the outbox takes, and when it was vacuumed: what the server knows anyway. No row is looked at.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::contract::{Footprint, StoreError};
use crate::postgres::session::{ask, missing};
use crate::postgres::table::OutboxTable;

/// What the outbox's table is to the server.
pub(crate) async fn footprint(conn: &mut PgConnection, table: &OutboxTable) -> Result<Footprint, StoreError> {
    let text = "/* outboxd: footprint */
        select pg_catalog.pg_total_relation_size(c.oid), s.n_dead_tup, greatest(s.last_vacuum, s.last_autovacuum)
        from pg_catalog.pg_class c left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
        where c.oid = to_regclass($1)";
    let found = sqlx::query_as::<_, (i64, Option<i64>, Option<DateTime<Utc>>)>(text);
    let found = ask("measuring the table", found.bind(table.outbox()).fetch_optional(conn)).await?;
    let (bytes, dead_rows, vacuumed_at) = found.ok_or_else(|| missing(table))?;
    Ok(Footprint { bytes: bytes.unsigned_abs(), dead_rows: dead_rows.map(i64::unsigned_abs), vacuumed_at })
}
