//! Writing messages, inside the caller's own transaction.

use std::collections::BTreeMap;

use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::outbox::{Message, Table};
use crate::postgres::quote;

/// Why a message was not written. The caller's transaction is aborted, as after every error in PostgreSQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The outbox table is not there.
    #[error("there is no outbox table {table}: run `outboxd migrate --table {table}`, or check the search_path")]
    NoTable {
        /// The table that was looked for.
        table: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The database refused or went away.
    #[error("the message was not written to the outbox")]
    Database(#[source] sqlx::Error),
}

/// Writes a message to the table `outbox`. It is published if and only if the transaction commits. Returns the row's id.
///
/// Messages of one topic and key are published in the order in which they were written, if the application locks
/// or updates what the key stands for before it writes them.
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue(conn: &mut PgConnection, message: &Message) -> Result<i64, EnqueueError> {
    enqueue_into(conn, &Table::default(), message).await
}

/// Writes a message to an outbox of another name, as [`enqueue`] does.
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue_into(conn: &mut PgConnection, table: &Table, message: &Message) -> Result<i64, EnqueueError> {
    let text = format!(
        "/* outboxd: enqueue */ insert into {outbox} (event_id, topic, key, payload, headers, partition)
         values ($1, $2, $3, $4, $5, $6) returning id",
        outbox = quote::outbox(table)
    );
    let statement = sqlx::query_scalar(AssertSqlSafe(text))
        .bind(message.event_id())
        .bind(message.topic())
        .bind(message.key())
        .bind(message.payload())
        .bind(Json(message.headers()))
        .bind(message.partition());
    statement.fetch_one(conn).await.map_err(|error| explain(table, error))
}

/// Writes messages to the table `outbox` in one statement, in their order. Returns the rows' ids, ascending.
///
/// # Errors
/// When the table is missing or the database refuses; then none is written.
pub async fn enqueue_many(conn: &mut PgConnection, messages: &[Message]) -> Result<Vec<i64>, EnqueueError> {
    enqueue_many_into(conn, &Table::default(), messages).await
}

/// Writes messages to an outbox of another name, as [`enqueue_many`] does.
///
/// # Errors
/// When the table is missing or the database refuses; then none is written.
pub async fn enqueue_many_into(
    conn: &mut PgConnection,
    table: &Table,
    messages: &[Message],
) -> Result<Vec<i64>, EnqueueError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    insert_many(conn, &quote::outbox(table), messages).await.map_err(|error| explain(table, error))
}

/// Writes messages to the outbox that SQL calls so, in one statement, in their order.
pub(super) async fn insert_many(
    conn: &mut PgConnection,
    outbox: &str,
    messages: &[Message],
) -> Result<Vec<i64>, sqlx::Error> {
    // Ids are handed out in the order of the sort: PostgreSQL computes defaults above it. Names are told with their schema,
    // because the application's search_path may lead to what other roles create.
    let text = format!(
        "/* outboxd: enqueue_many */ insert into {outbox} (event_id, topic, key, payload, headers, partition)
         select event_id, topic, key, payload, headers, partition
         from rows from (
             pg_catalog.unnest($1::pg_catalog.uuid[]), pg_catalog.unnest($2::pg_catalog.text[]),
             pg_catalog.unnest($3::pg_catalog.text[]), pg_catalog.unnest($4::pg_catalog.bytea[]),
             pg_catalog.unnest($5::pg_catalog.jsonb[]), pg_catalog.unnest($6::pg_catalog.int4[])
         ) with ordinality m (event_id, topic, key, payload, headers, partition, at)
         order by at returning id"
    );
    let statement = sqlx::query_scalar(AssertSqlSafe(text))
        .bind(messages.iter().map(Message::event_id).collect::<Vec<Uuid>>())
        .bind(messages.iter().map(Message::topic).collect::<Vec<&str>>())
        .bind(messages.iter().map(Message::key).collect::<Vec<Option<&str>>>())
        .bind(messages.iter().map(Message::payload).collect::<Vec<Option<&[u8]>>>())
        .bind(messages.iter().map(|message| Json(message.headers())).collect::<Vec<Json<&BTreeMap<String, String>>>>())
        .bind(messages.iter().map(Message::partition).collect::<Vec<Option<i32>>>());
    statement.fetch_all(conn).await
}

fn explain(table: &Table, source: sqlx::Error) -> EnqueueError {
    match &source {
        sqlx::Error::Database(database) if database.code().as_deref() == Some("42P01") => {
            EnqueueError::NoTable { table: table.to_string(), source }
        }
        _ => EnqueueError::Database(source),
    }
}
