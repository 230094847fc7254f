//! An outbox to try things on: in a schema of its own, beside whatever else the database holds.

use async_trait::async_trait;

use crate::contract::{BoxError, DatabaseSettings, Scratch, StoreError, Writer};
use crate::outbox::Table;
use crate::postgres::errors::classify;
use crate::postgres::operating::schema::migrate;
use crate::postgres::operating::writer::PgWriter;
use crate::postgres::quote::{self, quoted};
use crate::postgres::session::{ask, connect, options, sql};
use crate::postgres::table::OutboxTable;
use crate::secret::Secret;

/// A schema with the tables of an outbox in it.
#[derive(Debug)]
pub(crate) struct ScratchSchema {
    url: Secret,
    schema: String,
    table: Table,
}

impl ScratchSchema {
    /// Makes a schema of this name, which must be a word.
    pub(crate) async fn make(url: &Secret, schema: &str) -> Result<Self, StoreError> {
        let table: Table = format!("{schema}.outbox").parse().map_err(|error| classify_name(Box::new(error)))?;
        let scratch = Self { url: url.clone(), schema: schema.to_owned(), table };
        scratch.make_tables().await?;
        Ok(scratch)
    }

    async fn make_tables(&self) -> Result<(), StoreError> {
        self.execute("making a scratch schema", format!("create schema {}", quoted(&self.schema))).await?;
        migrate(&self.url, &self.table).await.map(drop)
    }

    async fn execute(&self, doing: &'static str, statement: String) -> Result<(), StoreError> {
        let mut connection = connect(&options(&self.url)?, "bench", &[]).await?;
        let text = format!("/* outboxd: scratch */ {statement}");
        ask(doing, sqlx::query(sql(text)).execute(&mut connection)).await.map(drop)
    }
}

#[async_trait]
impl Scratch for ScratchSchema {
    fn configure(&self, settings: &mut DatabaseSettings) {
        settings.table = self.table.clone();
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.remove().await?;
        self.make_tables().await
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let connection = connect(&options(&self.url)?, "bench", &[]).await?;
        Ok(Box::new(PgWriter::new(connection, &OutboxTable::named(&self.table))))
    }

    /// As autovacuum would.
    async fn settle_down(&self) -> Result<(), StoreError> {
        self.execute("vacuuming the scratch table", format!("vacuum analyze {}", quote::outbox(&self.table))).await
    }

    async fn remove(&self) -> Result<(), StoreError> {
        self.execute("dropping the scratch schema", format!("drop schema if exists {} cascade", quoted(&self.schema)))
            .await
    }
}

fn classify_name(error: BoxError) -> StoreError {
    classify("naming a scratch schema", sqlx::Error::Configuration(error))
}
