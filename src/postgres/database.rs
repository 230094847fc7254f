//! The outbox as operators and tools meet it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::{
    Audit, AuditEntry, Database, DatabaseKind, DatabaseSettings, Enqueue, Migrated, Operate, Roles, Scratch,
    StoreError, Writer,
};
use crate::outbox::Table;
use crate::postgres::errors::unusable;
use crate::postgres::operating::audit::PgAudit;
use crate::postgres::operating::audit_log;
use crate::postgres::operating::preflight;
use crate::postgres::operating::rights::missing_insert;
use crate::postgres::operating::schema;
use crate::postgres::operating::scratch::ScratchSchema;
use crate::postgres::operating::writer::PgWriter;
use crate::postgres::session::{INDEX_ONLY_PLANS, ask, table_oid};
use crate::postgres::store::Store;

/// PostgreSQL.
pub const DATABASE: DatabaseKind = DatabaseKind {
    schemes: &["postgres", "postgresql"],
    url_form: "postgres://USER:PASSWORD@HOST/DATABASE",
    open,
    migration_sql,
};

fn open(settings: DatabaseSettings) -> Result<Arc<dyn Database>, StoreError> {
    Ok(Arc::new(Store::new(settings)?))
}

fn migration_sql(table: &Table, roles: Option<&Roles>) -> Result<String, StoreError> {
    let tables = schema::migration_sql(table);
    let Some(roles) = roles else { return Ok(tables) };
    let grants = schema::grants_to(table, roles);
    let grants = grants.map_err(|error| unusable(error.to_string(), "give the names of two roles"))?;
    Ok(format!("{tables}\n{grants}"))
}

#[async_trait]
impl Operate for Store {
    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.operating(async |conn, table| audit_log::list(conn, table, limit).await).await
    }
}

#[async_trait]
impl Enqueue for Store {
    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("canary", &[]).await?;
        match missing_insert(&mut conn, table).await? {
            None => Ok(Box::new(PgWriter::new(conn, table))),
            Some(missing) => Err(unusable(missing.problem, missing.grant)),
        }
    }
}

#[async_trait]
impl Database for Store {
    async fn migrate(&self, roles: Option<&Roles>) -> Result<Migrated, StoreError> {
        let DatabaseSettings { url, table, .. } = &self.settings;
        let migrated = schema::migrate(url, table).await?;
        if let Some(roles) = roles {
            schema::grant_to(url, table, roles).await?;
        }
        Ok(migrated)
    }

    async fn check(&self) -> Result<Vec<String>, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("inspect", &[]).await?;
        preflight::check(&mut conn, table, &self.settings).await
    }

    /// Cannot work: a version that is too old, a schema that is not what is needed, a pooler that takes sessions apart,
    /// prepared transactions together with notifications.
    async fn preflight(&self) -> Result<Vec<String>, StoreError> {
        preflight::preflight(&self.address, &self.settings).await
    }

    fn name(&self) -> String {
        let options = self.address.options();
        format!("{}.{}", options.get_database().unwrap_or(options.get_username()), self.settings.table)
    }

    /// Database, schema and table.
    async fn source(&self) -> Result<String, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("inspect", &[]).await?;
        let oid = table_oid(&mut conn, table).await?;
        let statement = "/* outboxd: source */
            select concat_ws('.', current_database(), n.nspname, c.relname)
            from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where c.oid::bigint = $1";
        ask("naming the outbox", sqlx::query_scalar(statement).bind(oid).fetch_one(&mut conn)).await
    }

    async fn audit(&self, since: Option<DateTime<Utc>>) -> Result<Box<dyn Audit>, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("inspect", &INDEX_ONLY_PLANS).await?;
        schema::check_tables(&mut conn, table).await?;
        Ok(Box::new(PgAudit::open(conn, table.clone(), self.settings.settle, since).await?))
    }

    async fn scratch(&self, name: &str) -> Result<Box<dyn Scratch>, StoreError> {
        Ok(Box::new(ScratchSchema::make(&self.settings.url, name).await?))
    }
}
