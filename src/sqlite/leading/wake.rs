//! Wake-ups: SQLite tells a connection whether another one committed since it last asked.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use crate::contract::{Arming, StoreError, WakeSource};
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::classify;

/// How often it asks while armed. Asking reads a counter in shared memory: no table, no lock, no disk.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// No count that SQLite gives.
const UNKNOWN: i64 = -1;

/// Polls `pragma data_version`. Commits of any kind wake, the relay's own on other connections included.
#[derive(Debug)]
pub(crate) struct SqliteWake {
    file: File,
    connection: Option<SqliteConnection>,
    seen: i64,
}

impl SqliteWake {
    pub(crate) fn new(file: File) -> Self {
        Self { file, connection: None, seen: UNKNOWN }
    }

    /// The connection stays in its place while it is asked: the counts of two connections cannot be compared, so a
    /// cancelled call must not lose it.
    async fn version(&mut self) -> Result<i64, StoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            vacant => {
                let connection = vacant.insert(self.file.connect(Durability::Lazy).await?);
                // The reader that waits reads once more: a commit may have gone unnoticed.
                self.seen = UNKNOWN;
                connection
            }
        };
        let version = data_version(connection).await.map_err(|error| classify("watching for commits", error));
        if version.is_err() {
            self.connection = None;
        }
        version
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("/* outboxd: data_version */ pragma data_version").fetch_one(connection).await
}

#[async_trait]
impl WakeSource for SqliteWake {
    async fn arm(&mut self) -> Result<Arming, StoreError> {
        self.seen = self.version().await?;
        Ok(Arming::Armed)
    }

    async fn wait(&mut self) -> Result<u32, StoreError> {
        loop {
            let version = self.version().await?;
            if std::mem::replace(&mut self.seen, version) != version {
                return Ok(1);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn disarm(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
