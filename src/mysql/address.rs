//! Where the outbox is: the server, and the schema that holds its tables.

use std::fmt;

use sqlx::mysql::MySqlConnectOptions;

use crate::contract::StoreError;
use crate::mysql::errors::unusable;
use crate::mysql::session::{Job, Session, connect, options};
use crate::mysql::table::OutboxTable;
use crate::outbox::Table;
use crate::secret::Secret;

/// A server, and an outbox there.
pub(super) struct Address {
    options: MySqlConnectOptions,
    table: OutboxTable,
}

impl Address {
    /// Does not connect.
    ///
    /// # Errors
    /// When the URL cannot be read, or neither it nor the table's name tells the schema.
    pub(super) fn new(url: &Secret, table: &Table) -> Result<Self, StoreError> {
        let options = options(url)?;
        let schema = table.schema().or(options.get_database()).ok_or_else(|| {
            unusable(
                "the database URL names no database",
                "write it as mysql://user:password@host:3306/database, or give `outbox.table` a schema",
            )
        })?;
        let table = OutboxTable::found_in(table, schema.to_owned());
        Ok(Self { options, table })
    }

    /// How to connect.
    pub(super) fn options(&self) -> &MySqlConnectOptions {
        &self.options
    }

    /// The outbox's table, with its schema.
    pub(super) fn table(&self) -> &OutboxTable {
        &self.table
    }

    /// Opens a session for a job, as [`connect`] does.
    pub(super) async fn connect(&self, job: Job) -> Result<Session, StoreError> {
        connect(&self.options, job).await
    }
}

/// The options hold the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("table", &self.table).finish_non_exhaustive()
    }
}
