//! SQLite beyond the contract: the tables, what any language may insert, and what errors advise.

mod enqueueing;
mod schema;

use std::path::PathBuf;

use outboxd::contract::{Reader, Store};
use outboxd::outbox::{Limit, Record, Settle, Table};
use outboxd::sqlite;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// A database file of the test's own.
struct File {
    directory: TempDir,
}

impl File {
    fn new() -> Self {
        Self { directory: TempDir::new().expect("a temporary directory") }
    }

    async fn migrated() -> Self {
        let file = Self::new();
        sqlite::migrate(&file.url(), &Table::default()).await.expect("migrated");
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
        options.connect().await.expect("the file opens")
    }

    async fn run(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&mut self.connect().await).await.expect(sql);
    }

    fn store(&self) -> sqlite::Store {
        let settings = sqlite::Settings { url: self.url(), table: Table::default(), settle: Settle::Mark };
        sqlite::Store::new(settings).expect("valid settings")
    }

    async fn read(&self) -> Vec<Record> {
        let store: Box<dyn Store> = Box::new(self.store());
        let mut reader: Box<dyn Reader> = store.open().await.expect("a session opens");
        reader.fetch(Limit { records: 1_000, bytes: usize::MAX }).await.expect("a fetch").records
    }
}
