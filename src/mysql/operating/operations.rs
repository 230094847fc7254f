//! Operations: sending rows again.

use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};

use crate::contract::{ReplayPage, StoreError};
use crate::mysql::errors::{classify, incompatible};
use crate::mysql::operating::audit_log;
use crate::mysql::operating::purge::is_leaders;
use crate::mysql::reading::holds::{bytes, covered};
use crate::mysql::reading::position::is_read;
use crate::mysql::reading::rows::Rows;
use crate::mysql::session::{ask, sql};
use crate::mysql::settling::checkpoint::{self, Stored};
use crate::mysql::table::{Columns, OutboxTable};
use crate::mysql::values;
use crate::outbox::{
    Intent, Limit, Operation, OperationProgress, OperationState, Replay, Replayable, Settle, Term, UnknownWord,
};
use crate::reading::{Filling, Fit};

/// Ids that one statement looks through at most: some milliseconds, whatever share of them is meant.
const IDS_PER_PAGE: i64 = 10_000;

const COLUMNS: &str = "id, topic, `key`, since, until, to_topic, rate, state, asked_at, ended_at, reason, actor, \
     from_id, last_id, done_to, sent, refused, problem";

/// What a replay would send now.
pub(crate) async fn replayable(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    replay: &Replay,
    look_at: u64,
) -> Result<Replayable, StoreError> {
    let doing = "looking for what was sent";
    let stored = checkpoint::load(conn, table).await?;
    let columns = table.columns();
    let Columns { id, created_at, .. } = &columns;
    let text = format!(
        "/* outboxd: replayable */
         select count(case when is_meant then 1 end), min(case when is_meant then written end),
             max(case when is_meant then written end), count(*),
             (select {written} from {outbox} force index (primary) order by {id} limit 1)
         from (
             select {written} as written, {meant} as is_meant
             from {outbox} force index (primary) order by {id} desc limit {look_at}
         ) looked_at",
        written = values::micros(created_at),
        meant = meant(&columns, &stored, settle, replay),
        outbox = table.outbox()
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    let read = || -> Result<_, sqlx::Error> {
        let (first, last) = (values::read_time(&row, 1)?, values::read_time(&row, 2)?);
        Ok(Replayable {
            rows: row.try_get::<i64, _>(0)?.unsigned_abs(),
            is_floor: row.try_get::<i64, _>(3)?.unsigned_abs() >= look_at,
            written: first.zip(last),
            oldest_kept: values::read_time(&row, 4)?,
        })
    };
    read().map_err(|error| classify(doing, error))
}

/// The condition on a row that it was sent, and is meant by a replay.
fn meant(columns: &Columns, stored: &Stored, settle: Settle, replay: &Replay) -> String {
    let Columns { id, topic, key, created_at, .. } = columns;
    let Replay { topic: its_topic, key: its_key, since, until, .. } = replay;
    let conditions = [
        Some(format!("{topic} <=> {}", bytes(its_topic))),
        its_key.as_ref().map(|its_key| format!("{key} <=> {}", bytes(its_key))),
        since.map(|since| format!("{created_at} >= {}", values::time(since))),
        until.map(|until| format!("{created_at} < {}", values::time(until))),
        Some(format!(
            "({sent} or not {covered} and {is_read})",
            sent = columns.sent(),
            covered = covered(&stored.held, columns),
            is_read = is_read(stored.settling(settle), id)
        )),
    ];
    format!("coalesce({}, 0)", conditions.into_iter().flatten().collect::<Vec<_>>().join(" and "))
}

/// Asks for a replay.
pub(crate) async fn start_replay(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    Replay { topic, key, since, until, to_topic, rate }: &Replay,
    intent: &Intent,
) -> Result<i64, StoreError> {
    let doing = "asking for a replay";
    let text = format!(
        "/* outboxd: start_replay */
         insert into {operation} (topic, `key`, since, until, to_topic, rate, reason, actor, from_id, last_id, done_to)
         select ?, ?, ?, ?, ?, ?, ?, ?, coalesce(min({id}) - 1, 0), coalesce(max({id}), 0), coalesce(min({id}) - 1, 0)
         from {outbox}",
        operation = table.operation(),
        id = table.columns().id,
        outbox = table.outbox()
    );
    let mut transaction = ask(doing, conn.begin()).await?;
    let query =
        sqlx::query(sql(text)).bind(topic).bind(key).bind(since).bind(until).bind(to_topic).bind(i64::from(*rate));
    let query = query.bind(&intent.reason).bind(&intent.actor);
    let id = ask(doing, query.execute(&mut *transaction)).await?.last_insert_id().cast_signed();
    audit_log::note(&mut transaction, table, intent, 1).await?;
    ask(doing, transaction.commit()).await?;
    Ok(id)
}

/// The latest operations.
pub(crate) async fn list(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<Operation>, StoreError> {
    let text =
        format!("/* outboxd: operations */ select {COLUMNS} from {} order by id desc limit ?", table.operation());
    let rows = ask("listing operations", sqlx::query(sql(text)).bind(limit).fetch_all(conn)).await?;
    rows.iter().map(operation).collect()
}

/// The operation that runs.
pub(crate) async fn next(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Option<Operation>, StoreError> {
    let text = format!(
        "/* outboxd: next_operation */ select {COLUMNS} from {} where state = 'running' order by id limit 1",
        table.operation()
    );
    let row = ask("looking for operations", sqlx::query(sql(text)).fetch_optional(conn)).await?;
    row.as_ref().map(operation).transpose()
}

fn operation(row: &MySqlRow) -> Result<Operation, StoreError> {
    let read = || -> Result<(Operation, String), sqlx::Error> {
        let replay = Replay {
            topic: row.try_get(1)?,
            key: row.try_get(2)?,
            since: row.try_get(3)?,
            until: row.try_get(4)?,
            to_topic: row.try_get(5)?,
            rate: row.try_get::<i32, _>(6)?.unsigned_abs(),
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
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    id: i64,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let doing = "cancelling an operation";
    let text = format!(
        "/* outboxd: cancel_operation */ update {} set state = 'cancelled', ended_at = utc_timestamp(6)
         where id = ? and state = 'running'",
        table.operation()
    );
    let mut transaction = ask(doing, conn.begin()).await?;
    let cancelled = ask(doing, sqlx::query(sql(text)).bind(id).execute(&mut *transaction)).await?.rows_affected();
    audit_log::note(&mut transaction, table, intent, cancelled).await?;
    ask(doing, transaction.commit()).await?;
    Ok(cancelled > 0)
}

/// The next rows that an operation sends again.
pub(crate) async fn replay_page(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    operation: &Operation,
    limit: Limit,
) -> Result<ReplayPage, StoreError> {
    let doing = "reading what was sent";
    let stored = checkpoint::load(conn, table).await?;
    let columns = table.columns();
    let after = operation.progress.done_to;
    let last = operation.last_id.min(after.saturating_add(IDS_PER_PAGE));
    let text = format!(
        "/* outboxd: replay_page */ select {selected} from {outbox} force index (primary)
         where {id} > {after} and {id} <= {last} and {meant} order by {id} limit {most}",
        selected = columns.selected(),
        outbox = table.outbox(),
        id = columns.id,
        meant = meant(&columns, &stored, settle, &operation.replay),
        most = limit.records
    );
    let (mut reader, mut filling, mut read) = (Rows::new(limit.bytes), Filling::of(limit), Vec::new());
    let mut rows = sqlx::raw_sql(sql(text)).fetch(&mut *conn);
    let (mut done_to, mut is_cut) = (after, false);
    while let Some(row) = ask(doing, rows.try_next()).await? {
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
    let mut page = ReplayPage { done_to, ..ReplayPage::default() };
    for content in read {
        match content.load(conn, &table.outbox(), &columns).await? {
            Some(Ok(record)) => page.records.push(record),
            Some(Err(unreadable)) => page.unreadable.push(unreadable),
            None => {}
        }
    }
    Ok(page)
}

/// Notes how far an operation is. Returns whether it still runs.
pub(crate) async fn note_progress(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    term: Term,
    id: i64,
    OperationProgress { done_to, sent, refused, problem, is_done }: &OperationProgress,
) -> Result<bool, StoreError> {
    let doing = "noting how far an operation is";
    let text = format!(
        "/* outboxd: note_progress */ update {} set done_to = ?, sent = ?, refused = ?, problem = ?,
             state = case when ? then 'done' else state end, ended_at = case when ? then utc_timestamp(6) end
         where id = ? and state = 'running'",
        table.operation()
    );
    if !is_leaders(conn, table, term).await? {
        return Err(StoreError::TermOver { term });
    }
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let query = sqlx::query(sql(text)).bind(done_to).bind(count(*sent)).bind(count(*refused)).bind(problem);
    let noted = ask(doing, query.bind(is_done).bind(is_done).bind(id).execute(conn)).await?.rows_affected();
    Ok(noted > 0 && !is_done)
}
