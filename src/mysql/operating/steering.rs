//! What operators ask of relays: pauses, and that the leader steps down.

use chrono::{DateTime, Utc};
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{Connection, MySql, MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::errors::{classify, incompatible};
use crate::mysql::operating::audit_log;
use crate::mysql::session::{ask, sql};
use crate::mysql::table::OutboxTable;
use crate::outbox::{Intent, InvalidTopicPattern, Orders, Pause, Term, TopicPattern};

/// A pause that lasts.
const LASTS: &str = "(until is null or until > utc_timestamp(6))";

/// What is asked for now.
pub(crate) async fn orders(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Orders, StoreError> {
    let doing = "looking what operators ask for";
    let text = format!(
        "/* outboxd: orders */ select l.step_down, p.pattern, p.since, p.until, p.reason, p.actor,
             (select min(id) from {operation} where state = 'running')
         from {lease} l left join {pause} p on {LASTS} order by p.since, p.pattern",
        lease = table.lease(),
        pause = table.pause(),
        operation = table.operation()
    );
    let rows = ask(doing, sqlx::query(sql(text)).fetch_all(conn)).await?;
    let failed = |error| classify(doing, error);
    let step_down = rows.first().map(|row| row.try_get::<Option<i64>, _>(0)).transpose().map_err(failed)?;
    let pauses = rows.iter().filter_map(|row| pause_of(row).transpose()).collect::<Result<_, _>>()?;
    let operation = rows.first().map(|row| row.try_get(6)).transpose().map_err(failed)?.flatten();
    Ok(Orders { pauses, step_down: step_down.flatten().map(Term), operation })
}

fn pause_of(row: &MySqlRow) -> Result<Option<Pause>, StoreError> {
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

/// Pauses topics. A pause that is over begins anew.
pub(crate) async fn pause(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    until: Option<DateTime<Utc>>,
    intent: &Intent,
) -> Result<(), StoreError> {
    let over = format!("/* outboxd: forget_pauses */ delete from {} where not {LASTS}", table.pause());
    ask("pausing", sqlx::raw_sql(sql(over)).execute(&mut *conn)).await?;
    let text = format!(
        "/* outboxd: pause */ insert into {} (pattern, until, reason, actor) values (?, ?, ?, ?)
         on duplicate key update until = values(until), reason = values(reason), actor = values(actor)",
        table.pause()
    );
    let query = sqlx::query(sql(text)).bind(topics.as_str()).bind(until).bind(&intent.reason).bind(&intent.actor);
    change(conn, table, "pausing", query, intent).await.map(drop)
}

/// Ends a pause. Returns whether there was one.
pub(crate) async fn resume(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    topics: &TopicPattern,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let text = format!("/* outboxd: resume */ delete from {} where pattern = ? and {LASTS}", table.pause());
    change(conn, table, "resuming", sqlx::query(sql(text)).bind(topics.as_str()), intent).await
}

/// Asks the leader of a term to step down. Returns whether that term was not given up.
pub(crate) async fn request_step_down(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    term: Term,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let text = format!(
        "/* outboxd: request_step_down */ update {} set step_down = ? where term = ? and not released",
        table.lease()
    );
    let query = sqlx::query(sql(text)).bind(term.0).bind(term.0);
    change(conn, table, "asking the leader to step down", query, intent).await
}

/// Makes a change and writes it down, in one transaction. Returns whether it changed anything.
async fn change(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    doing: &'static str,
    query: Query<'_, MySql, MySqlArguments>,
    intent: &Intent,
) -> Result<bool, StoreError> {
    let mut transaction = ask(doing, conn.begin()).await?;
    let changed = ask(doing, query.execute(&mut *transaction)).await?.rows_affected();
    // What is replaced counts twice.
    audit_log::note(&mut transaction, table, intent, changed.min(1)).await?;
    ask(doing, transaction.commit()).await?;
    Ok(changed > 0)
}

/// Notes that a relay is standby, or is no longer. Those of which nothing was heard for a minute are forgotten.
pub(crate) async fn attend(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    holder: &str,
    is_standby: bool,
) -> Result<(), StoreError> {
    let doing = "noting that this relay is standby";
    let standby = table.standby();
    if is_standby {
        let note = format!(
            "/* outboxd: attend */ insert into {standby} (holder) values (?) on duplicate key update seen_at = utc_timestamp(6)"
        );
        ask(doing, sqlx::query(sql(note)).bind(holder).execute(&mut *conn)).await?;
    }
    // Found by a plain read, and removed one by one: several relays do this at once.
    let text = format!(
        "/* outboxd: gone_standbys */ select holder from {standby}
         where holder = ? and not ? or seen_at < utc_timestamp(6) - interval 60 second limit 100"
    );
    let gone = sqlx::query_scalar::<_, String>(sql(text)).bind(holder).bind(is_standby).fetch_all(&mut *conn);
    for gone in ask(doing, gone).await? {
        let text = format!("/* outboxd: forget_standby */ delete from {standby} where holder = ?");
        ask(doing, sqlx::query(sql(text)).bind(gone).execute(&mut *conn)).await?;
    }
    Ok(())
}

/// The relays that are standby.
pub(crate) async fn standbys(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Vec<String>, StoreError> {
    let text = format!(
        "/* outboxd: standbys */ select holder from {}
         where seen_at > utc_timestamp(6) - interval 15 second order by holder",
        table.standby()
    );
    ask("looking for standbys", sqlx::query_scalar(sql(text)).fetch_all(conn)).await
}
