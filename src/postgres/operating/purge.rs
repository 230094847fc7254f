//! Keeping the table small: settled rows are removed some time after they were settled.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use crate::contract::{Purge, PurgeStep, StoreError};
use crate::outbox::{Intent, Settle, Term};
use crate::postgres::operating::audit_log::bind_intent;
use crate::postgres::operating::inspect::seconds;
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint::{self, Stored};
use crate::postgres::table::{Columns, OutboxTable};

/// Rows that one call looks at: a few milliseconds, and one small transaction.
const ROWS_PER_PURGE: i64 = 2_000;

/// Rows among which the longest kept one is looked for.
const ROWS_OVERDUE: i64 = 1_000;

/// After so many rounds one begins at the lowest id instead of the stored mark: a transaction that was open for long
/// may have written below it.
const ROUNDS_TO_THE_LOWEST: u32 = 20;

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
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    purging: &mut Purging,
    term: Term,
    retention: Duration,
) -> Result<Purge, StoreError> {
    let stored = checkpoint::load(conn, table).await?;
    let by_position = stored.settling(settle);
    let after = match purging.after {
        Some(after) => after,
        None => begin_round(conn, table, purging).await?,
    };
    let bite = Bite { after, by_position, holds: &Holds::new(&stored.held), by: By::Leader(term, retention) };
    let bitten = bite.take(conn, table).await?;
    purging.advance(&bitten);
    if let Some(mark) = purging.removed_to {
        remember(conn, table, mark).await?;
    }
    let more = bitten.is_followed();
    purging.after = bitten.last.filter(|_| more);
    Ok(Purge { removed: bitten.removed, more })
}

/// Removes what is settled and was sent before a time, among the next rows, for an operator; without an intent it only says how
/// many would be removed. What is settled stays so, whoever leads.
pub(crate) async fn purge_sent(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    before: DateTime<Utc>,
    after: i64,
    intent: Option<&Intent>,
) -> Result<PurgeStep, StoreError> {
    if intent.is_some() {
        // So that no audit accuses anybody of what is gone.
        let text = format!(
            "/* outboxd: note_purge */ update {} set purged_before = $1 where purged_before is null or purged_before < $1",
            table.checkpoint()
        );
        ask("purging", sqlx::query(sql(text)).bind(before).execute(&mut *conn)).await?;
    }
    let stored = checkpoint::load(conn, table).await?;
    let holds = &Holds::new(&stored.held);
    let bite = Bite { after, by_position: stored.settling(settle), holds, by: By::Operator(before, intent) };
    let bitten = bite.take(conn, table).await?;
    Ok(PurgeStep { removed: bitten.removed, next: bitten.last.filter(|_| bitten.is_followed()) })
}

impl Purging {
    /// The mark moves only up to the first row that stays.
    fn advance(&mut self, bitten: &Bitten) {
        if self.kept_one {
            return;
        }
        self.kept_one = bitten.first_kept.is_some();
        self.removed_to = bitten.first_kept.map(|id| id - 1).or(bitten.last).or(self.removed_to);
    }
}

async fn begin_round(conn: &mut PgConnection, table: &OutboxTable, purging: &mut Purging) -> Result<i64, StoreError> {
    let rounds = purging.rounds.wrapping_add(1);
    *purging = Purging { rounds, ..Purging::default() };
    if rounds.is_multiple_of(ROUNDS_TO_THE_LOWEST) {
        return Ok(i64::MIN);
    }
    purge_mark(conn, table).await
}

/// Below this id everything was removed, but for what was written late.
async fn purge_mark(conn: &mut PgConnection, table: &OutboxTable) -> Result<i64, StoreError> {
    let text = format!("/* outboxd: purge_mark */ select purged_to from {}", table.checkpoint());
    let mark = ask("purging", sqlx::query_scalar(sql(text)).fetch_optional(conn)).await?;
    Ok(mark.unwrap_or(i64::MIN))
}

/// For how much longer than the retention the longest kept row has been kept, of the first ones that are left. Changes
/// nothing.
pub(crate) async fn overdue(
    conn: &mut PgConnection,
    table: &OutboxTable,
    settle: Settle,
    stored: &Stored,
    retention: Duration,
) -> Result<Duration, StoreError> {
    let columns = table.columns();
    let Columns { id, created_at, sent_at, .. } = &columns;
    let text = format!(
        "/* outboxd: overdue */
         select extract(epoch from clock_timestamp() - min(since) filter (where old and isfinite(since)))::float8 - $3
         from (
             select coalesce({sent_at}, {created_at}) as since, {old} as old
             from {outbox} where {id} > $1 order by {id} limit $2
         ) looked_at",
        old = is_old(&columns, "clock_timestamp() - $3 * interval '1 second'", 4),
        outbox = table.outbox()
    );
    let mark = purge_mark(conn, table).await?;
    let statement = sqlx::query(sql(text)).bind(mark).bind(ROWS_OVERDUE).bind(retention.as_secs_f64());
    let statement = statement.bind(Holds::new(&stored.held).to_told_json().map(Json));
    let statement = told::bind(statement, stored.settling(settle));
    let row = ask("looking for rows that are overdue", statement.fetch_one(conn)).await?;
    Ok(seconds(row.get(0)))
}

