//! Connections to the file, and who uses which.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::contract::StoreError;
use crate::sqlite::errors::{classify, unusable};

/// How long a writer's transaction may keep us waiting before it counts as "not available".
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows that the driver reads ahead of us.
const ROWS_AHEAD: usize = 512;

/// How durable a commit is when it returns, in WAL mode.
#[derive(Debug, Clone, Copy)]
pub(super) enum Durability {
    /// It survives a crash of the process. A later flushed commit makes it survive the rest.
    Lazy,
    /// It survives a loss of power, with every earlier commit: the log is flushed as a whole.
    Flushed,
}

/// The database file.
#[derive(Debug, Clone)]
pub(super) struct File {
    options: SqliteConnectOptions,
}

impl File {
    /// Reads a URL such as `sqlite:shop.db`; connects to nothing.
    pub(super) fn parse(url: &str) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str(url).map_err(|error| classify("reading the URL", error))?;
        if url.contains(":memory:") || url.contains("mode=memory") {
            let problem = "a SQLite database in memory is seen by the connection that made it and by no other";
            return Err(unusable(problem, "give `database.url` a file: sqlite:PATH"));
        }
        let options = options.busy_timeout(BUSY_TIMEOUT).row_buffer_size(ROWS_AHEAD).disable_statement_logging();
        Ok(Self { options })
    }

    pub(super) fn path(&self) -> &Path {
        self.options.get_filename()
    }

    pub(super) async fn connect(&self, durability: Durability) -> Result<SqliteConnection, StoreError> {
        self.connect_patiently(durability, BUSY_TIMEOUT).await
    }

    /// Connects, and lets other writers keep each statement waiting for no longer than `patience`.
    pub(super) async fn connect_patiently(
        &self,
        durability: Durability,
        patience: Duration,
    ) -> Result<SqliteConnection, StoreError> {
        let synchronous = match durability {
            Durability::Lazy => SqliteSynchronous::Normal,
            Durability::Flushed => SqliteSynchronous::Full,
        };
        let options = self.options.clone().synchronous(synchronous).busy_timeout(patience);
        options.connect().await.map_err(|error| classify("connecting", error))
    }

    /// Makes the file where there is none, and switches it to the write-ahead log, in which readers and the
    /// writer do not wait for each other. The file keeps that.
    pub(super) async fn create(&self) -> Result<SqliteConnection, StoreError> {
        let doing = |error| classify("creating the database file", error);
        let options = self.options.clone().create_if_missing(true);
        let mut connection = options.connect().await.map_err(doing)?;
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        let deadline = Instant::now() + BUSY_TIMEOUT;
        // SQLite's own busy timeout does not wait for the lock that this needs.
        while let Err(error) = write_ahead(&mut connection).await.map_err(doing) {
            if !error.is_transient() || Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
        Ok(connection)
    }
}

async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("/* outboxd: write_ahead */ pragma journal_mode = wal").execute(connection).await?;
    Ok(())
}

/// A connection that is opened when it is first needed, used by one at a time, and thrown away after an error.
#[derive(Debug, Default)]
pub(super) struct ConnectionSlot {
    connection: Mutex<Option<SqliteConnection>>,
}

/// A connection taken from its seat. Dropping it closes the connection; [`give_back`](Self::give_back) keeps it.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    seat: MutexGuard<'a, Option<SqliteConnection>>,
    pub(super) connection: SqliteConnection,
}

impl ConnectionSlot {
    pub(super) async fn take(&self, file: &File) -> Result<Taken<'_>, StoreError> {
        let mut seat = self.connection.lock().await;
        let connection = match seat.take() {
            Some(connection) => connection,
            None => file.connect(Durability::Lazy).await?,
        };
        Ok(Taken { seat, connection })
    }
}

impl Taken<'_> {
    pub(super) fn give_back(mut self) {
        *self.seat = Some(self.connection);
    }
}
