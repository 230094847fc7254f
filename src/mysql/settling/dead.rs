//! Dead letters: rows moved out of the outbox, whole, with their cause.

use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};
use uuid::Uuid;

use crate::contract::{DueLetter, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::reading::rows::{Rows, WIDTH};
use crate::mysql::session::{ask, id_list, sql};
use crate::mysql::table::{Columns, OutboxTable};
use crate::outbox::{DeadLetter, Limit};
use crate::reading::{Filling, Fit};

const BURYING: &str = "giving records up";

/// Rows that a statement names.
const ROWS_PER_STATEMENT: usize = 1_000;

/// Moves rows that are not settled to the dead letters, all or none.
pub(crate) async fn dead_letter(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let mut transaction = conn.begin().await.map_err(|error| classify(BURYING, error))?;
    bury(&mut transaction, table, letters).await?;
    ask(BURYING, transaction.commit()).await
}

/// As [`dead_letter`], in a transaction that was begun. What a row lacks that a dead letter must have is filled in: it may
/// lack it only where the outbox's own constraints were dropped.
pub(crate) async fn bury(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    for letters in letters.chunks(ROWS_PER_STATEMENT) {
        let found = lock(transaction, table, letters).await?;
        let is_found = |letter: &&DeadLetter| {
            let mut event_ids = found.iter().filter(|(id, _)| *id == letter.id).map(|(_, event_id)| event_id);
            event_ids.any(|event_id| letter.event_id.is_none() || letter.event_id == *event_id)
        };
        let dying: Vec<&DeadLetter> = letters.iter().filter(is_found).collect();
        for letter in &dying {
            keep(transaction, table, letter).await?;
        }
        if !dying.is_empty() {
            remove(transaction, table, &dying).await?;
        }
    }
    Ok(())
}

/// Locks the rows of letters that are not settled, and returns their names.
async fn lock(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<Vec<(i64, Option<Uuid>)>, StoreError> {
    let columns = table.columns();
    let text = format!(
        "/* outboxd: lock_dying */ select {id}, {event_id} from {outbox} force index (primary)
         where {id} in ({ids}) and {unsent} order by {id} for update",
        id = columns.id,
        event_id = columns.event_id,
        outbox = table.outbox(),
        ids = id_list(letters.iter().map(|letter| letter.id)),
        unsent = columns.unsent()
    );
    let rows = ask(BURYING, sqlx::raw_sql(sql(text)).fetch_all(transaction)).await?;
    let name = |row: &MySqlRow| -> Result<(i64, Option<Uuid>), sqlx::Error> {
        let event_id = row.try_get_unchecked::<Option<&[u8]>, _>(1)?;
        Ok((row.try_get_unchecked(0)?, event_id.and_then(|event_id| Uuid::try_parse_ascii(event_id).ok())))
    };
    rows.iter().map(name).collect::<Result<_, _>>().map_err(|error| classify(BURYING, error))
}

/// Copies a row that is ours to the dead letters. One that is there already stays.
async fn keep(transaction: &mut MySqlConnection, table: &OutboxTable, letter: &DeadLetter) -> Result<(), StoreError> {
    let Columns { id, event_id, topic, key, payload, headers, partition, created_at, .. } = table.columns();
    let text = format!(
        "/* outboxd: keep_dead_letter */
         insert into {dead} (id, event_id, topic, `key`, payload, headers, `partition`, created_at, code, message, dead_letter_topic)
         select {id}, coalesce({event_id}, ''), coalesce({topic}, ''), {key}, {payload},
             coalesce(cast({headers} as char), 'null'), {partition}, coalesce({created_at}, '9999-12-31'), ?, ?, ?
         from {outbox} force index (primary) where {id} = ?
         on duplicate key update id = values(id)",
        dead = table.dead(),
        outbox = table.outbox()
    );
    let statement = sqlx::query(sql(text)).bind(&letter.code).bind(&letter.message).bind(&letter.topic).bind(letter.id);
    ask(BURYING, statement.execute(transaction)).await.map(drop)
}

async fn remove(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    letters: &[&DeadLetter],
) -> Result<(), StoreError> {
    let Columns { id, .. } = table.columns();
    let text = format!(
        "/* outboxd: remove_dead_letters */ delete from {outbox} where {id} in ({ids}) order by {id} limit {rows}",
        outbox = table.outbox(),
        ids = id_list(letters.iter().map(|letter| letter.id)),
        rows = letters.len()
    );
    ask(BURYING, sqlx::raw_sql(sql(text)).execute(transaction)).await.map(drop)
}

/// Dead letters that are due to a topic, by id.
pub(crate) async fn due(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    after: i64,
    limit: Limit,
) -> Result<Vec<DueLetter>, StoreError> {
    let failed = |error| classify("reading dead letters", error);
    let (dead, columns) = (table.dead(), Columns::of_dead());
    let text = format!(
        "/* outboxd: due_dead_letters */ select {selected}, code, message, dead_letter_topic from {dead}
         where is_due = 1 and id > {after} order by id limit {rows}",
        selected = columns.selected(),
        rows = limit.records
    );
    let mut rows = sqlx::raw_sql(sql(text)).fetch(&mut *conn);
    let mut reader = Rows::new(limit.bytes);
    let mut filling = Filling::of(limit);
    let mut read = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let content = reader.read(&row)?;
        if filling.take(content.footprint()) == Fit::Full {
            break;
        }
        let cause: (String, String) = (text_of(&row, WIDTH)?, text_of(&row, WIDTH + 1)?);
        let topic = row.try_get_unchecked::<Option<String>, _>(WIDTH + 2).map_err(failed)?;
        read.push((cause, topic, content));
    }
    drop(rows);
    let mut letters = Vec::with_capacity(read.len());
    for ((code, message), topic, content) in read {
        let id = content.id();
        let Some(read) = content.load(conn, &dead, &columns).await? else { continue };
        let event_id = read.as_ref().map_or_else(|row| row.event_id, |record| Some(record.event_id));
        letters.push(DueLetter { letter: DeadLetter { id, event_id, code, message, topic }, read });
    }
    Ok(letters)
}

fn text_of(row: &MySqlRow, column: usize) -> Result<String, StoreError> {
    row.try_get_unchecked(column).map_err(|error| classify("reading dead letters", error))
}

/// Notes that dead letters were published.
pub(crate) async fn delivered(conn: &mut MySqlConnection, table: &OutboxTable, ids: &[i64]) -> Result<(), StoreError> {
    let doing = "recording published dead letters";
    for ids in ids.chunks(ROWS_PER_STATEMENT) {
        let text = format!(
            "/* outboxd: dead_letters_published */ update {} set published_at = utc_timestamp(6)
             where id in ({}) and published_at is null",
            table.dead(),
            id_list(ids.iter().copied())
        );
        ask(doing, sqlx::raw_sql(sql(text)).execute(&mut *conn)).await?;
    }
    Ok(())
}

/// Notes that a dead letter cannot be published.
pub(crate) async fn undeliverable(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    id: i64,
    why: &str,
) -> Result<(), StoreError> {
    // Assignments are made from left to right.
    let text = format!(
        "/* outboxd: keep_dead_letter */ update {}
         set message = concat(message, '; not published to ', dead_letter_topic, ': ', ?), dead_letter_topic = null
         where id = ? and dead_letter_topic is not null and published_at is null",
        table.dead()
    );
    let statement = sqlx::query(sql(text)).bind(why).bind(id);
    ask("keeping a dead letter", statement.execute(conn)).await.map(drop)
}

/// How many dead letters there are, up to a limit.
pub(crate) async fn count(conn: &mut MySqlConnection, table: &OutboxTable, limit: i64) -> Result<u64, StoreError> {
    let doing = "counting dead letters";
    let text = format!(
        "/* outboxd: count_dead_letters */ select count(*) from (select 1 from {} limit {limit}) counted",
        table.dead(),
        limit = limit.max(0)
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    let counted = row.try_get_unchecked::<i64, _>(0).map_err(|error| classify(doing, error))?;
    Ok(counted.unsigned_abs())
}
