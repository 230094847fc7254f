//! The stored checkpoint and the held lanes beside it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};

use crate::contract::{Checkpoint, StoreError};
use crate::outbox::{Held, HeldChanges, Position, Settle, Term};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::session::{ANSWER_TIMEOUT, ask, bounded, sql};
use crate::postgres::settling::held;
use crate::postgres::table::OutboxTable;

/// What is stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The position, if any was stored yet.
    pub at: Option<ReadPosition>,
    /// The cluster it was stored in.
    pub system: String,
    /// When it was stored, by the clock of that cluster.
    pub saved_at: Option<DateTime<Utc>>,
    /// What [`Stored::settling`] tells where rows are marked or deleted.
    settled: Option<ReadPosition>,
    /// What the leader had read when it stored it.
    pub read_to: Option<ReadPosition>,
    /// The held lanes.
    pub held: Vec<Held>,
}

impl Stored {
    /// The position that settles rows: what it calls read, outside of held lanes, counts as settled though it bears no
    /// mark. Where rows are marked or deleted it is the last one that was stored by a relay which did neither.
    pub(crate) fn settling(&self, settle: Settle) -> Option<&ReadPosition> {
        if settle == Settle::Checkpoint { self.at.as_ref() } else { self.settled.as_ref() }
    }
}

/// Reads the checkpoint and the held lanes, both of one moment.
pub(crate) async fn load(conn: &mut PgConnection, table: &OutboxTable) -> Result<Stored, StoreError> {
    let text = format!(
        "/* outboxd: load_checkpoint */
         select c.position, c.system, c.settled_position, c.saved_at,
             c.read_position, h.topic, h.key, h.partition, h.from_id, h.cause, h.since, h.after_position
         from (select 1) one left join {checkpoint} c on true left join {held} h on not h.settled order by h.from_id",
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    let doing = "reading the checkpoint";
    let rows = ask(doing, sqlx::query(sql(text)).fetch_all(conn)).await?;
    let mut stored = Stored::default();
    if let Some((row, position)) = rows.first().and_then(|row| Some((row, row.get::<Option<&str>, _>(0)?))) {
        stored.at = Some(ReadPosition::from_stored(position)?);
        (stored.system, stored.saved_at) = (row.get(1), row.get(3));
        stored.settled = row.get::<Option<&str>, _>(2).map(ReadPosition::from_stored).transpose()?;
        stored.read_to = row.get::<Option<&str>, _>(4).map(ReadPosition::from_stored).transpose()?;
    }
    let held = rows.iter().filter(|row| row.get::<Option<&str>, _>(5).is_some());
    stored.held = held.map(|row| held::read_held(row, 5)).collect::<Result<_, _>>()?;
    Ok(stored)
}

/// How and where checkpoints are stored by a session.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointTarget {
    pub table: OutboxTable,
    /// The cluster; empty where the role may not ask.
    pub system: String,
    /// How rows are settled: where none is marked or deleted, the position that is stored settles them.
    pub settle: Settle,
}

/// Stores the checkpoint, and what changed of the held lanes, if the term is still the leader's. The session's
/// `synchronous_commit` must be on: its flush makes the settlements before it durable, and proves to the reader that goes
/// on from here that every lower transaction id was used.
pub(crate) async fn save(
    conn: &mut PgConnection,
    place: &CheckpointTarget,
    checkpoint: &Checkpoint,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let at = ReadPosition::from_stored(checkpoint.position.as_str())?;
    bounded("storing the checkpoint", ANSWER_TIMEOUT, async {
        store(conn, place, checkpoint, at.highest, changes).await?;
        if changes.settled.is_empty() { Ok(()) } else { held::forget(conn, &place.table).await }
    })
    .await
}

/// As [`save`], of the position alone.
pub(crate) async fn save_position(
    conn: &mut PgConnection,
    place: &CheckpointTarget,
    term: Term,
    position: &Position,
    highest: i64,
) -> Result<(), StoreError> {
    let checkpoint = Checkpoint { term, position: position.clone(), read_to: position.clone(), held: Vec::new() };
    store(conn, place, &checkpoint, highest, &HeldChanges::default()).await
}

/// Stores the position and the changes in one statement, which is one transaction: no relay that vanishes leaves the lease's
/// row locked behind it. Sharing that row keeps the next leader from beginning a term, and reading the checkpoint, until this
/// is committed. It is shared only once all other rows are ours, so that no renewal waits with us for another session that
/// has locked one.
async fn store(
    conn: &mut PgConnection,
    CheckpointTarget { table, system, settle }: &CheckpointTarget,
    checkpoint: &Checkpoint,
    highest: i64,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let Checkpoint { term, position, read_to, .. } = checkpoint;
    let text = format!(
        "/* outboxd: save_checkpoint */
         with ours as materialized (select from {checkpoint} for update),
         changed as materialized ({lock}),
         leader as materialized (
             select r.term
             from (select count(*) from ours) ours, (select count(*) from changed) changed, {lease} r
             where r.term = $4 for share of r
         ),
         settled as ({settle_lanes}),
         remembered as ({remember})
         insert into {checkpoint} as c (position, highest_id, system, term, saved_at, settled_position, read_position)
         select $1, $2, $3, term, clock_timestamp(), $5, $16 from leader
         on conflict (only_row) do update set position = excluded.position, highest_id = excluded.highest_id,
             system = excluded.system, term = excluded.term, saved_at = excluded.saved_at, read_position = excluded.read_position,
             settled_position = coalesce(excluded.settled_position, c.settled_position)",
        checkpoint = table.checkpoint(),
        lease = table.lease(),
        lock = held::lock_changed(table),
        settle_lanes = held::settle_lanes(table),
        remember = held::remember_lanes(table)
    );
    let settles = (*settle == Settle::Checkpoint).then(|| position.as_str());
    let statement =
        sqlx::query(sql(text)).bind(position.as_str()).bind(highest).bind(system).bind(term.0).bind(settles);
    let statement = held::bind_changes(statement, changes).bind(read_to.as_str());
    let done = ask("storing the checkpoint", statement.execute(conn)).await?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term: *term }) } else { Ok(()) }
}
