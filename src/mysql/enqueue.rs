//! Writing messages, inside the caller's own transaction.

use sqlx::types::Json;
use sqlx::{MySqlConnection, QueryBuilder};

use crate::mysql::quote;
use crate::outbox::{Message, Table};

/// Messages that go into one statement at most.
const MESSAGES_AT_ONCE: usize = 1_000;

/// Bytes of messages that go into one statement, but for its first message: a quarter of the smallest `max_allowed_packet`
/// that a server has by default.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Why a message was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The outbox table is not there.
    #[error(
        "there is no outbox table {table}: run `outboxd migrate --table {table}`, or check the connection's database"
    )]
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
/// or updates what the key stands for before it writes them. In a cluster with several writing nodes (Galera, Group
/// Replication) it has to update it: other nodes do not know of locks.
///
/// ```no_run
/// # use outboxd::Message;
/// # use sqlx::Connection;
/// # async fn place(connection: &mut sqlx::MySqlConnection) -> Result<(), Box<dyn std::error::Error>> {
/// let mut tx = connection.begin().await?;
/// sqlx::query("insert into orders (id) values (17)").execute(&mut *tx).await?;
/// let message = Message::to("orders.order.created").key(17).text("{}")?;
/// outboxd::mysql::enqueue(&mut tx, &message).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue(conn: &mut MySqlConnection, message: &Message) -> Result<i64, EnqueueError> {
    enqueue_into(conn, &Table::default(), message).await
}

/// Writes a message to an outbox of another name, as [`enqueue`] does.
///
/// # Errors
/// When the table is missing or the database refuses.
pub async fn enqueue_into(conn: &mut MySqlConnection, table: &Table, message: &Message) -> Result<i64, EnqueueError> {
    insert(conn, table, std::slice::from_ref(message)).await
}

/// Writes messages to the table `outbox`, up to a thousand in one statement, in their order. Returns the rows' ids, ascending.
///
/// # Errors
/// When the table is missing or the database refuses; then roll back, for some may be written.
pub async fn enqueue_many(conn: &mut MySqlConnection, messages: &[Message]) -> Result<Vec<i64>, EnqueueError> {
    enqueue_many_into(conn, &Table::default(), messages).await
}

/// Writes messages to an outbox of another name, as [`enqueue_many`] does.
///
/// # Errors
/// When the table is missing or the database refuses; then roll back, for some may be written.
pub async fn enqueue_many_into(
    conn: &mut MySqlConnection,
    table: &Table,
    messages: &[Message],
) -> Result<Vec<i64>, EnqueueError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let increment =
        sqlx::query_scalar::<_, i64>("/* outboxd: id_increment */ select cast(@@auto_increment_increment as signed)");
    let increment = increment.fetch_one(&mut *conn).await.map_err(EnqueueError::Database)?;
    let mut ids = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunk_of(rest));
        // The server reserves all ids of such a statement at once.
        let first = insert(conn, table, chunk).await?;
        ids.extend((0..).map(|step| first + step * increment).take(chunk.len()));
        rest = after;
    }
    Ok(ids)
}

/// How many messages go into the next statement.
fn chunk_of(messages: &[Message]) -> usize {
    let mut bytes = 0;
    let fitting = messages.iter().take(MESSAGES_AT_ONCE).take_while(|message| {
        bytes += size(message);
        bytes <= BYTES_AT_ONCE
    });
    fitting.count().max(1)
}

/// Bytes that a message takes in a statement, roughly.
fn size(message: &Message) -> usize {
    let headers: usize = message.headers().iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let key = message.key().map_or(0, str::len);
    message.topic().len() + key + message.payload().map_or(0, <[u8]>::len) + headers + 64
}

/// Inserts in one statement and returns the first row's id.
async fn insert(conn: &mut MySqlConnection, table: &Table, messages: &[Message]) -> Result<i64, EnqueueError> {
    let mut statement = QueryBuilder::new(format!(
        "/* outboxd: enqueue */ insert into {outbox} (event_id, topic, `key`, payload, headers, `partition`) ",
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
    // Statements of many lengths would crowd the connection's cache.
    let query = statement.build().persistent(messages.len() == 1);
    let done = query.execute(conn).await.map_err(|error| explain(table, error))?;
    Ok(done.last_insert_id().cast_signed())
}

fn explain(table: &Table, source: sqlx::Error) -> EnqueueError {
    match &source {
        sqlx::Error::Database(database) if database.code().as_deref() == Some("42S02") => {
            EnqueueError::NoTable { table: table.to_string(), source }
        }
        _ => EnqueueError::Database(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_bounded_by_messages_and_by_bytes() {
        let small = Message::to("a").text("x").expect("a message");
        let large = Message::to("a").bytes(vec![0; 900_000]).expect("a message");
        let many = |message: &Message, count| std::iter::repeat_n(message.clone(), count).collect::<Vec<_>>();
        assert_eq!(chunk_of(&many(&small, 5_000)), MESSAGES_AT_ONCE);
        assert_eq!(chunk_of(&many(&large, 20)), 4);
        assert_eq!(chunk_of(&[large, small]), 2);
    }
}
