//! The demo's application: a shop that changes its orders and tells of it in the same transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::outbox::Message;
use crate::sqlite::EnqueueError;
use crate::sqlite::enqueue_many;

/// How long the shop waits for its turn to write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// The shop's own connection to its database.
#[derive(Debug)]
pub struct Shop {
    connection: SqliteConnection,
}

impl Shop {
    /// Opens the shop in this file, making its table where there is none.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn open(file: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let mut connection = options.connect().await?;
        sqlx::query(
            "/* shop: create */ create table if not exists orders (id integer primary key, version integer not null)",
        )
        .execute(&mut connection)
        .await?;
        Ok(Self { connection })
    }

    /// Changes these orders and enqueues a message for each in one transaction, then commits or rolls back.
    /// `tell` makes the message of an order and its new version.
    ///
    /// # Errors
    /// Whatever the database says; nothing was committed then.
    pub async fn transact(
        &mut self,
        orders: &[u64],
        commits: bool,
        tell: impl Fn(u64, u64) -> Message,
    ) -> Result<(), EnqueueError> {
        let failed = EnqueueError::Database;
        let mut transaction = self.connection.begin_with("begin immediate").await.map_err(failed)?;
        let mut messages = Vec::with_capacity(orders.len());
        for order in orders {
            let version = change(&mut transaction, *order).await.map_err(failed)?;
            messages.push(tell(*order, version));
        }
        enqueue_many(&mut transaction, &messages).await?;
        let ended = if commits { transaction.commit().await } else { transaction.rollback().await };
        ended.map_err(failed)
    }

    /// The committed version of every order.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn versions(&mut self) -> Result<BTreeMap<u64, u64>, sqlx::Error> {
        let rows: Vec<(i64, i64)> = sqlx::query_as("/* shop: versions */ select id, version from orders")
            .fetch_all(&mut self.connection)
            .await?;
        Ok(rows.into_iter().map(|(order, version)| (order.unsigned_abs(), version.unsigned_abs())).collect())
    }
}

async fn change(connection: &mut SqliteConnection, order: u64) -> Result<u64, sqlx::Error> {
    let version: i64 = sqlx::query_scalar(
        "/* shop: change */ insert into orders (id, version) values (?, 1)
         on conflict (id) do update set version = version + 1 returning version",
    )
    .bind(i64::try_from(order).unwrap_or(i64::MAX))
    .fetch_one(connection)
    .await?;
    Ok(version.unsigned_abs())
}
