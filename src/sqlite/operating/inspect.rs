//! How much waits: bounded counts above the checkpoint and of held lanes below it; and rows that are due where the reader
//! has passed.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Backlog, StoreError};
use crate::outbox::Settle;
use crate::sqlite::errors::classify;
use crate::sqlite::reading::holds::covered;
use crate::sqlite::settling::dead;
use crate::sqlite::table::{Columns, OutboxTable};

/// Age in seconds of a row.
fn age(columns: &Columns) -> String {
    format!("max(0.0, (julianday('now') - julianday({})) * 86400.0)", columns.created_at)
}

/// Rows that one call looks at in search of those that became due behind the reader.
const ROWS_PER_SWEEP: i64 = 5_000;

/// Counts what waits, looking at no more rows than it may count. Rows that became due behind the reader are brought
/// back before it, and counted as late this once.
pub(crate) async fn backlog(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    count_limit: u64,
    swept_to: &mut i64,
) -> Result<Backlog, StoreError> {
    let limit = i64::try_from(count_limit).unwrap_or(i64::MAX).saturating_add(1);
    let late = match settle {
        // Nothing tells a row that was read from one that became due since.
        Settle::Checkpoint => 0,
        Settle::Mark | Settle::Delete => {
            let moved = renumber_late(connection, table, swept_to).await;
            moved.map_err(|error| classify("looking for late rows", error))?
        }
    };
    let found = count(connection, table, limit).await;
    let (above, below) = found.map_err(|error| classify("counting the backlog", error))?;
    let dead_letters = dead::count(connection, table, limit - 1).await?;
    let waiting = above.looked + below.held;
    let oldest = above.oldest.max(below.oldest);
    Ok(Backlog {
        unsent: waiting.unsigned_abs().min(count_limit),
        capped: waiting.unsigned_abs() > count_limit || below.looked >= limit,
        oldest: Duration::try_from_secs_f64(oldest).unwrap_or_default(),
        oldest_snapshot: None,
        sessions: None,
        dead_letters,
        late,
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
    table: &OutboxTable,
    limit: i64,
) -> Result<(Seen, Seen), sqlx::Error> {
    let mut snapshot = connection.begin().await?;
    let above = count_above(&mut snapshot, table, limit).await?;
    let below = count_below(&mut snapshot, table, limit).await?;
    snapshot.rollback().await?;
    Ok((above, below))
}

async fn count_above(connection: &mut SqliteConnection, table: &OutboxTable, limit: i64) -> Result<Seen, sqlx::Error> {
    let o = table.columns_of("o");
    let sql = format!(
        "/* outboxd: count_above */ select count(*), coalesce(max(age), 0.0) from (
            select {age} as age from {outbox} as o
            where {id} > (select position from {checkpoint}) and {unsent}
            order by {id} limit ?)",
        age = age(&o),
        id = o.id,
        unsent = o.unsent(),
        outbox = table.outbox(),
        checkpoint = table.checkpoint()
    );
    let (looked, oldest) = sqlx::query_as(AssertSqlSafe(sql)).bind(limit).fetch_one(connection).await?;
    Ok(Seen { looked, held: 0, oldest })
}

/// Looks at unsettled rows below the checkpoint: those of held lanes wait.
async fn count_below(connection: &mut SqliteConnection, table: &OutboxTable, limit: i64) -> Result<Seen, sqlx::Error> {
    let o = table.columns_of("o");
    let sql = format!(
        "/* outboxd: count_below */
         select count(*), coalesce(sum(is_held), 0), coalesce(max(case when is_held then age end), 0.0) from (
            select {age} as age, {covered} as is_held from {outbox} as o
            where {unsent} and {id} <= (select position from {checkpoint})
              and {id} >= (select min(from_id) from {held})
            order by {id} limit ?1)",
        age = age(&o),
        id = o.id,
        unsent = o.unsent(),
        covered = covered(table),
        outbox = table.outbox(),
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    let (looked, held, oldest) = sqlx::query_as(AssertSqlSafe(sql)).bind(limit).fetch_one(connection).await?;
    Ok(Seen { looked, held, oldest })
}

/// Looks at the next unsettled rows below the checkpoint, and gives the next ids to those that no held lane covers: they
/// are due, and no reader would come to them. An operator who moves rows back by hand, or takes their `sent_at` away,
/// leaves such rows. Says how many they were. `after` then stands where the next look begins: at the start again after
/// the last.
async fn renumber_late(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    after: &mut i64,
) -> Result<u64, sqlx::Error> {
    let o = table.columns_of("o");
    let sql = format!(
        "/* outboxd: look_for_late */ select count(*), coalesce(max(id), 0), coalesce(sum(is_late), 0) from (
             select {id} as id, not {covered} as is_late from {outbox} as o, {checkpoint} as c
             where {unsent} and {id} > max(?1, c.settled_to) and {id} <= c.position order by {id} limit ?2)",
        id = o.id,
        unsent = o.unsent(),
        covered = covered(table),
        outbox = table.outbox(),
        checkpoint = table.checkpoint()
    );
    let query = sqlx::query_as::<_, (i64, i64, i64)>(AssertSqlSafe(sql)).bind(*after).bind(ROWS_PER_SWEEP);
    let (looked, last, late) = query.fetch_one(&mut *connection).await?;
    let renumbered = if late > 0 { renumber(connection, table, *after, last).await? } else { 0 };
    *after = if looked == ROWS_PER_SWEEP { last } else { 0 };
    Ok(renumbered)
}

/// Gives the next ids to the late rows between two ids, in their order.
async fn renumber(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    after: i64,
    last: i64,
) -> Result<u64, sqlx::Error> {
    let (outbox, checkpoint) = (table.outbox(), table.checkpoint());
    let Columns { id, .. } = table.columns();
    let o = table.columns_of("o");
    let renumber = format!(
        "/* outboxd: renumber_late */ update {outbox} set {id} = late.next from (
             select {o_id} as id, row_number() over (order by {o_id}) + max(
                 c.position,
                 (select max({id}) from {outbox}),
                 coalesce((select seq from sqlite_sequence where name = ?3), 0)) as next
             from {outbox} as o, {checkpoint} as c
             where {unsent} and {o_id} > max(?1, c.settled_to) and {o_id} <= min(?2, c.position) and not {covered}
         ) as late where {outbox}.{id} = late.id",
        o_id = o.id,
        unsent = o.unsent(),
        covered = covered(table)
    );
    let follow = format!(
        "/* outboxd: follow_renumbered */ update sqlite_sequence set seq = max(seq, (select max({id}) from {outbox}))
         where name = ?"
    );
    let mut transaction = connection.begin_with("begin immediate").await?;
    let query = sqlx::query(AssertSqlSafe(renumber)).bind(after).bind(last).bind(table.name());
    let renumbered = query.execute(&mut *transaction).await?.rows_affected();
    sqlx::query(AssertSqlSafe(follow)).bind(table.name()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(renumbered)
}
