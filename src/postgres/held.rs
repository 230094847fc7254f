//! Held lanes as operators see them, and their requests for release.

use sqlx::{PgConnection, Row};

use crate::contract::StoreError;
use crate::outbox::{Held, HeldLane, Lane, Table};
use crate::postgres::checkpoint::{GIVEN, IS_GIVEN, bind_lanes, read_held};
use crate::postgres::session::{ask, sql};

/// All held lanes, longest held first.
pub(super) async fn list(conn: &mut PgConnection, table: &Table) -> Result<Vec<HeldLane>, StoreError> {
    let text = format!(
        "/* outboxd: list_held */ select topic, key, partition, from_id, cause, since, after_position, release_requested
         from {} order by since, from_id",
        table.held()
    );
    let rows = ask("listing held lanes", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| Ok(HeldLane { held: read_held(row, 0)?, release_requested: row.get(7) })).collect()
}

/// Notes that these lanes are to be released, and returns how many of them are held.
pub(super) async fn request(conn: &mut PgConnection, table: &Table, lanes: &[Lane]) -> Result<u64, StoreError> {
    let text = format!(
        "/* outboxd: request_release */ update {held} h set release_requested = true, release_granted = false
         from {GIVEN} where {IS_GIVEN}",
        held = table.held()
    );
    of_these(conn, "asking for a release", text, lanes).await
}

/// Notes that what was asked for by now is granted.
pub(super) async fn grant(conn: &mut PgConnection, table: &Table, lanes: &[Lane]) -> Result<(), StoreError> {
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
pub(super) async fn requested(conn: &mut PgConnection, table: &Table) -> Result<Vec<Held>, StoreError> {
    let text = format!(
        "/* outboxd: requested_releases */ select topic, key, partition, from_id, cause, since, after_position from {}
         where release_requested",
        table.held()
    );
    let rows = ask("looking for requested releases", sqlx::query(sql(text)).fetch_all(conn)).await?;
    rows.iter().map(|row| read_held(row, 0)).collect()
}
