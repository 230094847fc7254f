//! Dead letters: rows moved out of the outbox, whole, with their cause.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use sqlx::{PgConnection, Row};

use crate::contract::{DueLetter, StoreError};
use crate::outbox::{DeadLetter, Limit, Settle, Settlement};
use crate::postgres::reading::page;
use crate::postgres::reading::rows::{Page, WIDTH};
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::settle;
use crate::postgres::table::{Columns, OutboxTable};

/// Moves rows that are not settled to the dead letters. What a row lacks that a dead letter must have is filled in: it may
/// lack it only where the outbox's own constraints were dropped. One statement, so all or none; and flushed, whatever the
/// session's `synchronous_commit`: what is set for a transaction still holds while it commits.
pub(crate) async fn dead_letter(
    conn: &mut PgConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let o = table.columns_of("o");
    let Columns { id, event_id, topic, key, payload, headers, partition, created_at, .. } = table.columns();
    let text = format!(
        "/* outboxd: bury */
         with flushed as materialized (select set_config('synchronous_commit', 'on', true)),
         gone as (
             delete from {outbox} o
             using unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[])
                 as letter (id, event_id, code, message, dead_letter_topic)
             where {o_id} = letter.id and {o_event_id} is not distinct from letter.event_id and {unsent}
             returning o.*, letter.code, letter.message, letter.dead_letter_topic
         )
         insert into {dead} (id, event_id, topic, key, payload, headers, partition, created_at, code, message, dead_letter_topic)
         select {id}, coalesce({event_id}, '00000000-0000-0000-0000-000000000000'), coalesce({topic}, ''), {key}, {payload},
             coalesce({headers}, 'null'), {partition}, coalesce({created_at}, 'infinity'), code, message, dead_letter_topic
         from gone, flushed
         on conflict (id, event_id) do nothing",
        o_id = o.id,
        o_event_id = o.event_id,
        unsent = o.unsent(),
        outbox = table.outbox(),
        dead = table.dead()
    );
    let statement = sqlx::query(sql(text))
        .bind(letters.iter().map(|letter| letter.id).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.event_id).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.code.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.message.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.topic.as_deref()).collect::<Vec<_>>());
    ask("giving records up", statement.execute(&mut *conn)).await?;
    refuse_swallowed(conn, table, letters).await
}

/// A row that is still there, unsettled, was kept by a trigger that returns null, or by a rule.
async fn refuse_swallowed(
    conn: &mut PgConnection,
    table: &OutboxTable,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    let mut rows = Settlement::default();
    letters.iter().for_each(|letter| rows.push_row(letter.id, letter.event_id.unwrap_or_default()));
    settle::refuse_swallowed(conn, table, Settle::Mark, &rows).await
}

/// Dead letters that are due to a topic, by id.
pub(crate) async fn due(
    conn: &mut PgConnection,
    table: &OutboxTable,
    after: i64,
    limit: Limit,
) -> Result<Vec<DueLetter>, StoreError> {
    let doing = "reading dead letters";
    let columns = Columns::of_dead();
    let text = format!(
        "/* outboxd: due_dead_letters */ select null::text, {selected}, code, message, dead_letter_topic
         from {dead} where dead_letter_topic is not null and published_at is null and id > $2 order by id limit $1",
        selected = columns.selected(),
        dead = table.dead()
    );
    let statement = sqlx::query(sql(text)).bind(i64::try_from(limit.records).unwrap_or(i64::MAX)).bind(after);
    let mut page = Page::new(limit, limit.bytes);
    let mut letters = Vec::new();
    let mut rows = statement.fetch(&mut *conn);
    while let Some(row) = ask(doing, rows.try_next()).await? {
        page.take(&row, |_| false)?;
        let (id, event_id) = (row.get(1), row.get(2));
        let (code, message, topic) = (row.get(WIDTH), row.get(WIDTH + 1), row.get(WIDTH + 2));
        letters.push(DeadLetter { id, event_id, code, message, topic });
    }
    drop(rows);
    page::load_wide(conn, &table.dead(), &columns, &mut page).await?;
    let records = page.records.into_iter().map(|record| ((record.id, Some(record.event_id)), Ok(record)));
    let unreadable = page.unreadable.into_iter().map(|row| ((row.id, row.event_id), Err(row)));
    let mut read: HashMap<_, _> = records.chain(unreadable).collect();
    // Those that did not fit are left for the next page.
    let due = letters.into_iter().map_while(|letter| Some((read.remove(&(letter.id, letter.event_id))?, letter)));
    Ok(due.map(|(read, letter)| DueLetter { letter, read }).collect())
}

/// Notes that dead letters were published.
pub(crate) async fn delivered(conn: &mut PgConnection, table: &OutboxTable, ids: &[i64]) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: dead_letters_published */ update {} set published_at = now()
         where id = any($1) and published_at is null",
        table.dead()
    );
    ask("recording published dead letters", sqlx::query(sql(text)).bind(ids).execute(conn)).await.map(drop)
}

/// Notes that a dead letter cannot be published.
pub(crate) async fn undeliverable(
    conn: &mut PgConnection,
    table: &OutboxTable,
    id: i64,
    why: &str,
) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: keep_dead_letter */
         update {} set message = message || '; not published to ' || dead_letter_topic || ': ' || $2, dead_letter_topic = null
         where id = $1 and dead_letter_topic is not null and published_at is null",
        table.dead()
    );
    ask("keeping a dead letter", sqlx::query(sql(text)).bind(id).bind(why).execute(conn)).await.map(drop)
}
