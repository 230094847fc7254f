//! The stored held lanes, and requests for their release.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use crate::contract::StoreError;
use crate::outbox::{Held, HeldChanges, HeldLane, Lane, Position};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::session::{ask, sql};
use crate::postgres::table::OutboxTable;

/// All held lanes, longest held first.
pub(crate) async fn list(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<HeldLane>, StoreError> {
    let text = format!(
        "/* outboxd: list_held */ select topic, key, partition, from_id, cause, since, after_position, release_requested
         from {} order by since, from_id",
        table.held()
    );
    let rows = ask("listing held lanes", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| Ok(HeldLane { held: read_held(row, 0)?, release_requested: row.get(7) })).collect()
}

/// Notes that these lanes are to be released, and returns how many of them are held.
pub(crate) async fn request(conn: &mut PgConnection, table: &OutboxTable, lanes: &[Lane]) -> Result<u64, StoreError> {
    let text = format!(
        "/* outboxd: request_release */ update {held} h set release_requested = true, release_granted = false
         from {GIVEN} where {IS_GIVEN}",
        held = table.held()
    );
    of_these(conn, "asking for a release", text, lanes).await
}

/// Notes that what was asked for by now is granted.
pub(crate) async fn grant(conn: &mut PgConnection, table: &OutboxTable, lanes: &[Lane]) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: grant_release */ update {held} h set release_granted = true
         from {GIVEN} where {IS_GIVEN} and release_requested and not release_granted",
        held = table.held()
    );
    of_these(conn, "granting a release", text, lanes).await.map(drop)
}

/// Changes what is stored of these lanes, the columns `$1` to `$3` of `given`, and returns how many of them are.
async fn of_these(
    conn: &mut PgConnection,
    doing: &'static str,
    text: String,
    lanes: &[Lane],
) -> Result<u64, StoreError> {
    let statement = bind_lanes(sqlx::query(sql(text)), lanes.iter());
    Ok(ask(doing, statement.execute(conn)).await?.rows_affected())
}

/// The held lanes that are to be released.
pub(crate) async fn requested(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let text = format!(
        "/* outboxd: requested_releases */ select topic, key, partition, from_id, cause, since, after_position from {}
         where release_requested",
        table.held()
    );
    let rows = ask("looking for requested releases", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| read_held(row, 0)).collect()
}

/// Reads a held lane from its columns, which begin at `at`.
pub(crate) fn read_held(row: &PgRow, at: usize) -> Result<Held, StoreError> {
    type Columns<'r> = (Lane, i64, String, DateTime<Utc>, Option<&'r str>);
    let read = || -> Result<Columns<'_>, sqlx::Error> {
        let lane = Lane::from_columns(row.try_get(at)?, row.try_get(at + 1)?, row.try_get(at + 2)?);
        Ok((lane, row.try_get(at + 3)?, row.try_get(at + 4)?, row.try_get(at + 5)?, row.try_get(at + 6)?))
    };
    let (lane, from_id, word, since, after) = read().map_err(|error| classify("reading held lanes", error))?;
    let cause = word.parse().map_err(|_unknown| {
        // Releasing it for a cause that is not understood could publish what someone decided to keep back.
        incompatible(
            format!("{lane} is held for {word:?}, a cause that this version does not know"),
            "run the version of outboxd that held it, or a newer one",
        )
    })?;
    after.map(ReadPosition::from_stored).transpose()?;
    Ok(Held { lane, from_id, after: after.map(Position::new), cause, since })
}

/// Lanes that are given as [`bind_lanes`] binds them.
pub(crate) const GIVEN: &str = "unnest($1::text[], $2::text[], $3::int[]) as given (topic, key, partition)";

/// The condition that a stored lane `h` is one that is `given`, in the terms of the index on lanes: a query that
/// compared the columns as they are would look at all lanes for each.
pub(crate) const IS_GIVEN: &str = "h.topic = given.topic and (h.key is null) = (given.key is null) \
     and coalesce(h.key, '') = coalesce(given.key, '') and coalesce(h.partition, -1) = coalesce(given.partition, -1)";

pub(crate) async fn store_changes(
    conn: &mut PgConnection,
    table: &OutboxTable,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    if !changes.settled.is_empty() {
        forget(conn, table, &changes.settled).await?;
    }
    if !changes.held.is_empty() {
        remember(conn, table, &changes.held).await?;
    }
    Ok(())
}

/// Deletes lanes of which all is settled. One that is deleted without having been settled is kept: an operator deleted it
/// by hand, and wants it to flow.
async fn forget(conn: &mut PgConnection, table: &OutboxTable, settled: &[&Lane]) -> Result<(), StoreError> {
    let held = table.held();
    let settle =
        format!("/* outboxd: settled_held */ update {held} h set settled = true from {GIVEN} where {IS_GIVEN}");
    let forget = format!("/* outboxd: forget_held */ delete from {held} h using {GIVEN} where {IS_GIVEN}");
    for text in [settle, forget] {
        let statement = bind_lanes(sqlx::query(sql(text)), settled.iter().copied());
        ask("storing held lanes", statement.execute(&mut *conn)).await?;
    }
    Ok(())
}

/// Stores held lanes. A request for release stays with a lane until it was granted and the lane is held anew.
async fn remember(conn: &mut PgConnection, table: &OutboxTable, held: &[&Held]) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: remember_held */ insert into {table} as h (topic, key, partition, from_id, cause, since, after_position)
         select * from unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::text[], $6::timestamptz[], $7::text[])
         on conflict (topic, (key is null), coalesce(key, ''), coalesce(partition, -1)) do update
         set from_id = excluded.from_id, cause = excluded.cause, since = excluded.since,
             after_position = excluded.after_position,
             release_requested = h.release_requested and (h.since = excluded.since or not h.release_granted),
             release_granted = h.release_granted and h.since = excluded.since",
        table = table.held()
    );
    let statement = bind_lanes(sqlx::query(sql(text)), held.iter().map(|held| &held.lane))
        .bind(held.iter().map(|held| held.from_id).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.cause.as_str()).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.since).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.after.as_ref().map(Position::as_str)).collect::<Vec<_>>());
    ask("storing held lanes", statement.execute(conn)).await.map(drop)
}

/// Binds the topics, keys and partitions of lanes as the statement's next three parameters.
pub(crate) fn bind_lanes<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    lanes: impl Iterator<Item = &'q Lane> + Clone,
) -> Query<'q, Postgres, PgArguments> {
    statement
        .bind(lanes.clone().map(Lane::topic).collect::<Vec<_>>())
        .bind(lanes.clone().map(Lane::key).collect::<Vec<_>>())
        .bind(lanes.map(Lane::partition).collect::<Vec<_>>())
}
