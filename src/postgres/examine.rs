//! What is asked for the named checks.

use async_trait::async_trait;

use crate::contract::{Examine, Rights, StoreError, Vitals, VitalsQuestion};
use crate::postgres::operating::rights::{check_rights, missing_insert, need_usage};
use crate::postgres::operating::{excess, preflight, schema, vitals};
use crate::postgres::session::{ANSWER_TIMEOUT, ask, bounded};
use crate::postgres::store::Store;

#[async_trait]
impl Examine for Store {
    async fn server(&self) -> Result<String, StoreError> {
        let mut conn = self.address.connect("inspect", &[]).await?;
        let statement = "/* outboxd: server_version */ select 'PostgreSQL ' || current_setting('server_version')";
        ask("asking for the version", sqlx::query_scalar(statement).fetch_one(&mut conn)).await
    }

    async fn schema(&self) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| {
            need_usage(conn, table).await?;
            schema::check_tables(conn, table).await
        })
        .await
    }

    async fn rights(&self) -> Result<Rights, StoreError> {
        let (settle, inserts) = (self.settings.settle, self.settings.inserts);
        self.inspecting(async |conn, table| {
            need_usage(conn, table).await?;
            let warnings = check_rights(conn, table, settle).await?;
            let mut rights = excess::excess(conn, table, warnings, inserts).await?;
            if inserts && let Some(missing) = missing_insert(conn, table).await? {
                rights.warnings.push(missing.problem);
                rights.repair = Some(missing.grant);
            }
            Ok(rights)
        })
        .await
    }

    async fn setup(&self) -> Result<Vec<String>, StoreError> {
        preflight::setup(&self.address, &self.settings).await
    }

    async fn vitals(&self, question: VitalsQuestion) -> Result<Vitals, StoreError> {
        let settle = self.settings.settle;
        let looking = self.inspecting(async |conn, table| vitals::vitals(conn, table, settle, question).await);
        bounded("looking at how the outbox is kept", ANSWER_TIMEOUT, looking).await
    }
}
