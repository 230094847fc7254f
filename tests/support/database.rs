//! A database of the test's own, with the outbox migrated by the binary.

use std::process::Command;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::support::children;
use crate::support::services::Server;

/// A fresh database, dropped with this value unless the test failed.
pub(crate) struct Database {
    name: String,
    server: Server,
    url: String,
    pool: PgPool,
}

impl Database {
    /// Creates a database with an outbox.
    pub(crate) async fn migrated(server: &Server) -> Self {
        let database = Self::empty(server).await;
        migrate(database.url());
        database
    }

    /// Creates a database with nothing in it.
    pub(crate) async fn empty(server: &Server) -> Self {
        let name = format!("outboxd_test_{:016x}", rand::random::<u64>());
        execute(server.url(), &format!("create database {name}")).await.expect("the server creates a database");
        Self::named(name, server)
    }

    /// The same database on a server that has a copy of it.
    pub(crate) fn on(&self, server: &Server) -> Self {
        Self::named(self.name.clone(), server)
    }

    fn named(name: String, server: &Server) -> Self {
        let url = server.database(&name);
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&url).expect("a URL that sqlx reads");
        Self { name, server: server.clone(), url, pool }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A few connections for single statements.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// A connection of one's own.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("the test's database takes connections")
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The number that a query says.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("database {} is left for a look", self.name);
        }
        let (url, sql) = (self.server.url().to_owned(), format!("drop database if exists {} with (force)", self.name));
        let dropped = crate::support::database::aside(async move { execute(&url, &sql).await });
        if let Err(error) = dropped {
            eprintln!("database {} could not be dropped: {error}", self.name);
        }
    }
}

/// Runs a statement on a connection of its own.
async fn execute(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
    connection.close().await
}

/// Finishes a future where there is no `await`: on a thread with a runtime of its own.
pub(crate) fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let finish = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be built").block_on(work)
    };
    std::thread::spawn(finish).join().expect("cleaning up does not panic")
}

/// Creates or upgrades the outbox, through the binary.
pub(crate) fn migrate(url: &str) {
    migrate_table(url, "outbox");
}

/// Creates or upgrades an outbox of this name, through the binary.
pub(crate) fn migrate_table(url: &str, table: &str) {
    migrate_with(url, table, &[]);
}

/// Creates or upgrades an outbox of this name, and grants two roles what they need: the application's and the relay's.
pub(crate) fn migrate_for(url: &str, table: &str, (application, relay): (&str, &str)) {
    migrate_with(url, table, &["--grants", &format!("{application},{relay}")]);
}

fn migrate_with(url: &str, table: &str, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["migrate", "--database-url", url, "--table", table]).args(arguments);
    let output = children::run(&mut command).expect("the binary starts");
    assert!(output.status.success(), "outboxd migrate failed: {}", String::from_utf8_lossy(&output.stderr));
}
