//! The stored held lanes, and requests for their release.
//!
//! There are two tables. One holds what the leader stores; the other shows it to operators. A lane that is missing there was
//! deleted by hand: whoever does that wants it to flow, and its release is asked for, after whatever was granted before.

use std::collections::HashMap;

use chrono::DateTime;
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::errors::{DEADLOCK, classify, has_number, incompatible};
use crate::mysql::operating::audit_log;
use crate::mysql::reading::holds::{bytes, text};
use crate::mysql::reading::position::ReadPosition;
use crate::mysql::session::{ask, sql};
use crate::mysql::table::OutboxTable;
use crate::mysql::values;
use crate::outbox::{Held, HeldChanges, HeldLane, Intent, Lane, Position};

/// How often a request is made that the server undoes each time.
const REQUESTS_AT_MOST: u32 = 5;

/// Lanes that a statement names at most.
const LANES_PER_STATEMENT: usize = 500;

/// All held lanes, longest held first.
pub(crate) async fn list(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<HeldLane>, StoreError> {
    let doing = "listing held lanes";
    let statement = format!(
        "/* outboxd: list_held */ select l.after_position, coalesce(h.release_requested, 1), l.topic, l.`key`, l.`partition`,
             l.from_id, l.cause, {since}
         from {lanes} l left join {held} h on h.lane = l.lane order by l.since, l.from_id",
        since = values::micros("l.since"),
        lanes = table.lanes(),
        held = table.held()
    );
    let rows = ask(doing, sqlx::raw_sql(sql(statement)).fetch_all(conn)).await?;
    let lane = |row: &MySqlRow| -> Result<HeldLane, StoreError> {
        let failed = |error| classify(doing, error);
        let after = row.try_get_unchecked::<Option<&str>, _>(0).map_err(failed)?;
        let requested = row.try_get_unchecked::<i64, _>(1).map_err(failed)?;
        Ok(HeldLane { held: read_held(row, 2, after)?, release_requested: requested != 0 })
    };
    rows.iter().map(lane).collect()
}

/// The held lanes that are to be released.
pub(crate) async fn requested(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<Held>, StoreError> {
    let lanes = list(conn, table).await?;
    Ok(lanes.into_iter().filter(|lane| lane.release_requested).map(|lane| lane.held).collect())
}

/// Reads a held lane from its columns, which begin at `at`: topic, key, partition, first id, cause, and since when in
/// microseconds.
pub(crate) fn read_held(row: &MySqlRow, at: usize, after: Option<&str>) -> Result<Held, StoreError> {
    type Columns<'r> = (Lane, i64, &'r str, i64);
    let read = || -> Result<Columns<'_>, sqlx::Error> {
        let (topic, key) = (row.try_get_unchecked(at)?, row.try_get_unchecked(at + 1)?);
        let lane = Lane::from_columns(topic, key, row.try_get_unchecked(at + 2)?);
        Ok((lane, row.try_get_unchecked(at + 3)?, row.try_get_unchecked(at + 4)?, row.try_get_unchecked(at + 5)?))
    };
    let (lane, from_id, word, since) = read().map_err(|error| classify("reading held lanes", error))?;
    let cause = word.parse().map_err(|_unknown| {
        // Releasing it for a cause that is not understood could publish what someone decided to keep back.
        incompatible(
            format!("{lane} is held for {word:?}, a cause that this version does not know"),
            "run the version of outboxd that held it, or a newer one",
        )
    })?;
    after.map(ReadPosition::from_stored).transpose()?;
    let since = DateTime::from_timestamp_micros(since).unwrap_or_default();
    Ok(Held { lane, from_id, after: after.map(Position::new), cause, since })
}

/// Notes that these lanes are to be released, and returns how many of them are held. The leader stores what it holds
/// meanwhile: of two that wait for each other the server undoes one, which is done once more.
pub(crate) async fn request(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    lanes: &[Lane],
    intent: &Intent,
) -> Result<u64, StoreError> {
    for _ in 1..REQUESTS_AT_MOST {
        match request_once(conn, table, lanes, intent).await {
            Err(error) if has_number(&error, &[DEADLOCK]) => {}
            requested => return requested,
        }
    }
    request_once(conn, table, lanes, intent).await
}

