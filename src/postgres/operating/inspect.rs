//! Looking at the table: how much waits, how old it is, and whether anything was forgotten. Every statement looks at
//! a bounded number of rows, whatever the table holds.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use crate::contract::{Backlog, StoreError, TopicBacklog};
use crate::outbox::Settle;
use crate::postgres::reading::holds::{Holds, left_to_a_lane, not_held};
use crate::postgres::reading::position::{ReadPosition, Snapshot};
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint::{self, Stored};
use crate::postgres::table::{Columns, OutboxTable};
use crate::postgres::xid::Xid;

/// Rows that a walk looks at beyond those it may count.
const ROWS_BEYOND_COUNT: u64 = 50_000;

/// Rows that one call looks at in search of forgotten ones.
const ROWS_PER_SWEEP: i64 = 5_000;

/// How far the round is that looks for forgotten rows, a bite a call: the last id that was looked at.
#[derive(Debug)]
pub(crate) struct Sweep(i64);

impl Default for Sweep {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

/// Some rows that wait: how many, for how long, whether there may be more, and the topics that wait longest.
struct Waiting {
    rows: u64,
    oldest: Duration,
    cut: bool,
    topics: Vec<TopicBacklog>,
}

/// What waits: rows above the stored position, and rows of held lanes.
pub(crate) async fn backlog(
    conn: &mut PgConnection,
    table: &OutboxTable,
    count_limit: u64,
) -> Result<Backlog, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let holds = Holds::new(&stored.held);
    let mut waiting = Vec::new();
    match &stored.at {
        None => waiting.push(count_walked(conn, table, &ReadPosition::default(), &holds, i64::MIN, count_limit).await?),
        Some(at) => {
            waiting.push(count_new(conn, table, at.boundary(), &holds, count_limit).await?);
            if let Some(frozen) = &at.frozen {
                waiting.push(count_walked(conn, table, at, &holds, frozen.last, count_limit).await?);
            }
        }
    }
    if let Some(lowest) = holds.lowest() {
        waiting.push(count_held(conn, table, &holds, lowest, count_limit).await?);
    }
    let (dead_letters, oldest_snapshot, sessions) = look_beside(conn, table, count_limit).await?;
    let rows: u64 = waiting.iter().map(|waiting| waiting.rows).sum();
    Ok(Backlog {
        unsent: rows.min(count_limit),
        capped: rows >= count_limit || waiting.iter().any(|waiting| waiting.cut),
        oldest: waiting.iter().map(|waiting| waiting.oldest).max().unwrap_or_default(),
        topics: TopicBacklog::longest(waiting.into_iter().flat_map(|waiting| waiting.topics)),
        oldest_snapshot: Some(oldest_snapshot),
        sessions: Some(sessions),
        dead_letters,
    })
}

/// Brings back rows that became due behind the reader, and says how many they were.
pub(crate) async fn bring_back_late(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    sweep: &mut Sweep,
) -> Result<u64, StoreError> {
    if settle == Settle::Checkpoint {
        // Nothing tells a row that was read from one that became due since.
        return Ok(0);
    }
    let stored = checkpoint::load(conn, table).await?;
    stamp_late(conn, table, &stored, &Holds::new(&stored.held), stored.settling(settle), sweep).await
}

/// What is looked at of rows to count them: those that are `wanted` wait. No topic is longer than Kafka takes.
fn looked_at(columns: &Columns, wanted: &str) -> String {
    let Columns { topic, created_at, .. } = columns;
    format!("left(coalesce({topic}, ''), 250) as topic, {created_at} as created_at, {wanted} as wanted")
}

/// The statement that counts `rows`, in all, which comes first, and by topic. `cut` says whether there may be more.
fn counted(name: &str, rows: &str, cut: &str) -> String {
    format!(
        "/* outboxd: {name} */
         select count(*) filter (where wanted),
             extract(epoch from clock_timestamp() - min(created_at) filter (where wanted and isfinite(created_at)))::float8,
             {cut}, topic
         from ({rows}) looked_at
         group by grouping sets ((), (topic)) having grouping(topic) = 1 or count(*) filter (where wanted) > 0
         order by grouping(topic) desc, min(created_at) filter (where wanted), topic limit 1 + {most}",
        most = TopicBacklog::MOST
    )
}

