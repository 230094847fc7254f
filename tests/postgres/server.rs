//! The servers of the testbed, and an outbox of its own for each test.

use std::time::Duration;

use outboxd::contract::{Bid, Checkpoint, DatabaseSettings, LeaseStore, OutboxStore, Reader, StoreError};
use outboxd::outbox::{Batch, Held, Limit, Record, Settle, Settlement, Table, Term};
use outboxd::postgres::{self, Store};
use outboxd::secret::Secret;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A batch that is large enough for everything a test writes.
pub(super) const AMPLE: Limit = Limit { records: 1_000, bytes: 64 << 20 };

/// The newest server and the oldest that is supported.
pub(super) fn servers() -> [String; 2] {
    [newest(), address("OUTBOXD_TEST_POSTGRES_13")]
}

/// The newest server.
pub(super) fn newest() -> String {
    address("OUTBOXD_TEST_POSTGRES")
}

fn address(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run through `make test`, or source testbed's env"))
}

/// An outbox in a schema of its own, empty.
pub(super) struct Outbox {
    pub url: String,
    pub table: Table,
    pub store: Store,
}

impl Outbox {
    /// An outbox that marks. `name` is the test's: what an earlier run left is removed.
    pub(super) async fn new(url: &str, name: &str) -> Self {
        Self::settling(url, name, Settle::Mark).await
    }

    /// An outbox that settles in another way.
    pub(super) async fn settling(url: &str, name: &str, settle: Settle) -> Self {
        let table: Table = format!("t_{name}.outbox").parse().unwrap();
        let mut conn = PgConnection::connect(url).await.unwrap();
        for statement in ["drop schema if exists t_NAME cascade", "create schema t_NAME"] {
            execute(&mut conn, &statement.replace("NAME", name)).await;
        }
        postgres::migrate(&Secret::new(url), &table).await.unwrap();
        let store = store(url, &table, settle);
        Self { url: url.to_owned(), table, store }
    }

    /// A connection of the application's.
    pub(super) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Runs a statement in which `outbox` stands for the table.
    pub(super) async fn run(&self, conn: &mut PgConnection, statement: &str) -> u64 {
        execute(conn, &statement.replace("outbox", &self.table.to_string())).await
    }

    /// Reads one number with a statement in which `outbox` stands for the table.
    pub(super) async fn number(&self, statement: &str) -> i64 {
        let text = statement.replace("outbox", &self.table.to_string());
        sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// Commits a row of this topic and key.
    pub(super) async fn write(&self, conn: &mut PgConnection, topic: &str, key: &str) {
        self.run(conn, &format!("insert into outbox (topic, key, payload) values ('{topic}', '{key}', 'x')")).await;
    }

    /// Begins a term, so that checkpoints can be stored.
    pub(super) async fn lead(&self) -> Term {
        let mut lease = self.store.lease("test", Duration::from_secs(60)).await.unwrap();
        match lease.bid().await.unwrap() {
            Bid::Won(term) => term,
            other => panic!("nobody else leads, yet {other:?}"),
        }
    }

    pub(super) async fn open(&self) -> Box<dyn Reader> {
        self.store.open().await.unwrap()
    }

    pub(super) async fn settle(&self, records: &[Record]) {
        let mut settlement = Settlement::with_capacity(records.len());
        records.iter().for_each(|record| settlement.push(record));
        self.store.settle(&settlement).await.unwrap();
    }
}

pub(super) fn store(url: &str, table: &Table, settle: Settle) -> Store {
    Store::new(DatabaseSettings::new(Secret::new(url), table.clone(), settle)).unwrap()
}

/// What an error says that waiting does not help.
pub(super) fn problem(error: StoreError) -> String {
    match error {
        StoreError::Unusable { .. } | StoreError::Incompatible { .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

pub(super) async fn execute(conn: &mut PgConnection, statement: &str) -> u64 {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(conn).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
}

/// Reads until a batch says that there is no more.
pub(super) async fn drain(reader: &mut dyn Reader, limit: Limit) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let Batch { records: batch, more, .. } = reader.fetch(limit).await.unwrap();
        records.extend(batch);
        if !more {
            return records;
        }
    }
}

pub(super) fn checkpoint(term: Term, batch: &Batch, held: &[Held]) -> Checkpoint {
    Checkpoint { term, position: batch.end.clone(), read_to: batch.end.clone(), held: held.to_vec() }
}

pub(super) fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_deref().unwrap_or_default()).collect()
}
