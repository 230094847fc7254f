//! Writing to the outbox as an application does, through a session of its own.

use async_trait::async_trait;
use sqlx::{Connection, PgConnection};

use crate::contract::{BoxError, Writer};
use crate::outbox::Message;
use crate::postgres::enqueue::insert_many;
use crate::postgres::table::OutboxTable;

/// A session that writes.
pub(crate) struct PgWriter {
    conn: PgConnection,
    outbox: String,
}

impl PgWriter {
    /// Writes to this outbox.
    pub(crate) fn new(conn: PgConnection, table: &OutboxTable) -> Self {
        Self { conn, outbox: table.outbox() }
    }
}

#[async_trait]
impl Writer for PgWriter {
    async fn write(&mut self, messages: &[Message]) -> Result<(), BoxError> {
        let mut transaction = self.conn.begin().await?;
        insert_many(&mut transaction, &self.outbox, messages).await?;
        Ok(transaction.commit().await?)
    }
}
