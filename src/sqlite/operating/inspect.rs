//! How much waits: bounded counts above the checkpoint and of held lanes below it; and rows that are due where the reader
//! has passed.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Backlog, StoreError, TopicBacklog};
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

/// Counts what waits, looking at no more rows than it may count.
pub(crate) async fn backlog(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    count_limit: u64,
) -> Result<Backlog, StoreError> {
    let limit = i64::try_from(count_limit).unwrap_or(i64::MAX).saturating_add(1);
    let found = count(connection, table, limit).await;
    let (above, below) = found.map_err(|error| classify("counting the backlog", error))?;
    let dead_letters = dead::count(connection, table, limit - 1).await?;
    let (looked_above, looked_below) = (looked(&above), looked(&below));
    let waiting = || above.iter().chain(&below).filter(|seen| seen.waiting > 0);
    let unsent: u64 = waiting().map(|seen| seen.waiting.unsigned_abs()).sum();
    Ok(Backlog {
        unsent: unsent.min(count_limit),
        capped: looked_above >= limit || looked_below >= limit || unsent > count_limit,
        oldest: waiting().map(Seen::oldest).max().unwrap_or_default(),
        topics: TopicBacklog::longest(waiting().map(Seen::of_topic)),
        oldest_snapshot: None,
        sessions: None,
        dead_letters,
    })
}

/// Brings back rows that became due behind the reader, and says how many they were.
pub(crate) async fn bring_back_late(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    swept_to: &mut i64,
) -> Result<u64, StoreError> {
    if settle == Settle::Checkpoint {
        // Nothing tells a row that was read from one that became due since.
        return Ok(0);
    }
    let moved = renumber_late(connection, table, swept_to).await;
    moved.map_err(|error| classify("looking for late rows", error))
}

/// What was seen of a topic on one side of the checkpoint.
struct Seen {
    topic: String,
    looked: i64,
    waiting: i64,
    /// In seconds.
    oldest: f64,
}

impl Seen {
    fn oldest(&self) -> Duration {
        Duration::try_from_secs_f64(self.oldest).unwrap_or_default()
    }

    fn of_topic(&self) -> TopicBacklog {
        TopicBacklog { topic: self.topic.clone(), unsent: self.waiting.unsigned_abs(), oldest: self.oldest() }
    }
}

fn looked(seen: &[Seen]) -> i64 {
    seen.iter().map(|seen| seen.looked).sum()
}

/// Counts what `rows`, no more than `?1` of them, have of each topic: each has a `topic`, an `age` and whether it `waits`.
async fn counted(
    connection: &mut SqliteConnection,
    name: &str,
    rows: &str,
    limit: i64,
) -> Result<Vec<Seen>, sqlx::Error> {
    let sql = format!(
        "/* outboxd: {name} */ select topic, count(*), sum(waits), coalesce(max(case when waits then age end), 0.0)
         from ({rows}) group by topic"
    );
    let query = sqlx::query_as::<_, (Vec<u8>, i64, i64, f64)>(AssertSqlSafe(sql)).bind(limit);
    let counted = query.fetch_all(connection).await?;
    let seen = counted.into_iter().map(|(topic, looked, waiting, oldest)| {
        // As bytes: text may be anything.
        Seen { topic: String::from_utf8_lossy(&topic).into_owned(), looked, waiting, oldest }
    });
    Ok(seen.collect())
}

/// The topic of a row, of which no more than Kafka takes is loaded.
fn topic(columns: &Columns) -> String {
    format!("cast(substr(coalesce({}, ''), 1, 250) as blob)", columns.topic)
}

async fn count(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: i64,
) -> Result<(Vec<Seen>, Vec<Seen>), sqlx::Error> {
    let mut snapshot = connection.begin().await?;
    let above = count_above(&mut snapshot, table, limit).await?;
    let below = count_below(&mut snapshot, table, limit).await?;
    snapshot.rollback().await?;
    Ok((above, below))
}

async fn count_above(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: i64,
) -> Result<Vec<Seen>, sqlx::Error> {
    let o = table.columns_of("o");
    let rows = format!(
        "select {topic} as topic, {age} as age, true as waits from {outbox} as o
         where {id} > (select position from {checkpoint}) and {unsent} order by {id} limit ?1",
        topic = topic(&o),
        age = age(&o),
        id = o.id,
        unsent = o.unsent(),
        outbox = table.outbox(),
        checkpoint = table.checkpoint()
    );
    counted(connection, "count_above", &rows, limit).await
}

/// Looks at unsettled rows below the checkpoint: those of held lanes wait.
async fn count_below(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: i64,
) -> Result<Vec<Seen>, sqlx::Error> {
    let o = table.columns_of("o");
    let rows = format!(
        "select {topic} as topic, {age} as age, {covered} as waits from {outbox} as o
         where {unsent} and {id} <= (select position from {checkpoint}) and {id} >= (select min(from_id) from {held})
         order by {id} limit ?1",
        topic = topic(&o),
        age = age(&o),
        id = o.id,
        unsent = o.unsent(),
        covered = covered(table),
        outbox = table.outbox(),
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    counted(connection, "count_below", &rows, limit).await
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
