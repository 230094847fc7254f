//! Writing to the outbox as an application does, through a connection of its own.

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};

use crate::contract::{BoxError, Writer};
use crate::outbox::{Message, Table};
use crate::sqlite::enqueue::enqueue_many_into;

/// A connection that writes.
pub(crate) struct SqliteWriter {
    connection: SqliteConnection,
    table: Table,
}

impl SqliteWriter {
    /// Writes to this outbox.
    pub(crate) fn new(connection: SqliteConnection, table: Table) -> Self {
        Self { connection, table }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn write(&mut self, messages: &[Message]) -> Result<(), BoxError> {
        let mut transaction = self.connection.begin_with("begin immediate").await?;
        enqueue_many_into(&mut transaction, &self.table, messages).await?;
        Ok(transaction.commit().await?)
    }
}
