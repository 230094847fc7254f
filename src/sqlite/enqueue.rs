//! Enqueue: a row in the caller's own transaction.

use sqlx::{QueryBuilder, SqliteConnection};

use crate::outbox::{Message, Table};

/// Messages that go into one statement: SQLite takes 32,766 values in one.
const CHUNK: usize = 5_000;

/// Enqueues a message in the table `outbox`, in the transaction that the connection is in.
///
/// The message is published if and only if that transaction commits. Begin it with `begin immediate` and change
/// the aggregate first: then the messages of one key are published in the order of the changes.
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
/// Whatever the database says; the transaction is then the caller's to roll back.
pub async fn enqueue(connection: &mut SqliteConnection, message: &Message) -> Result<(), sqlx::Error> {
    enqueue_into(connection, &Table::default(), message).await
}

/// Enqueues messages in the table `outbox`, in their order, as [`enqueue`] does: many in one statement.
///
/// # Errors
/// Whatever the database says; the transaction is then the caller's to roll back.
pub async fn enqueue_many(connection: &mut SqliteConnection, messages: &[Message]) -> Result<(), sqlx::Error> {
    for chunk in messages.chunks(CHUNK) {
        insert(connection, &Table::default(), chunk).await?;
    }
    Ok(())
}

/// Enqueues a message in an outbox of another name, as [`enqueue`] does.
///
/// # Errors
/// Whatever the database says; the transaction is then the caller's to roll back.
pub async fn enqueue_into(
    connection: &mut SqliteConnection,
    table: &Table,
    message: &Message,
) -> Result<(), sqlx::Error> {
    insert(connection, table, std::slice::from_ref(message)).await
}

async fn insert(connection: &mut SqliteConnection, table: &Table, messages: &[Message]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(format!(
        "/* outboxd: enqueue */ insert into {} (event_id, topic, key, payload, headers, partition) ",
        table.outbox()
    ));
    query.push_values(messages, |mut row, message| {
        row.push_bind(message.event_id().to_string())
            .push_bind(message.topic())
            .push_bind(message.key())
            .push_bind(message.payload())
            .push_bind(sqlx::types::Json(message.headers()))
            .push_bind(message.partition());
    });
    query.build().execute(connection).await?;
    Ok(())
}
