//! How much waits: bounded counts above the checkpoint and of held lanes below it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Backlog, StoreError};
use crate::outbox::{Settle, Table};
use crate::sqlite::dead;
use crate::sqlite::errors::classify;

/// Age in seconds of the row `o`.
const AGE: &str = "max(0.0, (julianday('now') - julianday(o.created_at)) * 86400.0)";

/// Counts what waits, looking at no more rows than it may count.
pub(super) async fn backlog(
    connection: &mut SqliteConnection,
    table: &Table,
    settle: Settle,
    count_limit: u64,
) -> Result<Backlog, StoreError> {
    let limit = i64::try_from(count_limit).unwrap_or(i64::MAX).saturating_add(1);
    let found = count(connection, table, settle, limit).await;
    let (above, below) = found.map_err(|error| classify("counting the backlog", error))?;
    // Where rows are not marked nothing tells a settled row below the checkpoint from a late one.
    let late = if settle == Settle::Checkpoint { 0 } else { below.looked - below.held };
    let dead_letters = dead::count(connection, table, limit - 1).await?;
    let waiting = above.looked + below.held + late;
    let oldest = above.oldest.max(below.oldest);
    Ok(Backlog {
        unsent: waiting.unsigned_abs().min(count_limit),
        capped: waiting.unsigned_abs() > count_limit || below.looked >= limit,
        oldest: Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        oldest_snapshot: None,
        dead_letters,
        late: late.unsigned_abs(),
    })
}

/// What was seen on one side of the checkpoint.
struct Seen {
    looked: i64,
    held: i64,
    oldest: f64,
}

async fn count(
    connection: &mut SqliteConnection,
    table: &Table,
    settle: Settle,
    limit: i64,
) -> Result<(Seen, Seen), sqlx::Error> {
    let mut snapshot = connection.begin().await?;
    let above = count_above(&mut snapshot, table, limit).await?;
    let below = count_below(&mut snapshot, table, settle, limit).await?;
    snapshot.rollback().await?;
    Ok((above, below))
}

async fn count_above(connection: &mut SqliteConnection, table: &Table, limit: i64) -> Result<Seen, sqlx::Error> {
    let sql = format!(
        "/* outboxd: count_above */ select count(*), coalesce(max(age), 0.0) from (
            select {AGE} as age from {outbox} as o
            where o.id > (select position from {checkpoint}) and o.sent_at is null
            order by o.id limit ?)",
        outbox = table.outbox(),
        checkpoint = table.checkpoint()
    );
    let (looked, oldest) = sqlx::query_as(AssertSqlSafe(sql)).bind(limit).fetch_one(connection).await?;
    Ok(Seen { looked, held: 0, oldest })
}

/// Looks at unsettled rows below the checkpoint: those of held lanes wait, and others should not be there.
async fn count_below(
    connection: &mut SqliteConnection,
    table: &Table,
    settle: Settle,
    limit: i64,
) -> Result<Seen, sqlx::Error> {
    let sql = format!(
        "/* outboxd: count_below */
         select count(*), coalesce(sum(is_held), 0), coalesce(max(case when is_held or ?2 then age end), 0.0) from (
            select {AGE} as age, {covered} as is_held from {outbox} as o
            where o.sent_at is null and o.id <= (select position from {checkpoint})
              and (?2 or o.id >= (select min(from_id) from {held}))
            order by o.id limit ?1)",
        covered = covered(table),
        outbox = table.outbox(),
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    let is_marked = settle != Settle::Checkpoint;
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(limit).bind(is_marked);
    let (looked, held, oldest) = query.fetch_one(connection).await?;
    Ok(Seen { looked, held, oldest })
}

/// Whether a stored held lane keeps the row `o` back, in SQL.
pub(super) fn covered(table: &Table) -> String {
    format!(
        "exists (select 1 from {} as h where h.topic = o.topic and o.id >= h.from_id and case
            when h.partition is not null then h.partition is o.partition
            when h.key is not null then h.key is o.key and o.partition is null
            else true end)",
        table.held()
    )
}
