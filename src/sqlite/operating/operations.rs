//! Operations: sending rows again.

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::TryStreamExt;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, Sqlite, SqliteConnection};

use crate::contract::{ReplayPage, StoreError};
use crate::outbox::{
    Intent, Limit, Operation, OperationProgress, OperationState, Replay, Replayable, Settle, Term, UnknownWord,
};
use crate::reading::{Filling, Fit};
use crate::sqlite::errors::{classify, incompatible};
use crate::sqlite::operating::audit_log;
use crate::sqlite::reading::holds::covered;
use crate::sqlite::reading::rows::Rows;
use crate::sqlite::table::{Columns, OutboxTable};

/// Ids that one statement looks through at most: some milliseconds, whatever share of them is meant.
const IDS_PER_PAGE: i64 = 10_000;

const COLUMNS: &str = "id, topic, key, since, until, to_topic, rate, state, asked_at, ended_at, reason, actor, \
     from_id, last_id, done_to, sent, refused, problem";

/// What a replay would send now.
pub(crate) async fn replayable(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    replay: &Replay,
    look_at: u64,
) -> Result<Replayable, StoreError> {
    let doing = |error| classify("looking for what was sent", error);
    let Columns { id, created_at, .. } = table.columns_of("o");
    let sql = format!(
        "/* outboxd: replayable */
         select coalesce(sum(is_meant), 0), min(written) filter (where is_meant), max(written) filter (where is_meant), count(*),
             (select strftime('%Y-%m-%dT%H:%M:%fZ', {created_at}) from {outbox} as o order by {id} limit 1)
         from (
             select strftime('%Y-%m-%dT%H:%M:%fZ', {created_at}) as written, {meant} as is_meant
             from {outbox} as o order by {id} desc limit ?5
         )",
        meant = meant(table, settle),
        outbox = table.outbox()
    );
    let look_at = i64::try_from(look_at).unwrap_or(i64::MAX);
    let query = bind_meant(sqlx::query(AssertSqlSafe(sql)), replay).bind(look_at);
    let row = query.fetch_one(connection).await.map_err(doing)?;
    let read = || -> Result<_, sqlx::Error> {
        let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = (row.try_get(1)?, row.try_get(2)?);
        Ok(Replayable {
            rows: row.try_get::<i64, _>(0)?.unsigned_abs(),
            is_floor: row.try_get::<i64, _>(3)? >= look_at,
            written: first.zip(last),
            oldest_kept: row.try_get(4)?,
        })
    };
    read().map_err(doing)
}

/// The condition on a row `o` that it was sent, and is meant by a replay, with the parameters of [`bind_meant`].
fn meant(table: &OutboxTable, settle: Settle) -> String {
    let Columns { id, topic, key, created_at, sent_at, .. } = table.columns_of("o");
    let settling = match settle {
        Settle::Mark | Settle::Delete => "settled_to",
        Settle::Checkpoint => "position",
    };
    format!(
        "coalesce({topic} = ?1 and (?2 is null or {key} = ?2) and (?3 is null or julianday({created_at}) >= julianday(?3))
             and (?4 is null or julianday({created_at}) < julianday(?4))
             and ({sent_at} is not null or {id} <= (select {settling} from {checkpoint}) and not {covered}), false)",
        checkpoint = table.checkpoint(),
        covered = covered(table)
    )
}

fn bind_meant<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    Replay { topic, key, since, until, .. }: &'q Replay,
) -> Query<'q, Sqlite, SqliteArguments> {
    query.bind(topic).bind(key).bind(since.as_ref().map(text)).bind(until.as_ref().map(text))
}