/// Rows that were not visible in a snapshot, led by the index on xid.
async fn count_new(
    conn: &mut PgConnection,
    table: &OutboxTable,
    snapshot: &Snapshot,
    holds: &Holds,
    count_limit: u64,
) -> Result<Waiting, StoreError> {
    let columns = table.columns();
    let Columns { xid, .. } = &columns;
    let unsent = columns.unsent();
    let looked_at = looked_at(&columns, "true");
    let rows = format!(
        "(select {looked_at} from {outbox} where {xid} >= $1 and {unsent} and {free} limit $3)
         union all
         (select {looked_at} from {outbox} where {xid} = any($2) and {xid} < $1 and {unsent} and {free} limit $3)",
        outbox = table.outbox(),
        free = not_held(&columns, "$4")
    );
    let text = counted("count_new", &rows, "false");
    let statement = sqlx::query(sql(text)).bind(Xid(snapshot.xmax)).bind(Xid::all(&snapshot.open));
    let statement = statement.bind(rows_of(count_limit)).bind(holds.to_json().map(Json));
    ask("counting new rows", statement.fetch_all(conn)).await.map(|rows| waiting(&rows))
}

/// The rest of a frozen window, walked by id.
async fn count_walked(
    conn: &mut PgConnection,
    table: &OutboxTable,
    at: &ReadPosition,
    holds: &Holds,
    after: i64,
    count_limit: u64,
) -> Result<Waiting, StoreError> {
    let columns = table.columns();
    let Columns { id, xid, .. } = &columns;
    let wanted = format!(
        "{unsent} and ({xid} >= $3 or {xid} = any($4)) and {free}
         and ($5::text is null or pg_visible_in_snapshot({xid}, (select $5::text::pg_snapshot)))",
        unsent = columns.unsent(),
        free = not_held(&columns, "$6")
    );
    let rows = format!(
        "select {looked_at} from (select * from {outbox} where {id} > $1 order by {id} limit $2) walked",
        looked_at = looked_at(&columns, &wanted),
        outbox = table.outbox()
    );
    let text = counted("count_walked", &rows, "count(*) = $2");
    let statement = sqlx::query(sql(text))
        .bind(after)
        .bind(rows_of(count_limit.saturating_add(ROWS_BEYOND_COUNT)))
        .bind(Xid(at.prev.xmax))
        .bind(Xid::all(&at.prev.open))
        .bind(at.frozen.as_ref().map(|frozen| frozen.cur.to_string()))
        .bind(holds.to_json().map(Json));
    ask("counting rows", statement.fetch_all(conn)).await.map(|rows| waiting(&rows))
}

/// Rows of held lanes, walked from the lowest that is held.
async fn count_held(
    conn: &mut PgConnection,
    table: &OutboxTable,
    holds: &Holds,
    lowest: i64,
    count_limit: u64,
) -> Result<Waiting, StoreError> {
    let columns = table.columns();
    let Columns { id, .. } = &columns;
    let wanted = format!("{} and {}", columns.unsent(), left_to_a_lane(&columns, "$3"));
    let rows = format!(
        "select {looked_at} from (select * from {outbox} where {id} >= $1 order by {id} limit $2) walked",
        looked_at = looked_at(&columns, &wanted),
        outbox = table.outbox()
    );
    let text = counted("count_held", &rows, "count(*) = $2");
    let statement = sqlx::query(sql(text)).bind(lowest).bind(rows_of(count_limit.saturating_add(ROWS_BEYOND_COUNT)));
    let statement = statement.bind(holds.to_told_json().map(Json));
    ask("counting held rows", statement.fetch_all(conn)).await.map(|rows| waiting(&rows))
}

