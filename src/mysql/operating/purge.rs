//! Keeping the table small: settled rows are removed some time after they were settled. They are found by a plain read, and
//! removed by the list of their ids, which locks them and nothing else.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};

use crate::contract::{Purge, PurgeStep, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::operating::audit_log;
use crate::mysql::operating::inspect::micros;
use crate::mysql::reading::holds::covered;
use crate::mysql::reading::position::is_read;
use crate::mysql::session::{ask, id_list, sql};
use crate::mysql::settling::checkpoint::{self, Stored};
use crate::mysql::table::{Columns, OutboxTable};
use crate::mysql::values;
use crate::outbox::{Intent, Settle, Term};

/// Rows that one call looks at: a few milliseconds, and one small transaction.
const ROWS_PER_PURGE: usize = 2_000;

/// Rows among which the longest kept one is looked for.
const ROWS_OVERDUE: i64 = 1_000;

/// After so many rounds one begins at the lowest id instead of the stored mark: a transaction that was open for long
/// may have written below it.
const ROUNDS_TO_THE_LOWEST: u32 = 20;

/// The longest retention that is reckoned with, in microseconds: a thousand years.
const LONGEST_RETENTION: u128 = 1_000 * 366 * 86_400 * 1_000_000;

/// The round through the table, a bite a call.
#[derive(Debug, Default)]
pub(crate) struct Purging {
    /// The last id that was looked at in this round; none before a round.
    after: Option<i64>,
    /// Everything up to here was removed in this round, with nothing left in between.
    removed_to: Option<i64>,
    kept_one: bool,
    rounds: u32,
}

/// Removes what is settled and old among the next rows, if the term is still the leader's.
///
/// Rows marked as sent are removed `retention` after that, in every mode, so that changing it leaves nothing behind.
/// Rows that a position settles are removed `retention` after they were written.
pub(crate) async fn purge(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    purging: &mut Purging,
    term: Term,
    retention: Duration,
) -> Result<Purge, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let after = match purging.after {
        Some(after) => after,
        None => begin_round(conn, table, purging).await?,
    };
    let bite = Bite { table, settle, stored: &stored, oldest_kept: retained(retention), after };
    let seen = bite.look(conn).await?;
    let removed = bite.remove(conn, &seen, By::Leader(term)).await?;
    purging.advance(&seen, removed.len());
    if let Some(mark) = purging.removed_to {
        remember(conn, table, mark).await?;
    }
    let more = seen.is_followed();
    purging.after = seen.last().filter(|_| more);
    Ok(Purge { removed: removed.len() as u64, more })
}

/// Removes what is settled and was sent before a time, among the next rows, for an operator; without an intent it only says how
/// many would be removed. What is settled stays so, whoever leads.
pub(crate) async fn purge_sent(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    before: DateTime<Utc>,
    after: i64,
    intent: Option<&Intent>,
) -> Result<PurgeStep, StoreError> {
    if intent.is_some() {
        // So that no audit accuses anybody of what is gone.
        let text = format!(
            "/* outboxd: note_purge */ update {} set purged_before = ? where purged_before is null or purged_before < ?",
            table.checkpoint()
        );
        ask("purging", sqlx::query(sql(text)).bind(before).bind(before).execute(&mut *conn)).await?;
    }
    let stored = checkpoint::load(conn, table).await?;
    let oldest_kept = format!("least({}, utc_timestamp(6))", values::time(before));
    let bite = Bite { table, settle, stored: &stored, oldest_kept, after };
    let seen = bite.look(conn).await?;
    let removed = match intent {
        Some(intent) => bite.remove(conn, &seen, By::Operator(intent)).await?.len(),
        None => seen.old().count(),
    };
    Ok(PurgeStep { removed: removed as u64, next: seen.last().filter(|_| seen.is_followed()) })
}

/// The time before which rows are old, in SQL, where they are kept for so long.
fn retained(retention: Duration) -> String {
    format!("utc_timestamp(6) - interval {} microsecond", retention.as_micros().min(LONGEST_RETENTION))
}