fn text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Asks for a replay.
pub(crate) async fn start_replay(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    replay: &Replay,
    intent: &Intent,
) -> Result<i64, StoreError> {
    let doing = |error| classify("asking for a replay", error);
    let sql = format!(
        "/* outboxd: start_replay */
         insert into {operation} (topic, key, since, until, to_topic, rate, reason, actor, from_id, last_id, done_to)
         select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, coalesce(min({id}) - 1, 0), coalesce(max({id}), 0), coalesce(min({id}) - 1, 0)
         from {outbox} returning id",
        operation = table.operation(),
        id = table.columns().id,
        outbox = table.outbox()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let query = bind_meant(sqlx::query(AssertSqlSafe(sql)), replay).bind(&replay.to_topic).bind(replay.rate);
    let query = query.bind(&intent.reason).bind(&intent.actor);
    let id = query.fetch_one(&mut *transaction).await.and_then(|row| row.try_get(0)).map_err(doing)?;
    audit_log::note(&mut transaction, table, intent, 1).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(id)
}

/// The latest operations.
pub(crate) async fn list(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<Operation>, StoreError> {
    let sql = format!("/* outboxd: operations */ select {COLUMNS} from {} order by id desc limit ?", table.operation());
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(limit).fetch_all(connection).await;
    rows.map_err(|error| classify("listing operations", error))?.iter().map(operation).collect()
}

/// The operation that runs.
pub(crate) async fn next(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
) -> Result<Option<Operation>, StoreError> {
    let sql = format!(
        "/* outboxd: next_operation */ select {COLUMNS} from {} where state = 'running' order by id limit 1",
        table.operation()
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(connection).await;
    row.map_err(|error| classify("looking for operations", error))?.as_ref().map(operation).transpose()
}

fn operation(row: &SqliteRow) -> Result<Operation, StoreError> {
    let read = || -> Result<(Operation, String), sqlx::Error> {
        let replay = Replay {
            topic: row.try_get(1)?,
            key: row.try_get(2)?,
            since: row.try_get(3)?,
            until: row.try_get(4)?,
            to_topic: row.try_get(5)?,
            rate: row.try_get(6)?,
        };
        let progress = OperationProgress {
            done_to: row.try_get(14)?,
            sent: row.try_get::<i64, _>(15)?.unsigned_abs(),
            refused: row.try_get::<i64, _>(16)?.unsigned_abs(),
            problem: row.try_get(17)?,
            is_done: false,
        };
        let operation = Operation {
            id: row.try_get(0)?,
            replay,
            state: OperationState::Running,
            asked_at: row.try_get(8)?,
            ended_at: row.try_get(9)?,
            reason: row.try_get(10)?,
            actor: row.try_get(11)?,
            from_id: row.try_get(12)?,
            last_id: row.try_get(13)?,
            progress,
        };
        Ok((operation, row.try_get(7)?))
    };
    let (mut operation, word) = read().map_err(|error| classify("reading operations", error))?;
    let unknown = |error: UnknownWord| incompatible(error.to_string(), "run the newer outboxd that wrote this");
    operation.state = word.parse().map_err(unknown)?;
    operation.progress.is_done = operation.state == OperationState::Done;
    Ok(operation)
}

/// Ends an operation. Returns whether it was running.
pub(crate) async fn cancel(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    id: i64,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let doing = |error| classify("cancelling an operation", error);
    let sql = format!(
        "/* outboxd: cancel_operation */ update {} set state = 'cancelled', ended_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where id = ? and state = 'running'",
        table.operation()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let cancelled = sqlx::query(AssertSqlSafe(sql)).bind(id).execute(&mut *transaction).await;
    let cancelled = cancelled.map_err(doing)?.rows_affected();
    audit_log::note(&mut transaction, table, intent, cancelled).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(cancelled > 0)
}

/// The next rows that an operation sends again.
pub(crate) async fn replay_page(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    operation: &Operation,
    limit: Limit,
) -> Result<ReplayPage, StoreError> {
    let doing = |error| classify("reading what was sent", error);
    let columns = table.columns_of("o");
    let sql = format!(
        "/* outboxd: replay_page */ select {selected} from {outbox} as o not indexed
         where {id} > ?6 and {id} <= ?7 and {meant} order by {id} limit ?5",
        selected = columns.selected(),
        outbox = table.outbox(),
        id = columns.id,
        meant = meant(table, settle)
    );
    let after = operation.progress.done_to;
    let last = operation.last_id.min(after.saturating_add(IDS_PER_PAGE));
    let most = i64::try_from(limit.records).unwrap_or(i64::MAX);
    let query = bind_meant(sqlx::query(AssertSqlSafe(sql)), &operation.replay).bind(most).bind(after).bind(last);
    let (mut reader, mut filling, mut read) = (Rows::new(limit.bytes), Filling::of(limit), Vec::new());
    let mut rows = query.fetch(&mut *connection);
    let (mut done_to, mut is_cut) = (after, false);
    while let Some(row) = rows.try_next().await.map_err(doing)? {
        let content = reader.read(&row)?;
        if filling.take(content.footprint()) == Fit::Full {
            is_cut = true;
            break;
        }
        done_to = content.id();
        read.push(content);
    }
    drop(rows);
    if !is_cut && read.len() < limit.records {
        done_to = last;
    }
    let (mut page, columns) = (ReplayPage { done_to, ..ReplayPage::default() }, table.columns());
    for content in read {
        match content.load(connection, &table.outbox(), &columns).await? {
            Some(Ok(record)) => page.records.push(record),
            Some(Err(unreadable)) => page.unreadable.push(unreadable),
            None => {}
        }
    }
    Ok(page)
}

/// Notes how far an operation is. Returns whether it still runs.
pub(crate) async fn note_progress(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    term: Term,
    id: i64,
    OperationProgress { done_to, sent, refused, problem, is_done }: &OperationProgress,
) -> Result<bool, StoreError> {
    let doing = |error| classify("noting how far an operation is", error);
    let leads = format!("/* outboxd: is_leaders */ select count(*) from {} where term = ?", table.lease());
    let note = format!(
        "/* outboxd: note_progress */ update {} set done_to = ?2, sent = ?3, refused = ?4, problem = ?5,
             state = case when ?6 then 'done' else state end,
             ended_at = case when ?6 then strftime('%Y-%m-%dT%H:%M:%fZ', 'now') end
         where id = ?1 and state = 'running'",
        table.operation()
    );
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let leads = sqlx::query_scalar::<_, i64>(AssertSqlSafe(leads)).bind(term.0).fetch_one(&mut *transaction).await;
    if leads.map_err(doing)? == 0 {
        return Err(StoreError::TermOver { term });
    }
    let query = sqlx::query(AssertSqlSafe(note)).bind(id).bind(done_to).bind(count(*sent)).bind(count(*refused));
    let noted = query.bind(problem).bind(is_done).execute(&mut *transaction).await.map_err(doing)?.rows_affected();
    transaction.commit().await.map_err(doing)?;
    Ok(noted > 0 && !is_done)
}