async fn request_once(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    lanes: &[Lane],
    intent: &Intent,
) -> Result<u64, StoreError> {
    let doing = "asking for a release";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    let mut held = 0;
    for lanes in lanes.chunks(LANES_PER_STATEMENT) {
        let named = named(lanes);
        let take_back = format!(
            "/* outboxd: request_release */ update {} set release_granted = 0 where lane in ({named})",
            table.lanes()
        );
        let show = format!(
            "/* outboxd: show_request */ update {} set release_requested = 1 where lane in ({named})",
            table.held()
        );
        held += ask(doing, sqlx::raw_sql(sql(take_back)).execute(&mut *transaction)).await?.rows_affected();
        ask(doing, sqlx::raw_sql(sql(show)).execute(&mut *transaction)).await?;
    }
    audit_log::note(&mut transaction, table, intent, held).await?;
    ask(doing, transaction.commit()).await?;
    Ok(held)
}

/// Notes that what was asked for by now is granted.
pub(crate) async fn grant(conn: &mut MySqlConnection, table: &OutboxTable, lanes: &[Lane]) -> Result<(), StoreError> {
    let doing = "granting a release";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    for lanes in lanes.chunks(LANES_PER_STATEMENT) {
        let states = states(&mut transaction, table, lanes).await?;
        let asked = named(states.iter().filter(|(_, state)| state.requested).map(|(lane, _)| lane));
        if asked.is_empty() {
            continue;
        }
        // One that was deleted by hand is shown again, so that another deletion is another request.
        let show = format!(
            "/* outboxd: show_granted */ insert ignore into {held}
                 (topic, `key`, `partition`, from_id, cause, since, release_requested)
             select topic, `key`, `partition`, from_id, cause, since, 1 from {lanes} where lane in ({asked})",
            held = table.held(),
            lanes = table.lanes()
        );
        let grant = format!(
            "/* outboxd: grant_release */ update {} set release_granted = 1 where lane in ({asked})",
            table.lanes()
        );
        ask(doing, sqlx::raw_sql(sql(show)).execute(&mut *transaction)).await?;
        ask(doing, sqlx::raw_sql(sql(grant)).execute(&mut *transaction)).await?;
    }
    ask(doing, transaction.commit()).await
}

/// What is stored of the requests for a lane's release.
struct State {
    /// Since when the lane is held, in microseconds.
    since: i64,
    requested: bool,
    granted: bool,
}

