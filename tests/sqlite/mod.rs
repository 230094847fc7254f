//! SQLite beyond the contract: the tables, what any language may insert, and what errors advise.

mod due;
mod enqueueing;
mod history;
mod rows;
mod schema;

use std::path::PathBuf;
use std::time::Duration;

use outboxd::Message;
use outboxd::contract::{Bid, DatabaseSettings, LeaseSession, LeaseStore, Reader, Store};
use outboxd::outbox::{Limit, Record, Settle, Table, Term};
use outboxd::secret::Secret;
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
        self.store_of(Table::default(), Settle::Mark)
    }

    fn store_of(&self, table: Table, settle: Settle) -> sqlite::Store {
        let settings = DatabaseSettings::new(Secret::new(self.url()), table, settle);
        sqlite::Store::new(settings).expect("valid settings")
    }

    /// Inserts so many rows of a lane, in a transaction of their own.
    async fn write(&self, table: &Table, rows: usize, topic: &str) {
        let messages: Vec<Message> =
            (0..rows).map(|_| Message::to(topic).key(1).text("{}").expect("a valid message")).collect();
        sqlite::enqueue_many_into(&mut self.connect().await, table, &messages).await.expect("enqueued");
    }

    /// A file that is as this one is now.
    async fn copied(&self) -> Self {
        let copy = Self::new();
        let sql = format!("vacuum into '{}'", copy.path().display());
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.connect().await).await.expect("copied");
        copy
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.connect().await).await.expect(sql)
    }

    async fn read(&self) -> Vec<Record> {
        let store: Box<dyn Store> = Box::new(self.store());
        let mut reader: Box<dyn Reader> = store.open().await.expect("a session opens");
        reader.fetch(Limit { records: 1_000, bytes: usize::MAX }).await.expect("a fetch").records
    }
}

/// Reads all that is new.
async fn read_all(reader: &mut Box<dyn Reader>) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let batch = reader.fetch(Limit { records: 1_000, bytes: usize::MAX }).await.expect("a fetch");
        records.extend(batch.records);
        if !batch.more {
            return records;
        }
    }
}

/// Becomes leader, for longer than any test takes.
async fn lead(store: &sqlite::Store, holder: &str) -> (Box<dyn LeaseSession>, Term) {
    let mut session = store.lease(holder, Duration::from_secs(60)).await.expect("a lease session opens");
    match session.bid().await.expect("a bid") {
        Bid::Won(term) => (session, term),
        other => panic!("a free lease is won at once, and this bid was {other:?}"),
    }
}
