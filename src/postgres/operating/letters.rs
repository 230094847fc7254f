//! Moving single messages, as operators ask: back from the dead letters, out of these, and to them.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::contract::{Overtaken, RowName, SEARCHED_ROWS, StoreError};
use crate::outbox::{DeadLetter, Held, Intent, SKIPPED, Settle};
use crate::postgres::errors::{classify, not_now};
use crate::postgres::leading::lease;
use crate::postgres::operating::audit_log::{self, audited, bind_intent};
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint;
use crate::postgres::settling::dead;
use crate::postgres::settling::held;
use crate::postgres::table::{Columns, OutboxTable};

/// Of these letters' lanes, how many have later rows that were sent: each lane by a hash of its name, since keys may be large.
pub(crate) async fn overtaken(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    letters: &[RowName],
) -> Result<Overtaken, StoreError> {
    let doing = "looking for later messages of the lanes";
    let text = format!(
        "/* outboxd: lanes_of_letters */ select hashtextextended({lane}, 0), min(id) from {dead}
         where id = any($1) and {lane} is not null group by 1",
        lane = Columns::of_dead().lane(),
        dead = table.dead()
    );
    let statement = sqlx::query_as::<_, (i64, i64)>(sql(text)).bind(ids(letters));
    let lanes: HashMap<i64, i64> = ask(doing, statement.fetch_all(&mut *conn)).await?.into_iter().collect();
    let Some(lowest) = lanes.values().min() else { return Ok(Overtaken::default()) };
    let stored = checkpoint::load(conn, table).await?;
    let columns = table.columns();
    let Columns { id, sent_at, .. } = &columns;
    let text = format!(
        "/* outboxd: later_of_lanes */
         select {id}, case when {sent_at} is not null or not {left} and {is_read} then hashtextextended({lane}, 0) end
         from {outbox} where {id} > $1 order by {id} limit {SEARCHED_ROWS}",
        left = left_to_a_lane(&columns, "$2"),
        is_read = told::is_read(&columns, 3),
        lane = columns.lane(),
        outbox = table.outbox()
    );
    let held = Holds::new(&stored.held).to_told_json().map(Json);
    let statement = told::bind(sqlx::query(sql(text)).bind(lowest).bind(held), stored.settling(settle));
    let rows = ask(doing, statement.fetch_all(&mut *conn)).await?;
    let lane_that_went_on = |row: &PgRow| {
        let (id, lane) = (row.get::<i64, _>(0), row.get::<Option<i64>, _>(1)?);
        lanes.get(&lane).filter(|letter| id > **letter).map(|_| lane)
    };
    let gone_on: HashSet<i64> = rows.iter().filter_map(lane_that_went_on).collect();
    // Rows that are not there any more may have been sent.
    let text = format!("/* outboxd: is_older */ select exists (select from {} where {id} < $1)", table.outbox());
    let is_whole = sqlx::query_scalar::<_, bool>(sql(text)).bind(lowest).fetch_one(&mut *conn);
    let is_whole = ask(doing, is_whole).await? && settle != Settle::Delete;
    let is_floor = !is_whole || rows.len() >= SEARCHED_ROWS as usize;
    Ok(Overtaken { lanes: gone_on.len() as u64, is_floor })
}

/// Puts letters back. A function that belongs to the outbox's owner does it, so that no role that may call it can write
/// anything else into the outbox.
pub(crate) async fn requeue(
    conn: &mut PgConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let change = format!("select id from {}($1::bigint[], $2::uuid[]) as requeued (id)", table.beside("_requeue"));
    let statement = sqlx::query(sql(audited("requeue", table, &change, 3))).bind(ids(letters)).bind(event_ids(letters));
    audit_log::change(conn, "putting dead letters back", bind_intent(statement, intent)).await
}

