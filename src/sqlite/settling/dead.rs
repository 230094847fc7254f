//! Dead letters: rows moved out of the outbox, whole, with their cause.

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::contract::{DueLetter, StoreError};
use crate::outbox::{DeadLetter, Limit};
use crate::reading::{Filling, Fit};
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::reading::rows::{Rows, WIDTH};
use crate::sqlite::table::{Columns, OutboxTable};

/// Moves rows that are not settled to the dead letters, all or none. What a row lacks that a dead letter must have is filled
/// in: it may lack it only where the outbox's own constraints were dropped. The connection must be one whose commits are
/// flushed.
pub(crate) async fn dead_letter(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let doing = |error| classify("giving records up", error);
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    bury(&mut transaction, table, letters).await?;
    transaction.commit().await.map_err(doing)
}

/// As [`dead_letter`], in a transaction that was begun.
pub(crate) async fn bury(
    transaction: &mut SqliteConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let doing = |error| classify("giving records up", error);
    // A letter does not tell an event id that cannot be read; ids are never given twice here.
    let columns = table.columns();
    let Columns { id, event_id, topic, key, payload, headers, partition, created_at, .. } = &columns;
    let named = format!("{id} = ?1 and ({event_id} = ?2 or ?2 is null) and {}", columns.unsent());
    let keep = format!(
        "/* outboxd: keep_dead_letter */
         insert into {dead} (id, event_id, topic, key, payload, headers, partition, created_at, code, message, dead_letter_topic)
         select {id}, coalesce({event_id}, ''), coalesce({topic}, ''), {key}, {payload}, coalesce({headers}, ''), {partition},
             coalesce({created_at}, ''), ?3, ?4, ?5
         from {outbox} where {named}
         on conflict (id, event_id) do nothing",
        dead = table.dead(),
        outbox = table.outbox()
    );
    let remove = format!("/* outboxd: remove_dead_letter */ delete from {} where {named}", table.outbox());
    let stays =
        format!("/* outboxd: look_for_swallowed */ select exists (select 1 from {} where {named})", table.outbox());
    for letter in letters {
        let (id, event_id) = (letter.id, letter.event_id.map(|event_id| event_id.to_string()));
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
    Ok(())
}

/// Dead letters that are due to a topic, by id.
pub(crate) async fn due(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    after: i64,
    limit: Limit,
) -> Result<Vec<DueLetter>, StoreError> {
    let doing = |error| classify("reading dead letters", error);
    let dead = table.dead();
    let columns = Columns::of_dead();
    let selected = columns.selected();
    let sql = format!(
        "/* outboxd: due_dead_letters */ select {selected}, code, message, dead_letter_topic from {dead}
         where dead_letter_topic is not null and published_at is null and id > ? order by id limit ?"
    );
    let records = i64::try_from(limit.records).unwrap_or(i64::MAX);
    let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(records).fetch(&mut *connection);
    let mut reader = Rows::new(limit.bytes);
    let mut filling = Filling::of(limit);
    let mut read = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(doing)? {
        let content = reader.read(&row)?;
        if filling.take(content.footprint()) == Fit::Full {
            break;
        }
        let cause = (row.try_get(WIDTH).map_err(doing)?, row.try_get(WIDTH + 1).map_err(doing)?);
        read.push((cause, row.try_get(WIDTH + 2).map_err(doing)?, content));
    }
    drop(rows);
    let mut letters = Vec::with_capacity(read.len());
    for ((code, message), topic, content) in read {
        let id = content.id();
        let Some(read) = content.load(connection, &dead, &columns).await? else { continue };
        let event_id = read.as_ref().map_or_else(|row| row.event_id, |record| Some(record.event_id));
        letters.push(DueLetter { letter: DeadLetter { id, event_id, code, message, topic }, read });
    }
    Ok(letters)
}

/// Notes that dead letters were published.
pub(crate) async fn delivered(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    ids: &[i64],
) -> Result<(), StoreError> {
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
pub(crate) async fn undeliverable(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
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
pub(crate) async fn count(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    limit: i64,
) -> Result<u64, StoreError> {
    let sql =
        format!("/* outboxd: count_dead_letters */ select count(*) from (select 1 from {} limit ?)", table.dead());
    let counted = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(limit).fetch_one(connection).await;
    counted.map(i64::unsigned_abs).map_err(|error| classify("counting dead letters", error))
}
