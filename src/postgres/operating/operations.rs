//! Operations: sending rows again.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, Row};

use crate::contract::{ReplayPage, StoreError};
use crate::outbox::{
    Intent, Limit, Operation, OperationProgress, OperationState, Replay, Replayable, Settle, Term, UnknownWord,
};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::operating::audit_log::{audited, bind_intent, change};
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::page;
use crate::postgres::reading::rows::Page;
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint;
use crate::postgres::table::{Columns, OutboxTable};

/// Ids that one statement looks through at most: some milliseconds, whatever share of them is meant.
const IDS_PER_PAGE: i64 = 10_000;

const COLUMNS: &str = "id, topic, key, since, until, to_topic, rate, state, asked_at, ended_at, reason, actor, \
     from_id, last_id, done_to, sent, refused, problem";

/// What a replay would send now.
pub(crate) async fn replayable(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    replay: &Replay,
    look_at: u64,
) -> Result<Replayable, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let columns = table.columns();
    let Columns { id, created_at, .. } = &columns;
    let text = format!(
        "/* outboxd: replayable */
         with looked_at as materialized (
             select {created_at}, {meant} as is_meant from {outbox} order by {id} desc limit $5
         )
         select count(*) filter (where is_meant), min({created_at}) filter (where is_meant),
             max({created_at}) filter (where is_meant), count(*),
             (select {created_at} from {outbox} order by {id} limit 1)
         from looked_at",
        meant = meant(&columns),
        outbox = table.outbox()
    );
    let statement = bind_meant(sqlx::query(sql(text)), replay);
    let look_at = i64::try_from(look_at).unwrap_or(i64::MAX);
    let statement = statement.bind(look_at).bind(Holds::new(&stored.held).to_told_json().map(Json));
    let statement = told::bind(statement, stored.settling(settle));
    let doing = "looking for what was sent";
    let row = ask(doing, statement.fetch_one(conn)).await?;
    let read = || -> Result<_, sqlx::Error> {
        let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = (row.try_get(1)?, row.try_get(2)?);
        Ok(Replayable {
            rows: row.try_get::<i64, _>(0)?.unsigned_abs(),
            is_floor: row.try_get::<i64, _>(3)? >= look_at,
            written: first.zip(last),
            oldest_kept: row.try_get(4)?,
        })
    };
    read().map_err(|error| classify(doing, error))
}

/// The condition on a row that it was sent, and is meant by a replay. Its parameters are those of [`bind_meant`], the lanes
/// that are held as `$6`, and the position that settles rows from `$7` on.
fn meant(columns: &Columns) -> String {
    let Columns { topic, key, created_at, sent_at, .. } = columns;
    format!(
        "({topic} = $1 and ($2::text is null or {key} = $2) and ($3::timestamptz is null or {created_at} >= $3)
             and ($4::timestamptz is null or {created_at} < $4)
             and ({sent_at} is not null or not {left} and {is_read}))",
        left = left_to_a_lane(columns, "$6"),
        is_read = told::is_read(columns, 7)
    )
}

fn bind_meant<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    Replay { topic, key, since, until, .. }: &'q Replay,
) -> Query<'q, Postgres, PgArguments> {
    statement.bind(topic).bind(key).bind(since).bind(until)
}

/// Asks for a replay.
pub(crate) async fn start_replay(
    conn: &mut PgConnection,
    table: &OutboxTable,
    replay: &Replay,
    intent: &Intent,
) -> Result<i64, StoreError> {
    let Columns { id, .. } = table.columns();
    let text = format!(
        "/* outboxd: start_replay */
         with ids as (select coalesce(min({id}) - 1, 0) as from_id, coalesce(max({id}), 0) as last_id from {outbox}),
         started as (
             insert into {operation} (topic, key, since, until, to_topic, rate, from_id, last_id, done_to, reason, actor)
             select $1, $2, $3, $4, $5, $6, from_id, last_id, from_id, $9, $10 from ids returning id
         ),
         noted as (
             insert into {audit_log} (command, subject, reason, actor, affected)
             select $7, $8, $9, $10, count(*) from started
         )
         select id from started",
        outbox = table.outbox(),
        operation = table.operation(),
        audit_log = table.audit_log()
    );
    let statement = bind_meant(sqlx::query(sql(text)), replay);
    let rate = i32::try_from(replay.rate).unwrap_or(i32::MAX);
    let statement = bind_intent(statement.bind(&replay.to_topic).bind(rate), intent);
    Ok(ask("asking for a replay", statement.fetch_one(conn)).await?.get(0))
}