/// Deletes letters, but for those that another session has locked.
pub(crate) async fn discard(
    conn: &mut PgConnection,
    table: &OutboxTable,
    letters: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let change = format!(
        "delete from {dead} d using (
             select d.id, d.event_id from {dead} d join unnest($1::bigint[], $2::uuid[]) as given (id, event_id)
                 on d.id = given.id and d.event_id = given.event_id
             order by d.id, d.event_id for update of d skip locked
         ) free where d.id = free.id and d.event_id = free.event_id returning d.id",
        dead = table.dead()
    );
    let statement = sqlx::query(sql(audited("discard", table, &change, 3))).bind(ids(letters)).bind(event_ids(letters));
    audit_log::change(conn, "deleting dead letters", bind_intent(statement, intent)).await
}

/// Gives up rows that wait and are certainly not in flight. The rows are locked first and the lease last, so that no renewal
/// waits with us for anybody else.
pub(crate) async fn skip(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    rows: &[RowName],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = "giving messages up";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    let is_led = lease::leader(&mut transaction, table).await?.is_some();
    let kept_back = if is_led { kept_back(&mut transaction, table).await? } else { Vec::new() };
    let waiting = waiting(&mut transaction, table, settle, rows, is_led.then_some(&*kept_back)).await?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let letter = |name: &RowName| DeadLetter {
        id: name.id,
        event_id: name.event_id,
        code: SKIPPED.to_owned(),
        message: intent.reason.clone().unwrap_or_default(),
        topic: None,
    };
    let letters: Vec<DeadLetter> = waiting.iter().map(letter).collect();
    dead::dead_letter(&mut transaction, table, &letters).await?;
    audit_log::note(&mut transaction, table, intent, letters.len() as u64).await?;
    if !is_led {
        refuse_leader(&mut transaction, table).await?;
    }
    transaction.commit().await.map_err(|error| classify(doing, error))?;
    Ok(letters.len() as u64)
}

/// The lanes that wait for an operator, which stay so until this transaction ends: a release that is asked for waits for it.
async fn kept_back(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let text = format!(
        "/* outboxd: lanes_kept_back */ select topic, key, partition, from_id, cause, since, after_position from {}
         where cause = 'rejected' and not release_requested and not settled for share skip locked",
        table.held()
    );
    let rows = ask("looking for held lanes", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| held::read_held(row, 0)).collect()
}

/// Locks those of the rows that wait, and are left to one of the lanes, or to any or none where no lanes are given.
async fn waiting(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    rows: &[RowName],
    lanes: Option<&[Held]>,
) -> Result<Vec<RowName>, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let o = table.columns_of("o");
    let wanted = match lanes {
        Some(_) => left_to_a_lane(&o, "$3"),
        None => format!("({} or not {})", left_to_a_lane(&o, "$3"), told::is_read(&o, 4)),
    };
    let text = format!(
        "/* outboxd: waiting */ select {id}, {event_id}
         from unnest($1::bigint[], $2::uuid[]) as given (id, event_id) join {outbox} o
             on {id} = given.id and {event_id} is not distinct from given.event_id
         where {unsent} and {wanted} order by {id} for update of o skip locked",
        id = o.id,
        event_id = o.event_id,
        outbox = table.outbox(),
        unsent = o.unsent()
    );
    let holds = Holds::new(lanes.unwrap_or(&stored.held)).to_told_json().map(Json);
    let statement = sqlx::query(sql(text)).bind(ids(rows)).bind(event_ids(rows)).bind(holds);
    let found = told::bind(statement, stored.settling(settle)).fetch_all(conn);
    let found = ask("looking for what waits", found).await?;
    Ok(found.iter().map(|row| RowName { id: row.get(0), event_id: row.get(1) }).collect())
}

/// Makes sure that nobody leads until this transaction has ended.
async fn refuse_leader(conn: &mut PgConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let text = format!("/* outboxd: share_lease */ select from {} for share", table.lease());
    ask("looking who leads", sqlx::query(sql(text)).execute(&mut *conn)).await?;
    match lease::leader(conn, table).await? {
        None => Ok(()),
        Some(_) => Err(not_now("giving messages up", "a relay leads by now: what waits may be in flight")),
    }
}

fn ids(names: &[RowName]) -> Vec<i64> {
    names.iter().map(|name| name.id).collect()
}

fn event_ids(names: &[RowName]) -> Vec<Option<Uuid>> {
    names.iter().map(|name| name.event_id).collect()
}
