//! The stored held lanes, and requests for their release.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Held, HeldChanges, HeldLane, Intent, Lane, UnknownWord};
use crate::sqlite::errors::{classify, incompatible};
use crate::sqlite::operating::audit_log;
use crate::sqlite::reading::position;
use crate::sqlite::table::OutboxTable;

/// All held lanes, longest held first.
pub(crate) async fn list(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<Vec<HeldLane>, StoreError> {
    let sql = format!(
        "/* outboxd: stored_held */ select topic, key, partition, from_id, cause, since, release_requested from {}
         order by since, from_id",
        table.held()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.map_err(reading)?;
    rows.iter().map(held_lane).collect()
}

fn held_lane(row: &SqliteRow) -> Result<HeldLane, StoreError> {
    let cause: &str = row.try_get(4).map_err(reading)?;
    let unknown =
        |_: UnknownWord| incompatible(format!("a lane is held for {cause:?}"), "run the newer outboxd that wrote this");
    let held = Held {
        lane: lane(row)?,
        from_id: row.try_get(3).map_err(reading)?,
        after: None,
        cause: cause.parse().map_err(unknown)?,
        since: row.try_get(5).map_err(reading)?,
    };
    Ok(HeldLane { held, release_requested: row.try_get(6).map_err(reading)? })
}

fn lane(row: &SqliteRow) -> Result<Lane, StoreError> {
    let (topic, key) = (row.try_get(0).map_err(reading)?, row.try_get(1).map_err(reading)?);
    Ok(Lane::from_columns(topic, key, row.try_get(2).map_err(reading)?))
}

/// The lowest id of what is left of a held lane. One writer at a time commits in the order of the ids, so that a position is
/// an id too, and what it calls read lies below: nothing more need be stored of it.
fn first_left(held: &Held) -> i64 {
    let read_up_to = held.after.as_ref().and_then(|after| position::parse(after).ok());
    read_up_to.map_or(held.from_id, |place| held.from_id.max(place.at.saturating_add(1)))
}

/// How a lane is stored.
pub(crate) fn as_stored(held: &Held) -> Held {
    Held { from_id: first_left(held), after: None, ..held.clone() }
}

/// Changes the stored lanes; a request for release stays with a lane until it was granted and the lane is held anew.
pub(crate) async fn store(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    for lane in &changes.settled {
        forget(connection, table, lane).await?;
    }
    for held in &changes.held {
        remember(connection, table, held).await?;
    }
    Ok(())
}

/// The condition that a stored lane is the one whose columns are `?1` to `?3`, in the terms of the index on lanes.
const IS_GIVEN: &str = "topic = ?1 and (key is null) = (?2 is null) and coalesce(key, '') = coalesce(?2, '') \
     and coalesce(partition, -1) = coalesce(?3, -1)";

/// Deletes a lane of which all is settled. One that is deleted without having been settled is kept: an operator deleted it
/// by hand, and wants it to flow.
async fn forget(connection: &mut SqliteConnection, table: &OutboxTable, lane: &Lane) -> Result<(), StoreError> {
    let held = table.held();
    let settled = format!("/* outboxd: settled_held */ update {held} set settled = 1 where {IS_GIVEN}");
    let forget = format!("/* outboxd: forget_held */ delete from {held} where {IS_GIVEN}");
    for sql in [settled, forget] {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(lane.topic()).bind(lane.key()).bind(lane.partition());
        query.execute(&mut *connection).await.map_err(|error| classify("storing the held lanes", error))?;
    }
    Ok(())
}

async fn remember(connection: &mut SqliteConnection, table: &OutboxTable, held: &Held) -> Result<(), StoreError> {
    let sql = format!(
        "/* outboxd: remember_held */ insert into {} as h (topic, key, partition, from_id, cause, since)
         values (?, ?, ?, ?, ?, ?)
         on conflict (topic, (key is null), coalesce(key, ''), coalesce(partition, -1)) do update
         set from_id = excluded.from_id, cause = excluded.cause, since = excluded.since,
             release_requested = h.release_requested and (h.since = excluded.since or not h.release_granted),
             release_granted = h.release_granted and h.since = excluded.since",
        table.held()
    );
    let Held { lane, from_id, cause, since, .. } = held;
    let query = sqlx::query(AssertSqlSafe(sql)).bind(lane.topic()).bind(lane.key()).bind(lane.partition());
    let query = query.bind(from_id).bind(cause.as_str()).bind(since);
    query.execute(connection).await.map_err(|error| classify("storing the held lanes", error)).map(drop)
}

/// Notes that these lanes are to be released, and returns how many of them are held.
pub(crate) async fn request(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    lanes: &[Lane],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = |error| classify("asking for a release", error);
    let sql = format!(
        "/* outboxd: request_release */ update {} set release_requested = 1, release_granted = 0 where {IS_GIVEN}",
        table.held()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let held = of_these(&mut transaction, sql, lanes).await.map_err(doing)?;
    audit_log::note(&mut transaction, table, intent, held).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(held)
}

/// Notes that what was asked for by now is granted.
pub(crate) async fn grant(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    lanes: &[Lane],
) -> Result<(), StoreError> {
    let doing = |error| classify("granting a release", error);
    let sql = format!(
        "/* outboxd: grant_release */ update {} set release_granted = 1 where {IS_GIVEN} and release_requested",
        table.held()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    of_these(&mut transaction, sql, lanes).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)
}

/// Changes what is stored of these lanes, and returns how many of them are.
async fn of_these(transaction: &mut SqliteConnection, sql: String, lanes: &[Lane]) -> Result<u64, sqlx::Error> {
    let mut held = 0;
    for lane in lanes {
        let query = sqlx::query(AssertSqlSafe(sql.clone())).bind(lane.topic()).bind(lane.key()).bind(lane.partition());
        held += query.execute(&mut *transaction).await?.rows_affected();
    }
    Ok(held)
}

/// The held lanes that are to be released.
pub(crate) async fn requested(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let lanes = list(connection, table).await?;
    Ok(lanes.into_iter().filter(|lane| lane.release_requested).map(|lane| lane.held).collect())
}

fn reading(error: sqlx::Error) -> StoreError {
    classify("reading the held lanes", error)
}
