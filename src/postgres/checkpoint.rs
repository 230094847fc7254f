//! The stored checkpoint and the held lanes beside it.

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgConnection, Postgres, Row};

use crate::contract::{Checkpoint, StoreError};
use crate::outbox::{Held, HeldChanges, Lane, Position, Settle, Table, Term};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::session::{ANSWER_TIMEOUT, ask, bounded, sql};
use crate::postgres::snapshot::ReadPosition;

/// What is stored.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// The position, if any was stored yet.
    pub at: Option<ReadPosition>,
    /// The cluster it was stored in.
    pub system: String,
    /// When it was stored, by the clock of that cluster.
    pub saved_at: Option<DateTime<Utc>>,
    /// What [`Stored::settling`] tells where rows are marked or deleted.
    settled: Option<ReadPosition>,
    /// The held lanes.
    pub held: Vec<Held>,
}

impl Stored {
    /// The position that settles rows: what it calls read, outside of held lanes, counts as settled though it bears no
    /// mark. Where rows are marked or deleted it is the last one that was stored by a relay which did neither.
    pub(super) fn settling(&self, settle: Settle) -> Option<&ReadPosition> {
        if settle == Settle::Checkpoint { self.at.as_ref() } else { self.settled.as_ref() }
    }
}

/// Reads the checkpoint and the held lanes, both of one moment.
pub(super) async fn load(conn: &mut PgConnection, table: &Table) -> Result<Stored, StoreError> {
    let text = format!(
        "/* outboxd: load_checkpoint */
         select c.position, c.system, c.settled_position, c.saved_at,
             h.topic, h.key, h.partition, h.from_id, h.cause, h.since, h.after_position
         from (select 1) one left join {checkpoint} c on true left join {held} h on true order by h.from_id",
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    let doing = "reading the checkpoint";
    let rows = ask(doing, sqlx::query(sql(text)).fetch_all(conn)).await?;
    let mut stored = Stored::default();
    if let Some((row, position)) = rows.first().and_then(|row| Some((row, row.get::<Option<&str>, _>(0)?))) {
        stored.at = Some(read_position(position)?);
        (stored.system, stored.saved_at) = (row.get(1), row.get(3));
        stored.settled = row.get::<Option<&str>, _>(2).map(read_position).transpose()?;
    }
    let held = rows.iter().filter(|row| row.get::<Option<&str>, _>(4).is_some());
    stored.held = held.map(|row| read_held(row, 4)).collect::<Result<_, _>>()?;
    Ok(stored)
}

fn read_position(text: &str) -> Result<ReadPosition, StoreError> {
    ReadPosition::from_position(text).map_err(|error| StoreError::Incompatible {
        problem: "the stored checkpoint cannot be read".to_owned(),
        repair: "run the version of outboxd that wrote it, or a newer one".to_owned(),
        source: Some(Box::new(error)),
    })
}

/// Reads a held lane from its columns, which begin at `at`.
pub(super) fn read_held(row: &PgRow, at: usize) -> Result<Held, StoreError> {
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
    after.map(read_position).transpose()?;
    Ok(Held { lane, from_id, after: after.map(Position::new), cause, since })
}

/// How and where checkpoints are stored by a session.
#[derive(Debug, Clone)]
pub(super) struct CheckpointTarget {
    pub table: Table,
    /// The cluster; empty where the role may not ask.
    pub system: String,
    /// How rows are settled: where none is marked or deleted, the position that is stored settles them.
    pub settle: Settle,
}

/// Stores the checkpoint, and what changed of the held lanes, in one transaction, if the term is still the
/// leader's. The session's `synchronous_commit` must be on: its flush makes the settlements before it durable, and
/// proves to the reader that goes on from here that every lower transaction id was used.
pub(super) async fn save(
    conn: &mut PgConnection,
    place: &CheckpointTarget,
    checkpoint: &Checkpoint,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let at = read_position(checkpoint.position.as_str())?;
    let doing = "storing the checkpoint";
    let position = (checkpoint.term, &checkpoint.position);
    let over = || StoreError::TermOver { term: checkpoint.term };
    bounded(doing, ANSWER_TIMEOUT, async {
        if changes.is_empty() {
            // One statement is one transaction: no relay that vanishes leaves the lease's row locked behind it.
            let is_saved = save_position(conn, place, position, at.highest).await?;
            return if is_saved { Ok(()) } else { Err(over()) };
        }
        let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
        // The lease's row comes last: its renewal would wait with us for whatever an operator has locked of the others.
        store_changes(&mut transaction, &place.table, changes).await?;
        if !save_position(&mut transaction, place, position, at.highest).await? {
            transaction.rollback().await.map_err(|error| classify(doing, error))?;
            return Err(over());
        }
        transaction.commit().await.map_err(|error| classify(doing, error))
    })
    .await
}

/// Says whether the term is the leader's. Sharing the lease's row keeps the next leader from beginning a term,
/// and reading the checkpoint, until this is committed. It is shared only once the checkpoint's row is ours, so that no
/// renewal waits with us for another session that has locked that.
pub(super) async fn save_position(
    conn: &mut PgConnection,
    CheckpointTarget { table, system, settle }: &CheckpointTarget,
    (term, position): (Term, &Position),
    highest: i64,
) -> Result<bool, StoreError> {
    let text = format!(
        "/* outboxd: save_checkpoint */
         with ours as materialized (select from {checkpoint} for update)
         insert into {checkpoint} as c (position, highest_id, system, term, saved_at, settled_position)
         select $1, $2, $3, r.term, clock_timestamp(), $5 from (select count(*) from ours) locked, {lease} r
         where r.term = $4 for share of r
         on conflict (only_row) do update set position = excluded.position, highest_id = excluded.highest_id,
             system = excluded.system, term = excluded.term, saved_at = excluded.saved_at,
             settled_position = coalesce(excluded.settled_position, c.settled_position)",
        checkpoint = table.checkpoint(),
        lease = table.lease()
    );
    let settles = (*settle == Settle::Checkpoint).then(|| position.as_str());
    let statement = sqlx::query(sql(text)).bind(position.as_str()).bind(highest).bind(system).bind(term.0);
    let done = ask("storing the checkpoint", statement.bind(settles).execute(conn)).await?;
    Ok(done.rows_affected() > 0)
}

/// Lanes that are given as [`bind_lanes`] binds them.
pub(super) const GIVEN: &str = "unnest($1::text[], $2::text[], $3::int[]) as given (topic, key, partition)";

/// The condition that a stored lane `h` is one that is `given`, in the terms of the index on lanes: a query that
/// compared the columns as they are would look at all lanes for each.
pub(super) const IS_GIVEN: &str = "h.topic = given.topic and (h.key is null) = (given.key is null) \
     and coalesce(h.key, '') = coalesce(given.key, '') and coalesce(h.partition, -1) = coalesce(given.partition, -1)";

async fn store_changes(conn: &mut PgConnection, table: &Table, changes: &HeldChanges<'_>) -> Result<(), StoreError> {
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
async fn forget(conn: &mut PgConnection, table: &Table, settled: &[&Lane]) -> Result<(), StoreError> {
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
async fn remember(conn: &mut PgConnection, table: &Table, held: &[&Held]) -> Result<(), StoreError> {
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
pub(super) fn bind_lanes<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    lanes: impl Iterator<Item = &'q Lane> + Clone,
) -> Query<'q, Postgres, PgArguments> {
    statement
        .bind(lanes.clone().map(Lane::topic).collect::<Vec<_>>())
        .bind(lanes.clone().map(Lane::key).collect::<Vec<_>>())
        .bind(lanes.map(Lane::partition).collect::<Vec<_>>())
}