/// The latest operations.
pub(crate) async fn list(
    conn: &mut PgConnection,
    table: &OutboxTable,
    limit: u32,
) -> Result<Vec<Operation>, StoreError> {
    let text =
        format!("/* outboxd: operations */ select {COLUMNS} from {} order by id desc limit $1", table.operation());
    let rows = sqlx::query(sql(text)).bind(i64::from(limit)).fetch_all(conn);
    ask("listing operations", rows).await?.iter().map(operation).collect()
}

/// The operation that runs.
pub(crate) async fn next(conn: &mut PgConnection, table: &OutboxTable) -> Result<Option<Operation>, StoreError> {
    let text = format!(
        "/* outboxd: next_operation */ select {COLUMNS} from {} where state = 'running' order by id limit 1",
        table.operation()
    );
    let row = ask("looking for operations", sqlx::query(sql(text)).fetch_optional(conn)).await?;
    row.as_ref().map(operation).transpose()
}

fn operation(row: &PgRow) -> Result<Operation, StoreError> {
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
    conn: &mut PgConnection,
    table: &OutboxTable,
    id: i64,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let text = format!(
        "update {} set state = 'cancelled', ended_at = clock_timestamp() where id = $1 and state = 'running' returning 1",
        table.operation()
    );
    let statement = sqlx::query(sql(audited("cancel_operation", table, &text, 2))).bind(id);
    Ok(change(conn, "cancelling an operation", bind_intent(statement, intent)).await? > 0)
}

/// The next rows that an operation sends again.
pub(crate) async fn replay_page(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    operation: &Operation,
    limit: Limit,
) -> Result<ReplayPage, StoreError> {
    let doing = "reading what was sent";
    let stored = checkpoint::load(conn, table).await?;
    let columns = table.columns();
    let text = format!(
        "/* outboxd: replay_page */ select null::text, {selected} from {outbox}
         where {id} > $12 and {id} <= $13 and {meant} order by {id} limit $5",
        selected = columns.selected(),
        outbox = table.outbox(),
        id = columns.id,
        meant = meant(&columns)
    );
    let after = operation.progress.done_to;
    let last = operation.last_id.min(after.saturating_add(IDS_PER_PAGE));
    let statement = bind_meant(sqlx::query(sql(text)), &operation.replay);
    let statement = statement.bind(i64::try_from(limit.records).unwrap_or(i64::MAX));
    let statement = statement.bind(Holds::new(&stored.held).to_told_json().map(Json));
    let statement = told::bind(statement, stored.settling(settle)).bind(after).bind(last);
    let mut page = Page::new(limit, limit.bytes);
    let mut rows = statement.fetch(&mut *conn);
    while let Some(row) = ask(doing, rows.try_next()).await? {
        page.take(&row, |_| false)?;
    }
    drop(rows);
    let done_to = page.last_id().filter(|_| page.is_full()).unwrap_or(last);
    page::load_wide(conn, &table.outbox(), &columns, &mut page).await?;
    Ok(ReplayPage { records: page.records, unreadable: page.unreadable, done_to })
}

/// Notes how far an operation is. Returns whether it still runs.
pub(crate) async fn note_progress(
    conn: &mut PgConnection,
    table: &OutboxTable,
    term: Term,
    id: i64,
    OperationProgress { done_to, sent, refused, problem, is_done }: &OperationProgress,
) -> Result<bool, StoreError> {
    let text = format!(
        "/* outboxd: note_progress */
         with leads as materialized (select from {lease} where term = $1),
         noted as (
             update {operation} set done_to = $3, sent = $4, refused = $5, problem = $6,
                 state = case when $7 then 'done' else state end, ended_at = case when $7 then clock_timestamp() end
             from leads where id = $2 and state = 'running' returning state
         )
         select exists (select from leads), exists (select from noted where state = 'running')",
        lease = table.lease(),
        operation = table.operation()
    );
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let statement = sqlx::query(sql(text)).bind(term.0).bind(id).bind(done_to).bind(count(*sent)).bind(count(*refused));
    let row = ask("noting how far an operation is", statement.bind(problem).bind(is_done).fetch_one(conn)).await?;
    if row.get::<bool, _>(0) { Ok(row.get(1)) } else { Err(StoreError::TermOver { term }) }
}
