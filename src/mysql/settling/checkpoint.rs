//! The stored checkpoint and the held lanes beside it.

use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};

use crate::contract::{Checkpoint, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::reading::position::ReadPosition;
use crate::mysql::session::{ANSWER_TIMEOUT, ask, bounded, sql};
use crate::mysql::settling::held;
use crate::mysql::table::OutboxTable;
use crate::mysql::values;
use crate::outbox::{Held, HeldChanges, Position, Settle, Term};

/// What is stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// The position, if any was stored yet.
    pub(crate) at: Option<ReadPosition>,
    /// When it was stored, by the server's clock.
    pub(crate) saved_at: Option<DateTime<Utc>>,
    /// What [`Stored::settling`] tells where rows are marked or deleted.
    pub(crate) settled: Option<ReadPosition>,
    /// What the leader had read when it stored it.
    pub(crate) read_to: Option<ReadPosition>,
    /// The held lanes.
    pub(crate) held: Vec<Held>,
    /// Whether a position was stored of which nothing is told here, since it is of ids that are given out anew.
    pub(crate) begins_anew: bool,
}

impl Stored {
    /// The position that settles rows: what it calls read, outside of held lanes, counts as settled though it bears no
    /// mark. Where rows are marked or deleted it is the last one that was stored by a relay which did neither.
    pub(crate) fn settling(&self, settle: Settle) -> Option<&ReadPosition> {
        if settle == Settle::Checkpoint { self.at.as_ref() } else { self.settled.as_ref() }
    }

    /// Tells nothing of rows any more, and holds each lane from its beginning.
    fn begin_anew(self) -> Self {
        let held = self.held.into_iter().map(|held| Held { from_id: 1, after: None, ..held }).collect();
        Self { held, begins_anew: true, ..Self::default() }
    }
}

/// Reads the checkpoint and the held lanes, both of one moment. Positions tell nothing once the ids begin anew: after a
/// `truncate`, or when the server lost commits.
pub(crate) async fn load(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Stored, StoreError> {
    let doing = "reading the checkpoint";
    let text = format!(
        "/* outboxd: load_checkpoint */
         select 0 as kind, position, settled_position, read_position,
             null as topic, null as `key`, null as `partition`, null as from_id, null as cause,
             {saved_at} as since
         from {checkpoint}
         union all
         select 1, after_position, null, null, topic, `key`, `partition`, from_id, cause,
             {since}
         from {lanes}
         order by kind, from_id",
        saved_at = values::micros("saved_at"),
        since = values::micros("since"),
        checkpoint = table.checkpoint(),
        lanes = table.lanes()
    );
    let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(&mut *conn)).await?;
    let mut stored = Stored::default();
    for row in &rows {
        take_in(&mut stored, row)?;
    }
    let Some(last) = stored.at.as_ref().map(|at| at.last).filter(|last| *last > 0) else { return Ok(stored) };
    // Asked for after the position: ids only grow from one to the other.
    let next = next_id(conn, table).await?;
    Ok(if next.is_some_and(|next| next <= last) { stored.begin_anew() } else { stored })
}

fn take_in(stored: &mut Stored, row: &MySqlRow) -> Result<(), StoreError> {
    let failed = |error| classify("reading the checkpoint", error);
    let position = |column: usize| -> Result<Option<ReadPosition>, StoreError> {
        let text = row.try_get_unchecked::<Option<&str>, _>(column).map_err(failed)?;
        text.map(ReadPosition::from_stored).transpose()
    };
    if row.try_get_unchecked::<i64, _>(0).map_err(failed)? == 1 {
        let after = row.try_get_unchecked::<Option<&str>, _>(1).map_err(failed)?;
        stored.held.push(held::read_held(row, 4, after)?);
        return Ok(());
    }
    (stored.at, stored.settled, stored.read_to) = (position(1)?, position(2)?, position(3)?);
    stored.saved_at = values::read_time(row, 9).map_err(failed)?;
    Ok(())
}

