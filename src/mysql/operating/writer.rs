//! Writing to the outbox as an application does, through a session of its own.

use async_trait::async_trait;
use sqlx::Connection;

use crate::contract::{BoxError, Writer};
use crate::mysql::enqueue::enqueue_many_into;
use crate::mysql::session::Session;
use crate::outbox::{Message, Table};

/// A session that writes.
pub(crate) struct MySqlWriter {
    session: Session,
    table: Table,
}

impl MySqlWriter {
    /// Writes to this outbox, in the session's database if its name tells none.
    pub(crate) fn new(session: Session, table: Table) -> Self {
        Self { session, table }
    }
}

#[async_trait]
impl Writer for MySqlWriter {
    async fn write(&mut self, messages: &[Message]) -> Result<(), BoxError> {
        let mut transaction = self.session.conn.begin().await?;
        enqueue_many_into(&mut transaction, &self.table, messages).await?;
        Ok(transaction.commit().await?)
    }
}
