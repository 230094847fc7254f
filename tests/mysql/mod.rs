//! What only the wing of MySQL and MariaDB promises. What every store promises is in `tests/contract/`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod anew;
mod cluster;
mod crashing;
mod late;
mod missing;
mod operating;
mod relaying;
mod settling;

use std::time::Duration;

use outboxd::contract::{Bid, Checkpoint, DatabaseSettings, LeaseSession, LeaseStore, OutboxStore, Reader};
use outboxd::mysql::{self, Store};
use outboxd::outbox::{Held, Limit, Record, Settle, Settlement, Table, Term};
use outboxd::secret::Secret;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::support::database::aside;
use crate::support::services::{self, Server};
use crate::support::wait;

/// A batch that is large enough for everything a test writes.
const AMPLE: Limit = Limit { records: 100_000, bytes: 64 << 20 };

/// Both servers of the testbed.
fn servers() -> [Server; 2] {
    [services::mysql(), services::mariadb()]
}

/// A database of the test's own, with an outbox.
struct Outbox {
    server: Server,
    name: String,
    settle: Settle,
}

impl Outbox {
    async fn new(server: &Server, settle: Settle) -> Self {
        let name = format!("outboxd_test_{:016x}", rand::random::<u64>());
        let mut conn = MySqlConnection::connect(server.url()).await.unwrap();
        execute(&mut conn, &format!("create database {name}")).await;
        let outbox = Self { server: server.clone(), name, settle };
        mysql::migrate(&Secret::new(outbox.url()), &Table::default()).await.unwrap();
        outbox
    }

    fn url(&self) -> String {
        self.server.database(&self.name)
    }

    fn store(&self) -> Store {
        self.store_at(self.url())
    }

    /// A store that connects otherwise.
    fn store_at(&self, url: String) -> Store {
        Store::new(DatabaseSettings::new(Secret::new(url), Table::default(), self.settle)).unwrap()
    }

    /// A connection of an application's.
    async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url()).await.unwrap()
    }

    /// Runs a statement in a session of its own.
    async fn run(&self, sql: &str) {
        execute(&mut self.connect().await, sql).await;
    }

    /// The number that a query says.
    async fn number(&self, sql: &str) -> i64 {
        number(&mut self.connect().await, sql).await
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("database {} is left for a look", self.name);
        }
        let (url, sql) = (self.server.url().to_owned(), format!("drop database {}", self.name));
        aside(async move { execute(&mut MySqlConnection::connect(&url).await.unwrap(), &sql).await });
    }
}

async fn execute(conn: &mut MySqlConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn number(conn: &mut MySqlConnection, sql: &str) -> i64 {
    let answer = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await;
    answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Becomes leader, for longer than any test takes.
async fn lead(store: &Store) -> (Box<dyn LeaseSession>, Term) {
    let mut session = store.lease("test", Duration::from_secs(60)).await.unwrap();
    match session.bid().await.unwrap() {
        Bid::Won(term) => (session, term),
        other => panic!("a free lease is won at once, and this bid was {other:?}"),
    }
}

/// Reads, so many at a time, until nothing is new.
async fn read(reader: &mut Box<dyn Reader>, records: usize) -> Vec<Record> {
    let mut read = Vec::new();
    loop {
        let batch = reader.fetch(Limit { records, ..AMPLE }).await.unwrap();
        assert!(batch.len() <= records, "{} rows of {records}", batch.len());
        read.extend(batch.records);
        if !batch.more {
            return read;
        }
    }
}

/// The keys of records, as they came.
fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_deref().unwrap_or_default()).collect()
}

/// Reads what is new, and reads on until nothing is missing any more but so many gaps.
async fn read_until_missing(reader: &mut Box<dyn Reader>, gaps: usize) -> Vec<Record> {
    let mut records = Vec::new();
    wait::until_true("what was rolled back is forgotten", wait::PATIENCE, async || {
        records.extend(read(reader, AMPLE.records).await);
        missing(&**reader).len() == gaps
    })
    .await;
    records
}

/// The gaps of the reader's position, as it writes them.
fn missing(reader: &dyn Reader) -> Vec<String> {
    let position: serde_json::Value = serde_json::from_str(reader.position().as_str()).unwrap();
    let gaps = position.get("gaps").and_then(serde_json::Value::as_str).unwrap_or_default();
    gaps.split_whitespace().map(str::to_owned).collect()
}

async fn settle(store: &Store, records: &[Record]) {
    let mut settlement = Settlement::default();
    records.iter().for_each(|record| settlement.push(record));
    store.settle(&settlement).await.unwrap();
}

async fn save(reader: &mut Box<dyn Reader>, term: Term, held: Vec<Held>) {
    let checkpoint = Checkpoint { term, position: reader.position(), read_to: reader.position(), held };
    reader.save(&checkpoint).await.unwrap();
}

/// Opens a reading session.
async fn open(store: &Store) -> Box<dyn Reader> {
    store.open().await.unwrap()
}