/// The state of those of these lanes that are stored, which are ours until the transaction ends.
async fn states<'l>(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    lanes: impl IntoIterator<Item = &'l Lane>,
) -> Result<HashMap<Lane, State>, StoreError> {
    let doing = "looking at held lanes";
    let statement = format!(
        "/* outboxd: look_at_held */ select l.topic, l.`key`, l.`partition`, {since},
             l.release_granted, h.release_requested
         from {lanes} l left join {held} h on h.lane = l.lane where l.lane in ({named}) for update",
        since = values::micros("l.since"),
        lanes = table.lanes(),
        held = table.held(),
        named = named(lanes)
    );
    let rows = ask(doing, sqlx::raw_sql(sql(statement)).fetch_all(transaction)).await?;
    let state = |row: &MySqlRow| -> Result<(Lane, State), sqlx::Error> {
        let (topic, key) = (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        let lane = Lane::from_columns(topic, key, row.try_get_unchecked(2)?);
        let shown = row.try_get_unchecked::<Option<i64>, _>(5)?;
        let requested = shown.is_none_or(|requested| requested != 0);
        let granted = shown.is_some() && row.try_get_unchecked::<i64, _>(4)? != 0;
        Ok((lane, State { since: row.try_get_unchecked(3)?, requested, granted }))
    };
    rows.iter().map(state).collect::<Result<_, _>>().map_err(|error| classify(doing, error))
}

/// Changes the stored lanes; a request for release stays with a lane until it was granted and the lane is held anew.
pub(crate) async fn store(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let doing = "storing the held lanes";
    for lanes in changes.settled.chunks(LANES_PER_STATEMENT) {
        let named = named(lanes.iter().copied());
        for from in [table.lanes(), table.held()] {
            let forget = format!("/* outboxd: forget_held */ delete from {from} where lane in ({named})");
            ask(doing, sqlx::raw_sql(sql(forget)).execute(&mut *transaction)).await?;
        }
    }
    for held in changes.held.chunks(LANES_PER_STATEMENT) {
        let states = states(transaction, table, held.iter().map(|held| &held.lane)).await?;
        let statements = [remember(table, held, &states), show(table, held, &states)];
        for statement in statements {
            ask(doing, sqlx::raw_sql(sql(statement)).execute(&mut *transaction)).await?;
        }
    }
    Ok(())
}

/// Stores lanes, with what was granted of them.
fn remember(table: &OutboxTable, held: &[&Held], states: &HashMap<Lane, State>) -> String {
    let row = |held: &&Held| {
        let granted = states.get(&held.lane).is_some_and(|state| state.granted && state.since == micros(held));
        let after = held.after.as_ref().map_or_else(|| "null".to_owned(), |after| text(after.as_str()));
        format!("({}, {after}, {granted})", columns(held))
    };
    format!(
        "/* outboxd: remember_held */ insert into {} (topic, `key`, `partition`, from_id, cause, since, after_position, release_granted)
         values {}
         on duplicate key update from_id = values(from_id), cause = values(cause), since = values(since),
             after_position = values(after_position), release_granted = values(release_granted)",
        table.lanes(),
        held.iter().map(row).collect::<Vec<_>>().join(",")
    )
}

/// Shows lanes to operators, with what was asked for.
fn show(table: &OutboxTable, held: &[&Held], states: &HashMap<Lane, State>) -> String {
    let row = |held: &&Held| {
        let state = states.get(&held.lane);
        let requested = state.is_some_and(|state| state.requested && (state.since == micros(held) || !state.granted));
        format!("({}, {requested})", columns(held))
    };
    format!(
        "/* outboxd: show_held */ insert into {} (topic, `key`, `partition`, from_id, cause, since, release_requested)
         values {}
         on duplicate key update from_id = values(from_id), cause = values(cause), since = values(since),
             release_requested = values(release_requested)",
        table.held(),
        held.iter().map(row).collect::<Vec<_>>().join(",")
    )
}

/// What both tables have of a lane.
fn columns(held: &Held) -> String {
    let Held { lane, from_id, cause, .. } = held;
    let null = || "null".to_owned();
    format!(
        "{topic}, {key}, {partition}, {from_id}, {cause}, cast('1970-01-01' as datetime(6)) + interval {micros} microsecond",
        topic = text(lane.topic()),
        key = lane.key().map_or_else(null, text),
        partition = lane.partition().map_or_else(null, |partition| partition.to_string()),
        cause = text(cause.as_str()),
        micros = micros(held)
    )
}

fn micros(held: &Held) -> i64 {
    held.since.timestamp_micros()
}

/// Lanes, by the names that the tables give them: hashes, since keys may be of any length.
fn named<'l>(lanes: impl IntoIterator<Item = &'l Lane>) -> String {
    let name = |lane: &Lane| match (lane.key(), lane.partition()) {
        (_, Some(partition)) => format!("{}:{partition}", lane.topic()),
        (Some(key), None) => format!("{} {key}", lane.topic()),
        (None, None) => lane.topic().to_owned(),
    };
    let names = lanes.into_iter().map(|lane| format!("convert(sha2({}, 256) using ascii)", bytes(&name(lane))));
    names.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_one_topic_have_different_names_and_nothing_breaks_out_of_them() {
        let lanes =
            [Lane::topic_of("a"), Lane::from_columns("a", Some("'1"), None), Lane::from_columns("a", None, Some(1))];
        let expected = "convert(sha2(x'61', 256) using ascii),convert(sha2(x'61202731', 256) using ascii),\
             convert(sha2(x'613a31', 256) using ascii)";
        assert_eq!(named(&lanes), expected);
        assert_eq!(named(&[]), "");
    }
}
