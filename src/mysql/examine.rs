//! What is asked for the named checks.

use async_trait::async_trait;
use sqlx::Row;

use crate::contract::{Examine, Rights, StoreError, Vitals, VitalsQuestion};
use crate::mysql::errors::classify;
use crate::mysql::operating::rights::check_rights;
use crate::mysql::operating::{excess, preflight, schema, vitals};
use crate::mysql::session::{Flavor, Job, ask};
use crate::mysql::store::Store;

#[async_trait]
impl Examine for Store {
    async fn server(&self) -> Result<String, StoreError> {
        let doing = "asking for the version";
        let mut session = self.address.connect(Job::Inspect).await?;
        let statement = "/* outboxd: server_version */ select cast(version() as char)";
        let row = ask(doing, sqlx::raw_sql(statement).fetch_one(&mut session.conn)).await?;
        let version: String = row.try_get(0).map_err(|error| classify(doing, error))?;
        Ok(match session.flavor {
            Flavor::MySql => format!("MySQL {version}"),
            Flavor::MariaDb => format!("MariaDB {}", version.split("-MariaDB").next().unwrap_or_default()),
        })
    }

    async fn schema(&self) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| schema::check_tables(conn, table).await).await
    }

    async fn rights(&self) -> Result<Rights, StoreError> {
        self.inspecting(async |conn, table| {
            let warnings = check_rights(conn, table).await?;
            excess::excess(conn, table, warnings).await
        })
        .await
    }

    async fn setup(&self) -> Result<Vec<String>, StoreError> {
        preflight::setup(&self.address, self.settings.settle).await
    }

    async fn vitals(&self, question: VitalsQuestion) -> Result<Vitals, StoreError> {
        let settle = self.settings.settle;
        self.inspecting(async |conn, table| vitals::vitals(conn, table, settle, question).await).await
    }
}