/// Looks for rows that are due and that no window will ever show, gives them the current transaction's id, so that the
/// next one does, and says how many they were. A trigger stamps them when a mark is cleared that they do not bear, so that the
/// relay needs no right to change an id. They are those that the stored position calls read, or whose transaction
/// id is still to come, and that are neither settled nor held: an operator who corrects, restores or moves rows back by
/// hand leaves such rows where no trigger sees it.
async fn stamp_late(
    conn: &mut PgConnection,
    table: &OutboxTable,
    stored: &Stored,
    holds: &Holds,
    settling: Option<&ReadPosition>,
    Sweep(after): &mut Sweep,
) -> Result<u64, StoreError> {
    let Some(at) = stored.at.as_ref().filter(|at| !at.prev.is_nothing()) else { return Ok(0) };
    let columns = table.columns();
    let Columns { id, xid, sent_at, .. } = &columns;
    let unsent = columns.unsent();
    let text = format!(
        "/* outboxd: stamp_late */
         with looked_at as materialized (
             select {id}, {unsent} and not {left} and not {is_settled}
                 and (not ({xid} >= $3 or {xid} = any($4)) or {xid} >= (select pg_snapshot_xmax(pg_current_snapshot()))) as is_late
             from {outbox} where {id} > $1 order by {id} limit $2
         ),
         late as materialized (
             select {id} from {outbox} where {id} = any(array(select {id} from looked_at where is_late)) for update skip locked
         ),
         stamped as (
             update {outbox} set {sent_at} = null
             where {id} = any(array(select {id} from late)) and {unsent} returning {id}
         )
         select (select count(*) from stamped), count(*), max({id}) from looked_at",
        outbox = table.outbox(),
        left = left_to_a_lane(&columns, "$5"),
        is_settled = told::is_read(&columns, 6)
    );
    let statement = sqlx::query(sql(text))
        .bind(*after)
        .bind(ROWS_PER_SWEEP)
        .bind(Xid(at.prev.xmax))
        .bind(Xid::all(&at.prev.open))
        .bind(holds.to_told_json().map(Json));
    let row = ask("looking for forgotten rows", told::bind(statement, settling).fetch_one(conn)).await?;
    let last = row.get::<Option<i64>, _>(2).filter(|_| row.get::<i64, _>(1) >= ROWS_PER_SWEEP);
    *after = last.unwrap_or(i64::MIN);
    Ok(row.get::<i64, _>(0).unsigned_abs())
}

/// Age of the oldest snapshot that keeps vacuum from this database's rows, as far as the role may see it.
const OLDEST_SNAPSHOT: &str = "
    select extract(epoch from clock_timestamp() - min(since))::float8 from (
        select xact_start as since from pg_catalog.pg_stat_activity
        where datname = current_database() and (backend_xmin is not null or backend_xid is not null)
            and pid <> pg_backend_pid()
        union all
        select prepared from pg_catalog.pg_prepared_xacts where database = current_database()
    ) holding";

/// The age of the oldest snapshot.
pub(crate) async fn oldest_snapshot(conn: &mut PgConnection) -> Result<Duration, StoreError> {
    let text = format!("/* outboxd: oldest_snapshot */ {OLDEST_SNAPSHOT}");
    let age = sqlx::query_scalar::<_, Option<f64>>(sql(text)).fetch_one(conn);
    ask("looking for old snapshots", age).await.map(seconds)
}

/// Sessions that relays of this role have in this database: also those that a relay has given up, and the server not yet.
const SESSIONS: &str = "
    select count(*) from pg_catalog.pg_stat_activity
    where datname = current_database() and usename = current_user and application_name like 'outboxd/%'";

/// What is seen beside the table: how many dead letters there are, up to a limit, the age of the oldest snapshot, and the
/// relays' sessions.
async fn look_beside(
    conn: &mut PgConnection,
    table: &OutboxTable,
    limit: u64,
) -> Result<(u64, Duration, u64), StoreError> {
    let text = format!(
        "/* outboxd: look_beside */
         select (select count(*) from (select from {dead} limit $1) dead), ({OLDEST_SNAPSHOT}), ({SESSIONS})",
        dead = table.dead()
    );
    let seen = sqlx::query_as::<_, (i64, Option<f64>, i64)>(sql(text)).bind(rows_of(limit)).fetch_one(conn);
    let (dead_letters, age, sessions) = ask("counting dead letters", seen).await?;
    Ok((dead_letters.unsigned_abs(), seconds(age), sessions.unsigned_abs()))
}

fn waiting(counted: &[PgRow]) -> Waiting {
    let rows = |row: &PgRow| row.get::<i64, _>(0).unsigned_abs();
    let topic = |row: &PgRow| TopicBacklog { topic: row.get(3), unsent: rows(row), oldest: seconds(row.get(1)) };
    let (all, topics) = counted.split_first().expect("the whole is a group too, of however many rows");
    let topics = topics.iter().map(topic).collect();
    Waiting { rows: rows(all), oldest: seconds(all.get(1)), cut: all.get(2), topics }
}

/// Clocks of writers and infinite timestamps can make an age negative or too large to tell.
pub(super) fn seconds(age: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(age.unwrap_or_default().max(0.0)).unwrap_or(Duration::ZERO)
}

fn rows_of(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