/// The id that the next row gets, unless it names one itself. MySQL tells none of a table that is empty and new.
pub(crate) async fn next_id(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Option<i64>, StoreError> {
    let statement = "/* outboxd: next_id */ select cast(auto_increment as signed) from information_schema.tables
         where table_schema = coalesce(?, database()) and table_name = ?";
    let found = sqlx::query(statement).bind(table.schema()).bind(table.name()).fetch_optional(conn);
    let Some(row) = ask("looking for the next id", found).await? else { return Ok(None) };
    row.try_get_unchecked(0).map_err(|error| classify("looking for the next id", error))
}

/// How and where checkpoints are stored by a session.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointTarget {
    pub(crate) table: OutboxTable,
    /// How rows are settled: where none is marked or deleted, the position that is stored settles them.
    pub(crate) settle: Settle,
    /// Whether the position that settles rows so far is of ids that are given out anew.
    pub(crate) begins_anew: bool,
}

/// Stores the checkpoint, and what changed of the held lanes, if the term is still the leader's.
pub(crate) async fn save(
    conn: &mut MySqlConnection,
    target: &CheckpointTarget,
    checkpoint: &Checkpoint,
    changes: &HeldChanges<'_>,
) -> Result<(), StoreError> {
    let doing = "storing the checkpoint";
    let Checkpoint { term, position, read_to, .. } = checkpoint;
    ReadPosition::from_position(position)?;
    bounded(doing, ANSWER_TIMEOUT, async {
        let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
        held::store(&mut transaction, &target.table, changes).await?;
        let done = move_to(&mut transaction, target, *term, position, read_to).await;
        conclude(transaction, doing, done).await
    })
    .await
}

/// Commits what was done; a term that is over is rolled back in good order.
pub(crate) async fn conclude(
    transaction: sqlx::Transaction<'_, sqlx::MySql>,
    doing: &'static str,
    done: Result<(), StoreError>,
) -> Result<(), StoreError> {
    match done {
        Ok(()) => ask(doing, transaction.commit()).await,
        Err(over @ StoreError::TermOver { .. }) => {
            ask(doing, transaction.rollback()).await?;
            Err(over)
        }
        Err(error) => Err(error),
    }
}

/// Moves the stored position, unless the term is over: in a transaction, as its last step. Sharing the lease's row keeps the
/// next leader from beginning a term, and reading the checkpoint, until this is committed. It is shared only once all
/// other rows are ours, so that no renewal waits with us for another session that has locked one.
pub(crate) async fn move_to(
    transaction: &mut MySqlConnection,
    CheckpointTarget { table, settle, begins_anew }: &CheckpointTarget,
    term: Term,
    position: &Position,
    read_to: &Position,
) -> Result<(), StoreError> {
    let doing = "storing the checkpoint";
    let settled = match (settle, begins_anew) {
        (Settle::Checkpoint, _) => "values(position)",
        (Settle::Mark | Settle::Delete, true) => "null",
        (Settle::Mark | Settle::Delete, false) => "settled_position",
    };
    let text = format!(
        "/* outboxd: save_checkpoint */
         insert into {checkpoint} (position, term, saved_at, read_position, settled_position)
         values (?, ?, utc_timestamp(6), ?, ?)
         on duplicate key update settled_position = {settled}, position = values(position), term = values(term),
             saved_at = values(saved_at), read_position = values(read_position)",
        checkpoint = table.checkpoint()
    );
    let settles = (*settle == Settle::Checkpoint).then(|| position.as_str());
    let statement = sqlx::query(sql(text)).bind(position.as_str()).bind(term.0).bind(read_to.as_str()).bind(settles);
    ask(doing, statement.execute(&mut *transaction)).await?;
    share_lease(transaction, table, term).await
}

/// Shares the lease's row until the transaction ends, if the term is the leader's.
async fn share_lease(transaction: &mut MySqlConnection, table: &OutboxTable, term: Term) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: share_lease */ select term from {} where term = {} lock in share mode",
        table.lease(),
        term.0
    );
    let found = ask("looking at the lease", sqlx::raw_sql(sql(text)).fetch_optional(transaction)).await?;
    found.map(drop).ok_or(StoreError::TermOver { term })
}