impl Purging {
    /// The mark moves only up to the first row that stays.
    fn advance(&mut self, seen: &Seen, removed: usize) {
        if self.kept_one {
            return;
        }
        let first_kept = seen.rows.iter().find(|row| !row.is_old).map(|row| row.id);
        // Of those that were to be removed another session has locked some: nobody knows which.
        let is_whole = removed == seen.old().count();
        self.kept_one = first_kept.is_some() || !is_whole;
        if is_whole {
            self.removed_to = first_kept.map(|id| id - 1).or(seen.last()).or(self.removed_to);
        }
    }
}

async fn begin_round(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    purging: &mut Purging,
) -> Result<i64, StoreError> {
    let rounds = purging.rounds.wrapping_add(1);
    *purging = Purging { rounds, ..Purging::default() };
    if rounds.is_multiple_of(ROUNDS_TO_THE_LOWEST) {
        return Ok(i64::MIN);
    }
    purge_mark(conn, table).await
}

/// Below this id everything was removed, but for what was written late.
async fn purge_mark(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<i64, StoreError> {
    let text = format!("/* outboxd: purge_mark */ select purged_to from {}", table.checkpoint());
    let mark = ask("purging", sqlx::query_scalar(sql(text)).fetch_optional(conn)).await?;
    Ok(mark.unwrap_or(i64::MIN))
}

async fn remember(conn: &mut MySqlConnection, table: &OutboxTable, mark: i64) -> Result<(), StoreError> {
    let text =
        format!("/* outboxd: move_purge_mark */ update {} set purged_to = ? where purged_to < ?", table.checkpoint());
    ask("purging", sqlx::query(sql(text)).bind(mark).bind(mark).execute(conn)).await.map(drop)
}

/// For how much longer than the retention the longest kept row has been kept, of the first ones that are left. Changes
/// nothing.
pub(crate) async fn overdue(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    stored: &Stored,
    retention: Duration,
) -> Result<Duration, StoreError> {
    let doing = "looking for rows that are overdue";
    let after = purge_mark(conn, table).await?;
    let bite = Bite { table, settle, stored, oldest_kept: retained(retention), after };
    let columns = table.columns();
    let Columns { id, created_at, sent_at, .. } = &columns;
    let text = format!(
        "/* outboxd: overdue */ select timestampdiff(microsecond, min(case when old then since end), utc_timestamp(6)) from (
             select case when {sent} then {sent_at} else {created_at} end as since, {old} as old
             from {outbox} force index (primary) where {id} > {after} order by {id} limit {ROWS_OVERDUE}
         ) looked_at",
        sent = columns.sent(),
        old = bite.is_old(),
        outbox = table.outbox()
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    let kept: Option<i64> = row.try_get(0).map_err(|error| classify(doing, error))?;
    Ok(micros(kept).saturating_sub(retention))
}

/// Some rows that are looked at, and what counts as old among them.
struct Bite<'a> {
    table: &'a OutboxTable,
    settle: Settle,
    stored: &'a Stored,
    /// The time before which rows are old, in SQL.
    oldest_kept: String,
    after: i64,
}

/// Who removes.
#[derive(Clone, Copy)]
enum By<'a> {
    /// The leader of this term.
    Leader(Term),
    /// An operator.
    Operator(&'a Intent),
}

/// What was looked at, by id.
struct Seen {
    rows: Vec<SeenRow>,
}

struct SeenRow {
    id: i64,
    is_old: bool,
    /// It was written too lately, and so were those after it, roughly.
    is_young: bool,
}

impl Seen {
    fn last(&self) -> Option<i64> {
        self.rows.last().map(|row| row.id)
    }

    fn old(&self) -> impl Iterator<Item = i64> {
        self.rows.iter().filter(|row| row.is_old).map(|row| row.id)
    }

    /// Whether there may be more to remove after it.
    fn is_followed(&self) -> bool {
        self.rows.len() >= ROWS_PER_PURGE && self.rows.last().is_some_and(|row| !row.is_young)
    }
}

