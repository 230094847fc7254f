//! Removing old settled rows, some at a time, so that no writer waits long for the one write lock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Purge, PurgeStep, StoreError};
use crate::outbox::{Intent, Settle, Term};
use crate::sqlite::errors::classify;
use crate::sqlite::operating::audit_log;
use crate::sqlite::reading::holds::covered;
use crate::sqlite::table::{Columns, OutboxTable};

/// Rows that one round looks at.
const ROWS_PER_PURGE: i64 = 1_000;

/// Rows among which the longest kept one is looked for.
const ROWS_OVERDUE: i64 = 1_000;

/// One round: looks at the rows above `cursor` and up to the checkpoint, and removes what is settled and old.
/// The cursor then stands where the next round begins: at the start again once a row is found that is too young.
pub(crate) async fn purge(
    connection: &mut SqliteConnection,
    walk: PurgeScope<'_>,
    term: Term,
    cursor: &mut i64,
) -> Result<Purge, StoreError> {
    let doing = |error| classify("purging", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    if !is_leaders(&mut transaction, walk.table, term).await.map_err(doing)? {
        return Err(StoreError::TermOver { term });
    }
    let seen = walk.look(&mut transaction, *cursor).await.map_err(doing)?;
    let removed = walk.remove(&mut transaction, *cursor, seen.last).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)?;
    let more = seen.is_followed();
    *cursor = if more { seen.last } else { 0 };
    Ok(Purge { removed, more })
}

/// Removes what is settled and was sent before a time, among the next rows, for an operator; without an intent it only says how
/// many would be removed. What is settled stays so, whoever leads.
pub(crate) async fn purge_sent(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    settle: Settle,
    before: DateTime<Utc>,
    after: i64,
    intent: Option<&Intent>,
) -> Result<PurgeStep, StoreError> {
    let doing = |error| classify("purging", error);
    let retention = (Utc::now() - before).to_std().unwrap_or_default();
    let scope = PurgeScope { table, settle, retention };
    let Some(intent) = intent else {
        let seen = scope.look(connection, after).await.map_err(doing)?;
        let removed = scope.count(connection, after, seen.last).await.map_err(doing)?;
        return Ok(PurgeStep { removed, next: seen.is_followed().then_some(seen.last) });
    };
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    // So that no audit accuses anybody of what is gone.
    let note = format!(
        "/* outboxd: note_purge */ update {} set purged_before = ?1
         where purged_before is null or julianday(purged_before) < julianday(?1)",
        table.checkpoint()
    );
    sqlx::query(AssertSqlSafe(note)).bind(before).execute(&mut *transaction).await.map_err(doing)?;
    let seen = scope.look(&mut transaction, after).await.map_err(doing)?;
    let removed = scope.remove(&mut transaction, after, seen.last).await.map_err(doing)?;
    audit_log::note(&mut transaction, table, intent, removed).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(PurgeStep { removed, next: seen.is_followed().then_some(seen.last) })
}

/// What is walked, and what counts as old.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PurgeScope<'a> {
    pub(crate) table: &'a OutboxTable,
    pub(crate) settle: Settle,
    pub(crate) retention: Duration,
}

/// What a round found.
struct Seen {
    looked: i64,
    last: i64,
    young: i64,
}

impl Seen {
    /// Whether there may be more to remove after it.
    fn is_followed(&self) -> bool {
        self.looked == ROWS_PER_PURGE && self.young == 0
    }
}

impl PurgeScope<'_> {
    async fn look(&self, connection: &mut SqliteConnection, cursor: i64) -> Result<Seen, sqlx::Error> {
        let sql = format!(
            "/* outboxd: look_for_old */ select count(*), coalesce(max(id), 0), coalesce(sum(is_young), 0) from (
                select {id} as id, {settled_at} is not null and not ({old}) as is_young from {outbox} as o not indexed
                where {id} > ?1 and {id} <= (select position from {checkpoint})
                order by {id} limit ?3)",
            id = self.table.columns_of("o").id,
            settled_at = self.settled_at(),
            old = self.old(),
            outbox = self.table.outbox(),
            checkpoint = self.table.checkpoint()
        );
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(cursor).bind(self.days()).bind(ROWS_PER_PURGE);
        let (looked, last, young) = query.fetch_one(connection).await?;
        Ok(Seen { looked, last, young })
    }

    /// For how many seconds more than the retention the longest kept row has been kept, of the first ones up to the
    /// checkpoint.
    pub(crate) async fn overdue(&self, connection: &mut SqliteConnection) -> Result<f64, sqlx::Error> {
        let sql = format!(
            "/* outboxd: overdue */ select coalesce(max(julianday('now') - julianday(since) - ?2) * 86400.0, 0.0) from (
                select {settled_at} as since, {old} and not {covered} as is_old from {outbox} as o not indexed
                where {id} > ?1 and {id} <= (select position from {checkpoint})
                order by {id} limit ?3) where is_old",
            id = self.table.columns_of("o").id,
            settled_at = self.settled_at(),
            old = self.old(),
            covered = covered(self.table),
            outbox = self.table.outbox(),
            checkpoint = self.table.checkpoint()
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(0_i64).bind(self.days()).bind(ROWS_OVERDUE);
        query.fetch_one(connection).await
    }

    async fn remove(&self, connection: &mut SqliteConnection, cursor: i64, last: i64) -> Result<u64, sqlx::Error> {
        let sql = format!(
            "/* outboxd: remove_old */ delete from {outbox} where {id} in (select {o_id} from {rows})",
            id = self.table.columns().id,
            o_id = self.table.columns_of("o").id,
            outbox = self.table.outbox(),
            rows = self.removable()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(cursor).bind(self.days()).bind(last);
        Ok(query.execute(connection).await?.rows_affected())
    }

    async fn count(&self, connection: &mut SqliteConnection, cursor: i64, last: i64) -> Result<u64, sqlx::Error> {
        let sql = format!("/* outboxd: count_old */ select count(*) from {}", self.removable());
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(cursor).bind(self.days()).bind(last);
        Ok(query.fetch_one(connection).await?.unsigned_abs())
    }

    /// What may be removed between two ids.
    fn removable(&self) -> String {
        format!(
            "{outbox} as o not indexed where {id} > ?1 and {id} <= ?3 and {old} and not {covered}",
            outbox = self.table.outbox(),
            id = self.table.columns_of("o").id,
            old = self.old(),
            covered = covered(self.table)
        )
    }

    /// When the row `o` counts as settled. Where rows are not marked, all up to the checkpoint are; and where they are,
    /// those are that were read before that.
    fn settled_at(&self) -> String {
        let o = self.table.columns_of("o");
        let Columns { id, created_at, sent_at, .. } = &o;
        let unsent = o.unsent();
        match self.settle {
            Settle::Mark | Settle::Delete => format!(
                "case when {unsent} and {id} <= (select settled_to from {}) then {created_at} else {sent_at} end",
                self.table.checkpoint()
            ),
            Settle::Checkpoint => created_at.clone(),
        }
    }

    fn old(&self) -> String {
        format!("coalesce(julianday({}) < julianday('now') - ?2, false)", self.settled_at())
    }

    fn days(&self) -> f64 {
        self.retention.as_secs_f64() / 86_400.0
    }
}

async fn is_leaders(connection: &mut SqliteConnection, table: &OutboxTable, term: Term) -> Result<bool, sqlx::Error> {
    let sql = format!("/* outboxd: is_leaders */ select count(*) from {} where term = ?", table.lease());
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(term.0).fetch_one(connection).await?;
    Ok(rows == 1)
}
