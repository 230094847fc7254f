//! Dead letters: rows moved out of the outbox, whole, with their cause.

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::contract::StoreError;
use crate::outbox::{DeadLetter, Limit, Record, Table};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::row::{COLUMNS, Rows};

/// Moves rows that are not settled to the dead letters, all or none. The connection must be one whose commits are
/// flushed.
pub(super) async fn bury(
    connection: &mut SqliteConnection,
    table: &Table,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let doing = |error| classify("giving records up", error);
    let keep = format!(
        "/* outboxd: keep_dead_letter */
         insert into {dead} (id, event_id, topic, key, payload, headers, partition, created_at, code, message, dead_letter_topic)
         select id, event_id, topic, key, payload, headers, partition, created_at, ?3, ?4, ?5
         from {outbox} where id = ?1 and event_id = ?2 and sent_at is null
         on conflict (id, event_id) do nothing",
        dead = table.dead(),
        outbox = table.outbox()
    );
    let remove = format!(
        "/* outboxd: remove_dead_letter */ delete from {} where id = ?1 and event_id = ?2 and sent_at is null",
        table.outbox()
    );
    let stays = format!(
        "/* outboxd: look_for_swallowed */ select exists (select 1 from {} where id = ?1 and event_id = ?2 and sent_at is null)",
        table.outbox()
    );
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    for letter in letters {
        let (id, event_id) = (letter.id, letter.event_id.to_string());
        let query = sqlx::query(AssertSqlSafe(keep.clone())).bind(id).bind(&event_id);
        let query = query.bind(&letter.code).bind(&letter.message).bind(&letter.topic);
        query.execute(&mut *transaction).await.map_err(doing)?;
        let query = sqlx::query(AssertSqlSafe(remove.clone())).bind(id).bind(&event_id);
        query.execute(&mut *transaction).await.map_err(doing)?;
        let query = sqlx::query_scalar(AssertSqlSafe(stays.clone())).bind(id).bind(&event_id);
        if query.fetch_one(&mut *transaction).await.map_err(doing)? {
            return Err(unusable(
                format!("SQLite removed row {id} and kept it as it was"),
                format!("drop the trigger on {table} that swallows what the relay records"),
            ));
        }
    }
    transaction.commit().await.map_err(doing)
}

/// Dead letters that are due to a topic, by id.
pub(super) async fn due(
    connection: &mut SqliteConnection,
    table: &Table,
    after: i64,
    limit: Limit,
) -> Result<Vec<(DeadLetter, Record)>, StoreError> {
    let doing = |error| classify("reading dead letters", error);
    let sql = format!(
        "/* outboxd: due_dead_letters */ select {COLUMNS}, code, message, dead_letter_topic from {}
         where dead_letter_topic is not null and published_at is null and id > ? order by id limit ?",
        table.dead()
    );
    let records = i64::try_from(limit.records).unwrap_or(i64::MAX);
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(records).fetch_all(connection).await.map_err(doing)?;
    let mut reader = Rows::default();
    let mut bytes = 0;
    let mut letters = Vec::new();
    for row in &rows {
        let record = reader.record(row)?;
        bytes += record.footprint();
        if bytes > limit.bytes && !letters.is_empty() {
            break;
        }
        let letter = DeadLetter {
            id: record.id,
            event_id: record.event_id,
            code: row.try_get(8).map_err(doing)?,
            message: row.try_get(9).map_err(doing)?,
            topic: row.try_get(10).map_err(doing)?,
        };
        letters.push((letter, record));
    }
    Ok(letters)
}

/// Notes that dead letters were published.
pub(super) async fn delivered(connection: &mut SqliteConnection, table: &Table, ids: &[i64]) -> Result<(), StoreError> {
    let sql = format!(
        "/* outboxd: dead_letters_published */ update {} set published_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
         where published_at is null and id in (select value from json_each(?))",
        table.dead()
    );
    let ids = serde_json::to_string(ids).expect("numbers are always JSON");
    let done = sqlx::query(AssertSqlSafe(sql)).bind(ids).execute(connection).await;
    done.map(drop).map_err(|error| classify("recording published dead letters", error))
}

/// Notes that a dead letter cannot be published.
pub(super) async fn undeliverable(
    connection: &mut SqliteConnection,
    table: &Table,
    id: i64,
    why: &str,
) -> Result<(), StoreError> {
    let sql = format!(
        "/* outboxd: keep_dead_letter */ update {}
         set message = message || '; not published to ' || dead_letter_topic || ': ' || ?2, dead_letter_topic = null
         where id = ?1 and dead_letter_topic is not null and published_at is null",
        table.dead()
    );
    let done = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(why).execute(connection).await;
    done.map(drop).map_err(|error| classify("keeping a dead letter", error))
}

/// How many dead letters there are, up to a limit.
pub(super) async fn count(connection: &mut SqliteConnection, table: &Table, limit: i64) -> Result<u64, StoreError> {
    let sql =
        format!("/* outboxd: count_dead_letters */ select count(*) from (select 1 from {} limit ?)", table.dead());
    let counted = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(limit).fetch_one(connection).await;
    counted.map(i64::unsigned_abs).map_err(|error| classify("counting dead letters", error))
}
