//! Writing messages, inside the caller's own transaction.

use sqlx::types::Json;
use sqlx::{QueryBuilder, SqliteConnection};

use crate::outbox::{Message, Table};
use crate::sqlite::quote;

/// Messages that go into one statement: SQLite binds 32,766 values at most, and each message has six.
const CHUNK: usize = 5_000;

/// Why a message was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The outbox table is not there.
    #[error("there is no outbox table {table}: run `outboxd migrate --table {table}`")]
    NoTable {
        /// The table that was looked for.
        table: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The database refused, or another writer kept it busy for too long.
    #[error("the message was not written to the outbox")]
    Database(#[source] sqlx::Error),
}

/// Writes a message to the table `outbox`. It is published if and only if the transaction commits. Returns the row's id.
///
/// Begin the transaction with `begin immediate`, as every transaction that writes: a transaction that only began to
/// read cannot always go on to write.
///
/// ```no_run
/// # use outboxd::Message;
/// # use sqlx::Connection;
/// # async fn place(connection: &mut sqlx::SqliteConnection) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = connection.begin_with("begin immediate").await?;
/// sqlx::query("insert into orders (id) values (17)").execute(&mut *tx).await?;
/// let message = Message::to("orders.order.created").key(17).text("{}")?;
/// outboxd::sqlite::enqueue(&mut tx, &message).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue(conn: &mut SqliteConnection, message: &Message) -> Result<i64, EnqueueError> {
    enqueue_into(conn, &Table::default(), message).await
}

/// Writes a message to an outbox of another name, as [`enqueue`] does.
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue_into(conn: &mut SqliteConnection, table: &Table, message: &Message) -> Result<i64, EnqueueError> {
    insert(conn, table, std::slice::from_ref(message)).await
}

/// Writes messages to the table `outbox`, thousands in one statement, in their order. Returns the rows' ids, ascending.
///
/// # Errors
/// When the table is missing or the database refuses; then roll back, for some may be written.
pub async fn enqueue_many(conn: &mut SqliteConnection, messages: &[Message]) -> Result<Vec<i64>, EnqueueError> {
    enqueue_many_into(conn, &Table::default(), messages).await
}

/// Writes messages to an outbox of another name, as [`enqueue_many`] does.
///
/// # Errors
/// When the table is missing or the database refuses; then roll back, for some may be written.
pub async fn enqueue_many_into(
    conn: &mut SqliteConnection,
    table: &Table,
    messages: &[Message],
) -> Result<Vec<i64>, EnqueueError> {
    let mut ids = Vec::with_capacity(messages.len());
    for chunk in messages.chunks(CHUNK) {
        let last = insert(conn, table, chunk).await?;
        // One statement of the one writer: its autoincrement ids have no gap.
        ids.extend(chunk.iter().rev().zip(0..).map(|(_, back)| last - back));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Inserts in one statement and returns the last row's id.
async fn insert(conn: &mut SqliteConnection, table: &Table, messages: &[Message]) -> Result<i64, EnqueueError> {
    let mut statement = QueryBuilder::new(format!(
        "/* outboxd: enqueue */ insert into {outbox} (event_id, topic, key, payload, headers, partition) ",
        outbox = quote::outbox(table)
    ));
    statement.push_values(messages, |mut row, message| {
        row.push_bind(message.event_id().to_string())
            .push_bind(message.topic())
            .push_bind(message.key())
            .push_bind(message.payload())
            .push_bind(Json(message.headers()))
            .push_bind(message.partition());
    });
    let done = statement.build().execute(conn).await.map_err(|error| explain(table, error))?;
    Ok(done.last_insert_rowid())
}

fn explain(table: &Table, source: sqlx::Error) -> EnqueueError {
    match &source {
        sqlx::Error::Database(database) if database.message().starts_with("no such table") => {
            EnqueueError::NoTable { table: table.to_string(), source }
        }
        _ => EnqueueError::Database(source),
    }
}