async fn remember(conn: &mut PgConnection, table: &OutboxTable, mark: i64) -> Result<(), StoreError> {
    let text =
        format!("/* outboxd: move_purge_mark */ update {} set purged_to = $1 where purged_to < $1", table.checkpoint());
    ask("purging", sqlx::query(sql(text)).bind(mark).execute(conn)).await.map(drop)
}

struct Bite<'a> {
    after: i64,
    /// The position that settles rows, if one does.
    by_position: Option<&'a ReadPosition>,
    holds: &'a Holds,
    by: By<'a>,
}

/// Who removes, and what.
#[derive(Clone, Copy)]
enum By<'a> {
    /// The leader of this term, what is older than so long.
    Leader(Term, Duration),
    /// An operator, what is older than this time; nothing without an intent.
    Operator(DateTime<Utc>, Option<&'a Intent>),
}

struct Bitten {
    removed: u64,
    looked_at: i64,
    last: Option<i64>,
    first_kept: Option<i64>,
    /// The last row is younger than the retention, and so are those after it, roughly.
    ends_young: bool,
}

impl Bitten {
    /// Whether there may be more to remove after it.
    fn is_followed(&self) -> bool {
        self.looked_at >= ROWS_PER_PURGE && !self.ends_young
    }
}

impl Bite<'_> {
    async fn take(&self, conn: &mut PgConnection, table: &OutboxTable) -> Result<Bitten, StoreError> {
        let (term, retention, before, intent) = match self.by {
            By::Leader(term, retention) => (Some(term), Some(retention.as_secs_f64()), None, None),
            By::Operator(before, intent) => (None, None, Some(before), intent),
        };
        let is_told_only = term.is_none() && intent.is_none();
        let statement = sqlx::query(sql(statement(table, intent.is_some())))
            .bind(term.map(|term| term.0))
            .bind(self.after)
            .bind(ROWS_PER_PURGE)
            .bind(retention)
            .bind(self.holds.to_told_json().map(Json));
        let statement = told::bind(statement, self.by_position).bind(before).bind(is_told_only);
        let statement = match intent {
            Some(intent) => bind_intent(statement, intent),
            None => statement,
        };
        let row = ask("purging", statement.fetch_one(conn)).await?;
        if let Some(term) = term.filter(|_| !row.get::<bool, _>(0)) {
            return Err(StoreError::TermOver { term });
        }
        Ok(Bitten {
            removed: row.get::<i64, _>(1).unsigned_abs(),
            looked_at: row.get(2),
            last: row.get(3),
            first_kept: row.get(4),
            ends_young: row.get::<Option<bool>, _>(5).unwrap_or(true),
        })
    }
}

/// The time before which rows are old, in SQL.
const OLDEST_KEPT: &str =
    "case when $11 is null then clock_timestamp() - $4 * interval '1 second' else least($11, clock_timestamp()) end";

/// A row is removed by its own marks, or, where none are written, if the stored position says that it was read. One that
/// another session has locked is kept: nothing waits for it. The term is looked at and not locked, so that its renewal waits
/// for no purge; what is settled stays so, whichever relay leads. What an operator removes is noted in the audit log.
fn statement(table: &OutboxTable, is_noted: bool) -> String {
    let columns = table.columns();
    let Columns { id, created_at, .. } = &columns;
    let noted = format!(
        ", noted as (
             insert into {audit_log} (command, subject, reason, actor, affected)
             select $13::text, $14::text, $15::text, $16::text, count(*) from removed having count(*) > 0
         )",
        audit_log = table.audit_log()
    );
    format!(
        "/* outboxd: purge */
         with looked_at as materialized (
             select {id}, {created_at}, {old} as old
             from {outbox} where {id} > $2 order by {id} limit $3
         ),
         free as materialized (
             select {id} from {outbox} where {id} = any(array(select {id} from looked_at where old and not $12)) for update skip locked
         ),
         removed as (
             delete from {outbox} where {id} = any(array(select {id} from free)) and ($1 is null or exists (select from {lease} where term = $1))
             returning {id}
         ){noted}
         select exists (select from {lease} where term = $1),
             case when $12 then (select count(*) from looked_at where old) else (select count(*) from removed) end, count(*), max({id}),
             (select min({id}) from (select {id} from looked_at except select {id} from free) kept),
             bool_or({created_at} > {OLDEST_KEPT}) filter (where {id} = (select max({id}) from looked_at))
         from looked_at",
        noted = if is_noted { noted.as_str() } else { "" },
        lease = table.lease(),
        outbox = table.outbox(),
        old = is_old(&columns, OLDEST_KEPT, 5)
    )
}

/// The condition that a row may go: by its own mark, or by the stored position. Given the time before which rows are old, in
/// SQL, and the number of the first parameter: the held lanes, then what [`told::bind`] binds.
fn is_old(columns: &Columns, oldest_kept: &str, first: usize) -> String {
    let Columns { created_at, sent_at, .. } = columns;
    format!(
        "not {left} and case when {sent_at} is not null then {sent_at} < {oldest_kept}
             else {created_at} < {oldest_kept} and {is_read} end",
        left = left_to_a_lane(columns, &format!("${first}")),
        is_read = told::is_read(columns, first + 1)
    )
}
