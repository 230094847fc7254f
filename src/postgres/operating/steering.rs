//! What operators ask of relays: pauses, and that the leader steps down.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::contract::StoreError;
use crate::outbox::{Intent, InvalidTopicPattern, Orders, Pause, Term, TopicPattern};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::operating::audit_log::{audited, bind_intent, change};
use crate::postgres::session::{ask, sql};
use crate::postgres::table::OutboxTable;

/// A pause that lasts, by its columns.
const LASTS: &str = "(p.until is null or p.until > clock_timestamp())";

/// What is asked for now.
pub(crate) async fn orders(conn: &mut PgConnection, table: &OutboxTable) -> Result<Orders, StoreError> {
    let text = format!(
        "/* outboxd: orders */
         select l.step_down, p.pattern, p.since, p.until, p.reason, p.actor,
             (select min(id) from {operation} where state = 'running')
         from {lease} l left join {pause} p on {LASTS} order by p.since, p.pattern",
        lease = table.lease(),
        pause = table.pause(),
        operation = table.operation()
    );
    let rows = ask("looking what operators ask for", sqlx::query(sql(text)).fetch_all(conn)).await?;
    let step_down = rows.first().and_then(|row| row.get::<Option<i64>, _>(0)).map(Term);
    let pauses = rows.iter().filter_map(|row| pause_of(row).transpose()).collect::<Result<_, _>>()?;
    let operation = rows.first().and_then(|row| row.get(6));
    Ok(Orders { pauses, step_down, operation })
}

fn pause_of(row: &PgRow) -> Result<Option<Pause>, StoreError> {
    let read = || -> Result<_, sqlx::Error> {
        let Some(pattern) = row.try_get::<Option<String>, _>(1)? else { return Ok(None) };
        Ok(Some((pattern, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?, row.try_get(5)?)))
    };
    let Some((pattern, since, until, reason, actor)) = read().map_err(|error| classify("reading pauses", error))?
    else {
        return Ok(None);
    };
    // To publish what an operator meant to stop would be worse than to stop.
    let unknown =
        |error: InvalidTopicPattern| incompatible(format!("what is paused cannot be read: {error}"), "delete the row");
    Ok(Some(Pause { topics: pattern.parse().map_err(unknown)?, since, until, reason, actor }))
}

/// Pauses topics.
pub(crate) async fn pause(
    conn: &mut PgConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    until: Option<DateTime<Utc>>,
    intent: &Intent,
) -> Result<(), StoreError> {
    let over = format!("/* outboxd: forget_pauses */ delete from {} p where not {LASTS}", table.pause());
    ask("forgetting pauses that are over", sqlx::query(sql(over)).execute(&mut *conn)).await?;
    let text = format!(
        "insert into {pause} as p (pattern, until, reason, actor) values ($1, $2, $5::text, $6::text)
         on conflict (pattern) do update set until = excluded.until, reason = excluded.reason, actor = excluded.actor
         returning 1",
        pause = table.pause()
    );
    let statement = sqlx::query(sql(audited("pause", table, &text, 3))).bind(topics.as_str()).bind(until);
    change(conn, "pausing", bind_intent(statement, intent)).await.map(drop)
}

/// Ends a pause. Returns whether there was one.
pub(crate) async fn resume(
    conn: &mut PgConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let text = format!("delete from {} p where p.pattern = $1 and {LASTS} returning 1", table.pause());
    let statement = sqlx::query(sql(audited("resume", table, &text, 2))).bind(topics.as_str());
    Ok(change(conn, "resuming", bind_intent(statement, intent)).await? > 0)
}

/// Asks the leader of a term to step down. Returns whether that term was not given up.
pub(crate) async fn request_step_down(
    conn: &mut PgConnection,
    table: &OutboxTable,
    term: Term,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let text = format!("update {} set step_down = $1 where term = $1 and not released returning 1", table.lease());
    let statement = sqlx::query(sql(audited("request_step_down", table, &text, 2))).bind(term.0);
    Ok(change(conn, "asking the leader to step down", bind_intent(statement, intent)).await? > 0)
}

/// Notes that a relay is standby, or is no longer. Those of which nothing was heard for a minute are forgotten.
pub(crate) async fn attend(
    conn: &mut PgConnection,
    table: &OutboxTable,
    holder: &str,
    is_standby: bool,
) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: attend */
         with gone as (
             delete from {standby} where holder <> $1 and seen_at < clock_timestamp() - interval '1 minute'
                 or holder = $1 and not $2
         )
         insert into {standby} (holder) select $1 where $2
         on conflict (holder) do update set seen_at = clock_timestamp()",
        standby = table.standby()
    );
    let statement = sqlx::query(sql(text)).bind(holder).bind(is_standby).execute(conn);
    ask("noting that this relay is standby", statement).await.map(drop)
}

/// The relays that are standby.
pub(crate) async fn standbys(conn: &mut PgConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "/* outboxd: standbys */ select holder from {} where seen_at > clock_timestamp() - interval '15 seconds' order by holder",
        table.standby()
    );
    ask("looking for standbys", sqlx::query_scalar(sql(text)).fetch_all(conn)).await
}
