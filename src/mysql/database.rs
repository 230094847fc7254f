//! The outbox as operators and tools meet it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::{
    Audit, AuditEntry, Database, DatabaseKind, DatabaseSettings, Enqueue, Migrated, Operate, Roles, Scratch,
    StoreError, Writer,
};
use crate::mysql::errors::unusable;
use crate::mysql::operating::audit::MySqlAudit;
use crate::mysql::operating::audit_log;
use crate::mysql::operating::preflight;
use crate::mysql::operating::schema;
use crate::mysql::operating::scratch::ScratchOutbox;
use crate::mysql::operating::writer::MySqlWriter;
use crate::mysql::session::Job;
use crate::mysql::store::Store;
use crate::outbox::Table;

/// MySQL and MariaDB.
pub const DATABASE: DatabaseKind = DatabaseKind {
    schemes: &["mysql", "mariadb"],
    url_form: "mysql://USER:PASSWORD@HOST/DATABASE",
    open,
    migration_sql,
};

fn open(settings: DatabaseSettings) -> Result<Arc<dyn Database>, StoreError> {
    Ok(Arc::new(Store::new(settings)?))
}

fn migration_sql(table: &Table, roles: Option<&Roles>) -> Result<String, StoreError> {
    let tables = schema::migration_sql(table);
    // The relay's user inserts anyway: it gives rows that became due behind it other ids.
    let Some(Roles { application, relay, relay_inserts: _ }) = roles else { return Ok(tables) };
    let grants = schema::grants_sql(table, application, relay);
    let grants = grants.map_err(|error| unusable(error.to_string(), "give the names of two users"))?;
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
        let mut session = self.address.connect(Job::Operate).await?;
        schema::check_tables(&mut session.conn, self.address.table()).await?;
        Ok(Box::new(MySqlWriter::new(session, self.settings.table.clone())))
    }
}

#[async_trait]
impl Database for Store {
    async fn migrate(&self, roles: Option<&Roles>) -> Result<Migrated, StoreError> {
        let DatabaseSettings { url, table, .. } = &self.settings;
        let migrated = schema::migrate(url, table).await?;
        if let Some(Roles { application, relay, relay_inserts: _ }) = roles {
            schema::grant(url, table, application, relay).await?;
        }
        Ok(migrated)
    }

    async fn check(&self) -> Result<Vec<String>, StoreError> {
        let mut session = self.address.connect(Job::Inspect).await?;
        preflight::check(&mut session, self.address.table()).await
    }

    /// Cannot work: a version that is too old, an engine without transactions, a schema that is not what is needed.
    async fn preflight(&self) -> Result<Vec<String>, StoreError> {
        preflight::preflight(&self.address, self.settings.settle).await
    }

    fn name(&self) -> String {
        let table = self.address.table();
        format!("{}.{}", table.schema().unwrap_or_default(), table.name())
    }

    /// The schema's name and the table's.
    async fn source(&self) -> Result<String, StoreError> {
        Ok(self.name())
    }

    async fn audit(&self, since: Option<DateTime<Utc>>) -> Result<Box<dyn Audit>, StoreError> {
        let table = self.address.table();
        let mut session = self.address.connect(Job::Inspect).await?;
        schema::check_tables(&mut session.conn, table).await?;
        Ok(Box::new(MySqlAudit::open(session, table.clone(), self.settings.settle, since).await?))
    }

    async fn scratch(&self, name: &str) -> Result<Box<dyn Scratch>, StoreError> {
        Ok(Box::new(ScratchOutbox::make(&self.settings, name).await?))
    }
}