impl Bite<'_> {
    async fn look(&self, conn: &mut MySqlConnection) -> Result<Seen, StoreError> {
        let doing = "looking for old rows";
        let Columns { id, created_at, .. } = self.table.columns();
        let text = format!(
            "/* outboxd: look_for_old */ select {id}, {old}, coalesce({created_at} > {oldest_kept}, 1)
             from {outbox} force index (primary) where {id} > {after} order by {id} limit {ROWS_PER_PURGE}",
            old = self.is_old(),
            oldest_kept = self.oldest_kept,
            outbox = self.table.outbox(),
            after = self.after
        );
        let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(conn)).await?;
        let read = |row: &MySqlRow| -> Result<SeenRow, sqlx::Error> {
            Ok(SeenRow { id: row.try_get(0)?, is_old: row.try_get(1)?, is_young: row.try_get(2)? })
        };
        let rows: Result<_, sqlx::Error> = rows.iter().map(read).collect();
        rows.map(|rows| Seen { rows }).map_err(|error| classify(doing, error))
    }

    /// The condition that a row may go: by its own mark, or by the stored position.
    fn is_old(&self) -> String {
        let columns = self.table.columns();
        let Columns { id, created_at, sent_at, .. } = &columns;
        format!(
            "not {covered} and coalesce(case when {sent} then {sent_at} < {oldest} else {created_at} < {oldest} and {is_read} end, 0)",
            covered = covered(&self.stored.held, &columns),
            sent = columns.sent(),
            oldest = self.oldest_kept,
            is_read = is_read(self.stored.settling(self.settle), id)
        )
    }

    /// Removes what is old, and says which rows those were. One that another session has locked is kept: nothing waits for it.
    /// The term is looked at and not locked, so that its renewal waits for no purge.
    async fn remove(&self, conn: &mut MySqlConnection, seen: &Seen, by: By<'_>) -> Result<Vec<i64>, StoreError> {
        let doing = "purging";
        let mut transaction = ask(doing, conn.begin()).await?;
        if let By::Leader(term) = by
            && !is_leaders(&mut transaction, self.table, term).await?
        {
            ask(doing, transaction.rollback()).await?;
            return Err(StoreError::TermOver { term });
        }
        let free = self.lock_free(&mut transaction, seen).await?;
        if !free.is_empty() {
            let text = format!(
                "/* outboxd: remove_old */ delete from {outbox} where {id} in ({list}) order by {id} limit {most}",
                outbox = self.table.outbox(),
                id = self.table.columns().id,
                list = id_list(free.iter().copied()),
                most = free.len()
            );
            ask(doing, sqlx::raw_sql(sql(text)).execute(&mut *transaction)).await?;
            if let By::Operator(intent) = by {
                audit_log::note(&mut transaction, self.table, intent, free.len() as u64).await?;
            }
        }
        ask(doing, transaction.commit()).await?;
        Ok(free)
    }

    /// Locks those of the old rows that nobody has locked.
    async fn lock_free(&self, transaction: &mut MySqlConnection, seen: &Seen) -> Result<Vec<i64>, StoreError> {
        let doing = "purging";
        let list = id_list(seen.old());
        if list.is_empty() {
            return Ok(Vec::new());
        }
        let text = format!(
            "/* outboxd: lock_old */ select {id} from {outbox} force index (primary) where {id} in ({list})
             order by {id} limit {ROWS_PER_PURGE} for update skip locked",
            id = self.table.columns().id,
            outbox = self.table.outbox()
        );
        let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(transaction)).await?;
        let ids: Result<_, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
        ids.map_err(|error| classify(doing, error))
    }
}

/// Whether a term is the leader's.
pub(super) async fn is_leaders(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    term: Term,
) -> Result<bool, StoreError> {
    let text = format!("/* outboxd: is_leaders */ select count(*) from {} where term = ?", table.lease());
    let found = sqlx::query_scalar::<_, i64>(sql(text)).bind(term.0).fetch_one(conn);
    Ok(ask("looking who leads", found).await? == 1)
}
