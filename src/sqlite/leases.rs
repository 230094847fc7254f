//! The lease: a row that is compared and set, by SQLite's clock, which is the host's.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Bid, BoxFuture, LeaseSession, StoreError};
use crate::outbox::{Table, Term};
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::classify;

/// A session that bids. SQLite has no lock that dies with its process and nothing else, so the row alone decides:
/// a bid is won or the lease is taken, and nobody waits in line for it.
#[derive(Debug)]
pub(super) struct Session {
    connection: SqliteConnection,
    table: Table,
    holder: String,
    /// The time to live as a modifier of SQLite's date functions.
    prolonged: String,
}

impl Session {
    pub(super) async fn open(file: &File, table: &Table, holder: &str, ttl: Duration) -> Result<Self, StoreError> {
        // A renewal that other writers keep waiting is worth nothing once the lease has run out.
        let connection = file.connect_patiently(Durability::Lazy, ttl / 2).await?;
        let prolonged = format!("+{:.3} seconds", ttl.as_secs_f64());
        Ok(Self { connection, table: table.clone(), holder: holder.to_owned(), prolonged })
    }

    async fn bid(&mut self) -> Result<Bid, StoreError> {
        let won = self.take_over().await.map_err(|error| classify("bidding for the lease", error))?;
        Ok(won.map_or(Bid::Taken, |term| Bid::Won(Term(term))))
    }

    async fn take_over(&mut self) -> Result<Option<i64>, sqlx::Error> {
        let sql = format!(
            "/* outboxd: take_over */ update {}
             set term = term + 1, holder = ?1, expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?2)
             where expires_at is null or expires_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') or holder = ?1
             returning term",
            self.table.lease()
        );
        let mut transaction = self.connection.begin_with("begin immediate").await?;
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.holder).bind(&self.prolonged);
        let term = query.fetch_optional(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(term)
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        let is_ours = self.prolong(term).await.map_err(|error| classify("renewing the lease", error))?;
        if is_ours { Ok(()) } else { Err(StoreError::TermOver { term }) }
    }

    async fn prolong(&mut self, term: Term) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "/* outboxd: prolong */ update {} set expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?)
             where term = ? and expires_at is not null",
            self.table.lease()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.prolonged).bind(term.0);
        Ok(query.execute(&mut self.connection).await?.rows_affected() == 1)
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        let sql = format!(
            "/* outboxd: resign */ update {} set holder = null, expires_at = null where term = ?",
            self.table.lease()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(term.0);
        let done = query.execute(&mut self.connection).await;
        done.map(|_| ()).map_err(|error| classify("resigning", error))
    }
}

impl LeaseSession for Session {
    fn bid(&mut self) -> BoxFuture<'_, Result<Bid, StoreError>> {
        Box::pin(self.bid())
    }

    fn renew(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.renew(term))
    }

    fn resign(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.resign(term))
    }
}
