//! An outbox to try things on: in a schema of its own, beside whatever else the database holds.

use sqlx::{Connection, PgConnection};

use crate::contract::StoreError;
use crate::outbox::{Message, Table};
use crate::postgres::errors::classify;
use crate::postgres::session::{ask, connect, options, sql};
use crate::postgres::{EnqueueError, enqueue_many_into, migrate};
use crate::secret::Secret;

/// An outbox that only its maker uses. [Remove](Self::remove) it when done.
#[derive(Debug, Clone)]
pub struct Scratch {
    url: Secret,
    schema: String,
    table: Table,
}

/// An application that writes to it.
#[derive(Debug)]
pub struct Writer {
    connection: PgConnection,
    table: Table,
}

impl Scratch {
    /// Makes a schema of this name, which must be a word, with the tables of an outbox in it.
    ///
    /// # Errors
    /// When the database is away, or does not let the role make a schema.
    pub async fn make(url: &Secret, schema: &str) -> Result<Self, StoreError> {
        let table: Table = format!("{schema}.outbox").parse().map_err(|error| classify_name(Box::new(error)))?;
        let scratch = Self { url: url.clone(), schema: schema.to_owned(), table };
        scratch.make_tables().await?;
        Ok(scratch)
    }

    /// Makes it anew, with nothing in it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn renew(&self) -> Result<(), StoreError> {
        self.remove().await?;
        self.make_tables().await
    }

    async fn make_tables(&self) -> Result<(), StoreError> {
        self.execute("making a scratch schema", format!("create schema \"{}\"", self.schema)).await?;
        migrate(&self.url, &self.table).await.map(drop)
    }

    /// The outbox's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Opens a connection that writes to it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn writer(&self) -> Result<Writer, StoreError> {
        let connection = connect(&options(&self.url)?, "bench", &[]).await?;
        Ok(Writer { connection, table: self.table.clone() })
    }

    /// Leaves the table as autovacuum would.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn settle_down(&self) -> Result<(), StoreError> {
        self.execute("vacuuming the scratch table", format!("vacuum analyze {}", self.table.outbox())).await
    }

    /// Drops the schema and all that is in it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn remove(&self) -> Result<(), StoreError> {
        self.execute("dropping the scratch schema", format!("drop schema if exists \"{}\" cascade", self.schema)).await
    }

    async fn execute(&self, doing: &'static str, statement: String) -> Result<(), StoreError> {
        let mut connection = connect(&options(&self.url)?, "bench", &[]).await?;
        let text = format!("/* outboxd: scratch */ {statement}");
        ask(doing, sqlx::query(sql(text)).execute(&mut connection)).await.map(drop)
    }
}

impl Writer {
    /// Writes messages in one transaction, and commits.
    ///
    /// # Errors
    /// When the database refuses; nothing is committed then.
    pub async fn write(&mut self, messages: &[Message]) -> Result<(), EnqueueError> {
        let mut transaction = self.connection.begin().await.map_err(EnqueueError::Database)?;
        enqueue_many_into(&mut transaction, &self.table, messages).await?;
        transaction.commit().await.map_err(EnqueueError::Database)
    }
}

fn classify_name(error: crate::contract::BoxError) -> StoreError {
    classify("naming a scratch schema", sqlx::Error::Configuration(error))
}
