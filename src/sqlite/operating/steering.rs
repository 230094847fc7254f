//! What operators ask of relays: pauses, and that the leader steps down.

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row, Sqlite, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{Intent, InvalidTopicPattern, Orders, Pause, Term, TopicPattern};
use crate::sqlite::errors::{classify, incompatible};
use crate::sqlite::operating::audit_log;
use crate::sqlite::table::OutboxTable;

/// A pause that lasts. Times are kept as text of one form, so that they compare as times.
const LASTS: &str = "(until is null or until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";

/// What is asked for now.
pub(crate) async fn orders(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<Orders, StoreError> {
    let doing = |error| classify("looking what operators ask for", error);
    let sql = format!(
        "/* outboxd: orders */ select l.step_down, p.pattern, p.since, p.until, p.reason, p.actor,
             (select min(id) from {operation} where state = 'running')
         from {lease} l left join {pause} p on {LASTS} order by p.since, p.pattern",
        lease = table.lease(),
        pause = table.pause(),
        operation = table.operation()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.map_err(doing)?;
    let step_down = rows.first().map(|row| row.try_get::<Option<i64>, _>(0)).transpose().map_err(doing)?;
    let pauses = rows.iter().filter_map(|row| pause_of(row).transpose()).collect::<Result<_, _>>()?;
    let operation = rows.first().map(|row| row.try_get(6)).transpose().map_err(doing)?.flatten();
    Ok(Orders { pauses, step_down: step_down.flatten().map(Term), operation })
}

fn pause_of(row: &SqliteRow) -> Result<Option<Pause>, StoreError> {
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
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    until: Option<DateTime<Utc>>,
    intent: &Intent,
) -> Result<(), StoreError> {
    let doing = |error| classify("pausing", error);
    let over = format!("/* outboxd: forget_pauses */ delete from {} where not {LASTS}", table.pause());
    sqlx::query(AssertSqlSafe(over)).execute(&mut *connection).await.map_err(doing)?;
    let sql = format!(
        "/* outboxd: pause */ insert into {} (pattern, until, reason, actor) values (?, ?, ?, ?)
         on conflict (pattern) do update set until = excluded.until, reason = excluded.reason, actor = excluded.actor",
        table.pause()
    );
    let until = until.map(|until| until.to_rfc3339_opts(SecondsFormat::Millis, true));
    let query = sqlx::query(AssertSqlSafe(sql)).bind(topics.as_str()).bind(until);
    let query = query.bind(&intent.reason).bind(&intent.actor);
    change(connection, table, "pausing", query, intent).await.map(drop)
}

/// Ends a pause. Returns whether there was one.
pub(crate) async fn resume(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let sql = format!("/* outboxd: resume */ delete from {} where pattern = ? and {LASTS}", table.pause());
    let query = sqlx::query(AssertSqlSafe(sql)).bind(topics.as_str());
    change(connection, table, "resuming", query, intent).await
}

/// Asks the leader of a term to step down. Returns whether that term was not given up.
pub(crate) async fn request_step_down(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    term: Term,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let sql = format!(
        "/* outboxd: request_step_down */ update {} set step_down = ?1 where term = ?1 and expires_at is not null",
        table.lease()
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(term.0);
    change(connection, table, "asking the leader to step down", query, intent).await
}

/// Makes a change and writes it down, in one transaction. Returns whether it changed anything.
async fn change(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    doing: &'static str,
    query: Query<'_, Sqlite, SqliteArguments>,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let doing = |error| classify(doing, error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let changed = query.execute(&mut *transaction).await.map_err(doing)?.rows_affected();
    audit_log::note(&mut transaction, table, intent, changed).await?;
    transaction.commit().await.map_err(doing)?;
    Ok(changed > 0)
}

/// Notes that a relay is standby, or is no longer. Those of which nothing was heard for a minute are forgotten.
pub(crate) async fn attend(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    holder: &str,
    is_standby: bool,
) -> Result<(), StoreError> {
    let doing = |error| classify("noting that this relay is standby", error);
    let standby = table.standby();
    let forget = format!(
        "/* outboxd: forget_standbys */ delete from {standby}
         where holder = ?1 or seen_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-60 seconds')"
    );
    let note = format!("/* outboxd: attend */ insert into {standby} (holder) select ?1 where ?2");
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    sqlx::query(AssertSqlSafe(forget)).bind(holder).execute(&mut *transaction).await.map_err(doing)?;
    sqlx::query(AssertSqlSafe(note)).bind(holder).bind(is_standby).execute(&mut *transaction).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)
}

/// The relays that are standby.
pub(crate) async fn standbys(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "/* outboxd: standbys */ select holder from {}
         where seen_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-15 seconds') order by holder",
        table.standby()
    );
    let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await;
    found.map_err(|error| classify("looking for standbys", error))
}
