//! The outbox as operators and tools meet it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::SqliteConnection;

use crate::contract::{
    Audit, AuditEntry, Database, DatabaseKind, DatabaseSettings, Enqueue, Migrated, Operate, Roles, Scratch,
    StoreError, Writer,
};
use crate::outbox::Table;
use crate::sqlite::connection::Durability;
use crate::sqlite::errors::{classify, unusable};
use crate::sqlite::operating::audit::SqliteAudit;
use crate::sqlite::operating::audit_log;
use crate::sqlite::operating::schema;
use crate::sqlite::operating::scratch::ScratchFile;
use crate::sqlite::operating::writer::SqliteWriter;
use crate::sqlite::store::Store;

/// SQLite.
pub const DATABASE: DatabaseKind = DatabaseKind { schemes: &["sqlite"], url_form: "sqlite:FILE", open, migration_sql };

fn open(settings: DatabaseSettings) -> Result<Arc<dyn Database>, StoreError> {
    Ok(Arc::new(Store::new(settings)?))
}

fn migration_sql(table: &Table, roles: Option<&Roles>) -> Result<String, StoreError> {
    refuse_roles(roles)?;
    Ok(schema::migration_sql(table))
}

fn refuse_roles(roles: Option<&Roles>) -> Result<(), StoreError> {
    match roles {
        None => Ok(()),
        Some(_) => Err(unusable("SQLite has no roles to grant anything to", "leave --grants out")),
    }
}

#[async_trait]
impl Operate for Store {
    async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.operating(async |connection| audit_log::list(connection, &self.table, limit).await).await
    }
}

#[async_trait]
impl Enqueue for Store {
    /// Its commits are not flushed each by itself.
    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        schema::check_file(&self.file)?;
        let connection = self.file.connect(Durability::Lazy).await?;
        Ok(Box::new(SqliteWriter::new(connection, self.table.as_named().clone())))
    }
}

#[async_trait]
impl Database for Store {
    async fn migrate(&self, roles: Option<&Roles>) -> Result<Migrated, StoreError> {
        refuse_roles(roles)?;
        schema::migrate_file(&self.file, &self.table).await
    }

    async fn check(&self) -> Result<Vec<String>, StoreError> {
        schema::check_file(&self.file)?;
        let mut chores = self.chores.take(&self.file).await?;
        schema::check_tables(&mut chores.connection, &self.table).await?;
        schema::prove_writable(&mut chores.connection, &self.table).await?;
        chores.give_back();
        Ok(Vec::new())
    }

    async fn preflight(&self) -> Result<Vec<String>, StoreError> {
        self.check().await?;
        self.chore(async |connection| journal_mode_warning(connection).await).await
    }

    fn name(&self) -> String {
        let file = self.file.path().file_name().unwrap_or_default();
        format!("{}.{}", file.to_string_lossy(), self.table)
    }

    /// The file's name and the table's.
    async fn source(&self) -> Result<String, StoreError> {
        Ok(self.name())
    }

    async fn audit(&self, since: Option<DateTime<Utc>>) -> Result<Box<dyn Audit>, StoreError> {
        schema::check_file(&self.file)?;
        let mut connection = self.file.connect(Durability::Lazy).await?;
        schema::check_tables(&mut connection, &self.table).await?;
        Ok(Box::new(SqliteAudit::open(connection, self.table.clone(), self.settle, since).await?))
    }

    async fn scratch(&self, name: &str) -> Result<Box<dyn Scratch>, StoreError> {
        Ok(Box::new(ScratchFile::make(self.file.path(), name).await?))
    }
}

/// What speaks against the file's journal.
pub(super) async fn journal_mode_warning(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let statement = sqlx::query_scalar("/* outboxd: journal_mode */ pragma journal_mode");
    let mode: Result<String, sqlx::Error> = statement.fetch_one(connection).await;
    let mode = mode.map_err(|error| classify("reading the journal mode", error))?;
    let warning = format!(
        "the database is in journal mode {mode}, in which readers and writers wait for each other; \
         `outboxd migrate` switches it to wal"
    );
    Ok(if mode == "wal" { Vec::new() } else { vec![warning] })
}
