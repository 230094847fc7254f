//! What is asked for the named checks.

use async_trait::async_trait;

use crate::contract::{Examine, Rights, StoreError, Vitals, VitalsQuestion};
use crate::sqlite::database::journal_mode_warning;
use crate::sqlite::errors::classify;
use crate::sqlite::operating::purge::PurgeScope;
use crate::sqlite::operating::{schema, vitals};
use crate::sqlite::store::Store;

#[async_trait]
impl Examine for Store {
    async fn server(&self) -> Result<String, StoreError> {
        schema::check_file(&self.file)?;
        self.chore(async |connection| {
            let statement = "/* outboxd: version */ select 'SQLite ' || sqlite_version() from sqlite_schema limit 1";
            let version = sqlx::query_scalar::<_, String>(statement).fetch_optional(connection).await;
            let version = version.map_err(|error| classify("opening the file", error))?;
            Ok(version.unwrap_or_else(|| "an empty SQLite file".to_owned()))
        })
        .await
    }

    async fn schema(&self) -> Result<(), StoreError> {
        schema::check_file(&self.file)?;
        self.chore(async |connection| schema::check_tables(connection, &self.table).await).await
    }

    /// Whoever may write to the file may do anything with it: there is nothing beyond.
    async fn rights(&self) -> Result<Rights, StoreError> {
        schema::check_file(&self.file)?;
        self.chore(async |connection| {
            schema::check_tables(connection, &self.table).await?;
            schema::prove_writable(connection, &self.table).await
        })
        .await?;
        Ok(Rights::default())
    }

    async fn setup(&self) -> Result<Vec<String>, StoreError> {
        self.chore(async |connection| journal_mode_warning(connection).await).await
    }

    async fn vitals(&self, question: VitalsQuestion) -> Result<Vitals, StoreError> {
        let walk = PurgeScope { table: &self.table, settle: self.settle, retention: question.retention };
        self.chore(async |connection| vitals::vitals(connection, walk).await).await
    }
}
