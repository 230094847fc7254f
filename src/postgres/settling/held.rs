//! The stored held lanes, and requests for their release.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use crate::contract::StoreError;
use crate::outbox::{Held, HeldChanges, HeldLane, Intent, Lane, Position};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::operating::audit_log::{self, audited, bind_intent};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::session::{ask, sql};
use crate::postgres::table::OutboxTable;

/// All held lanes, longest held first.
pub(crate) async fn list(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<HeldLane>, StoreError> {
    let text = format!(
        "/* outboxd: list_held */ select topic, key, partition, from_id, cause, since, after_position, release_requested
         from {} where not settled order by since, from_id",
        table.held()
    );
    let rows = ask("listing held lanes", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| Ok(HeldLane { held: read_held(row, 0)?, release_requested: row.get(7) })).collect()
}

/// Notes that these lanes are to be released, and returns how many of them are held.
pub(crate) async fn request(
    conn: &mut PgConnection,
    table: &OutboxTable,
    lanes: &[Lane],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let change = format!(
        "update {held} h set release_requested = true, release_granted = false
         from {GIVEN} where {IS_GIVEN} and not h.settled returning 1",
        held = table.held()
    );
    let statement = sqlx::query(sql(audited("request_release", table, &change, 4)));
    let statement = bind_intent(bind_lanes(statement, lanes.iter()), intent);
    audit_log::change(conn, "asking for a release", statement).await
}

/// Notes that what was asked for by now is granted.
pub(crate) async fn grant(conn: &mut PgConnection, table: &OutboxTable, lanes: &[Lane]) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: grant_release */ update {held} h set release_granted = true
         from {GIVEN} where {IS_GIVEN} and release_requested and not release_granted",
        held = table.held()
    );
    let statement = bind_lanes(sqlx::query(sql(text)), lanes.iter());
    ask("granting a release", statement.execute(conn)).await.map(drop)
}

/// The held lanes that are to be released.
pub(crate) async fn requested(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let text = format!(
        "/* outboxd: requested_releases */ select topic, key, partition, from_id, cause, since, after_position from {}
         where release_requested and not settled",
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

/// Those that are settled, as [`bind_changes`] binds them.
const SETTLED: &str = "unnest($6::text[], $7::text[], $8::int[])";

/// The condition that a stored lane `h` is one that is `given`, in the terms of the index on lanes: a query that
/// compared the columns as they are would look at all lanes for each.
pub(crate) const IS_GIVEN: &str = "h.topic = given.topic and (h.key is null) = (given.key is null) \
     and coalesce(h.key, '') = coalesce(given.key, '') and coalesce(h.partition, -1) = coalesce(given.partition, -1)";

/// Deletes lanes of which all is settled, as the checkpoint's statement noted of them. One that is deleted without that is
/// kept: an operator deleted it by hand, and wants it to flow.
pub(crate) async fn forget(conn: &mut PgConnection, table: &OutboxTable) -> Result<(), StoreError> {
    let text = format!("/* outboxd: forget_held */ delete from {} where settled", table.held());
    ask("forgetting held lanes", sqlx::query(sql(text)).execute(conn)).await.map(drop)
}

/// The part of the checkpoint's statement that locks the rows of the lanes that change.
pub(crate) fn lock_changed(table: &OutboxTable) -> String {
    format!(
        "select from {held} h, (
             select * from {SETTLED} union all select * from unnest($9::text[], $10::text[], $11::int[])
         ) given (topic, key, partition)
         where {IS_GIVEN} for update of h",
        held = table.held()
    )
}

/// The part that notes that all of a lane is settled: it counts as held no longer.
pub(crate) fn settle_lanes(table: &OutboxTable) -> String {
    format!(
        "update {held} h set settled = true from leader, {SETTLED} given (topic, key, partition) where {IS_GIVEN}",
        held = table.held()
    )
}

/// The part that stores held lanes. A request for release stays with a lane until it was granted and the lane is held anew.
pub(crate) fn remember_lanes(table: &OutboxTable) -> String {
    format!(
        "insert into {table} as h (topic, key, partition, from_id, cause, since, after_position)
         select given.* from leader, unnest(
             $9::text[], $10::text[], $11::int[], $12::bigint[], $13::text[], $14::timestamptz[], $15::text[]
         ) given
         on conflict (topic, (key is null), coalesce(key, ''), coalesce(partition, -1)) do update
         set from_id = excluded.from_id, cause = excluded.cause, since = excluded.since,
             after_position = excluded.after_position, settled = false,
             release_requested = h.release_requested and not h.settled
                 and (h.since = excluded.since or not h.release_granted),
             release_granted = h.release_granted and h.since = excluded.since",
        table = table.held()
    )
}

/// Binds what changes, as the parameters `$6` to `$15` of the checkpoint's statement.
pub(crate) fn bind_changes<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    HeldChanges { held, settled }: &'q HeldChanges<'_>,
) -> Query<'q, Postgres, PgArguments> {
    let statement = bind_lanes(statement, settled.iter().copied());
    bind_lanes(statement, held.iter().map(|held| &held.lane))
        .bind(held.iter().map(|held| held.from_id).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.cause.as_str()).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.since).collect::<Vec<_>>())
        .bind(held.iter().map(|held| held.after.as_ref().map(Position::as_str)).collect::<Vec<_>>())
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
