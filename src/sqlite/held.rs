//! The stored held lanes, and requests for their release.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Held, HeldLane, HoldCause, Lane, Table};
use crate::sqlite::errors::{classify, incompatible};

/// All held lanes, longest held first.
pub(super) async fn list(connection: &mut SqliteConnection, table: &Table) -> Result<Vec<HeldLane>, StoreError> {
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
    let unknown = || incompatible(format!("a lane is held for {cause:?}"), "run the newer outboxd that wrote this");
    let held = Held {
        lane: lane(row)?,
        from_id: row.try_get(3).map_err(reading)?,
        cause: HoldCause::parse(cause).ok_or_else(unknown)?,
        since: row.try_get(5).map_err(reading)?,
    };
    Ok(HeldLane { held, release_requested: row.try_get(6).map_err(reading)? })
}

fn lane(row: &SqliteRow) -> Result<Lane, StoreError> {
    let (topic, key) = (row.try_get(0).map_err(reading)?, row.try_get(1).map_err(reading)?);
    Ok(Lane::from_columns(topic, key, row.try_get(2).map_err(reading)?))
}

/// Makes the stored lanes those given; a request for release stays with a lane for as long as it is held.
pub(super) async fn store(connection: &mut SqliteConnection, table: &Table, held: &[Held]) -> Result<(), StoreError> {
    let doing = |error| classify("storing the held lanes", error);
    let before = list(connection, table).await?;
    let sql = format!("/* outboxd: drop_held */ delete from {}", table.held());
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(doing)?;
    let sql = format!(
        "/* outboxd: insert_held */ insert into {} (topic, key, partition, from_id, cause, since, release_requested)
         values (?, ?, ?, ?, ?, ?, ?)",
        table.held()
    );
    for Held { lane, from_id, cause, since } in held {
        let is_it = |known: &&HeldLane| known.held.lane == *lane && known.held.since == *since;
        let requested = before.iter().find(is_it).is_some_and(|known| known.release_requested);
        let query = sqlx::query(AssertSqlSafe(sql.clone())).bind(lane.topic()).bind(lane.key()).bind(lane.partition());
        let query = query.bind(from_id).bind(cause.as_str()).bind(since).bind(requested);
        query.execute(&mut *connection).await.map_err(doing)?;
    }
    Ok(())
}

/// Notes that these lanes are to be released, and returns how many of them are held.
pub(super) async fn request(
    connection: &mut SqliteConnection,
    table: &Table,
    lanes: &[Lane],
) -> Result<u64, StoreError> {
    let doing = |error| classify("asking for a release", error);
    let sql = format!(
        "/* outboxd: request_release */ update {} set release_requested = 1
         where topic = ? and key is ? and partition is ?",
        table.held()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let mut held = 0;
    for lane in lanes {
        let query = sqlx::query(AssertSqlSafe(sql.clone())).bind(lane.topic()).bind(lane.key()).bind(lane.partition());
        held += query.execute(&mut *transaction).await.map_err(doing)?.rows_affected();
    }
    transaction.commit().await.map_err(doing)?;
    Ok(held)
}

/// The held lanes that are to be released.
pub(super) async fn requested(connection: &mut SqliteConnection, table: &Table) -> Result<Vec<Held>, StoreError> {
    let lanes = list(connection, table).await?;
    Ok(lanes.into_iter().filter(|lane| lane.release_requested).map(|lane| lane.held).collect())
}

fn reading(error: sqlx::Error) -> StoreError {
    classify("reading the held lanes", error)
}
