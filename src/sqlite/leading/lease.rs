//! The lease: a row that is compared and set. The time in it is for people who look: bidders compare it with what they
//! saw before, never with a clock.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::contract::{Bid, Leader, LeaseSession, StoreError, Watched};
use crate::outbox::Term;
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::classify;
use crate::sqlite::table::OutboxTable;

/// A session that bids. SQLite has no lock that dies with its process and nothing else, so the row alone decides:
/// a bid is won or the lease is taken, and no bidder waits in line for it.
#[derive(Debug)]
pub(crate) struct SqliteLease {
    connection: SqliteConnection,
    table: OutboxTable,
    holder: String,
    ttl: Duration,
    /// By what name the broker shuts this holder out.
    fence: Option<String>,
    watched: Watched<Renewal>,
}

/// What every renewal of a lease changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Renewal {
    term: i64,
    /// Null once the lease was resigned.
    expires_at: Option<String>,
}

/// What a bidder sees.
struct Seen {
    renewal: Renewal,
    is_ours: bool,
    /// How long its holder may trust it.
    ttl: Duration,
}

impl SqliteLease {
    pub(crate) async fn open(
        file: &File,
        table: &OutboxTable,
        holder: &str,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        // A renewal that other writers keep waiting is worth nothing once the lease has run out.
        let connection = file.connect_patiently(Durability::Lazy, ttl / 2).await?;
        let (table, holder) = (table.clone(), holder.to_owned());
        Ok(Self { connection, table, holder, ttl, fence: None, watched: Watched::default() })
    }

    async fn look(&mut self) -> Result<Seen, sqlx::Error> {
        let sql = format!(
            "/* outboxd: look_at_lease */ select term, expires_at, holder is ?, coalesce(ttl_ms, 0) from {}",
            self.table.lease()
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&self.holder).fetch_one(&mut self.connection).await?;
        let renewal = Renewal { term: row.try_get(0)?, expires_at: row.try_get(1)? };
        let ttl = Duration::from_millis(row.try_get::<i64, _>(3)?.unsigned_abs());
        Ok(Seen { renewal, is_ours: row.try_get(2)?, ttl })
    }

    /// Begins a term, if the lease is still what was seen.
    async fn claim(&mut self, seen: &Renewal) -> Result<Option<i64>, sqlx::Error> {
        let sql = format!(
            "/* outboxd: claim */ update {}
             set term = term + 1, holder = ?1, fence = ?2, ttl_ms = ?3,
                 expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?4)
             where term = ?5 and expires_at is ?6 returning term",
            self.table.lease()
        );
        let (prolonged, ttl) = (self.prolonged(), millis(self.ttl));
        let mut transaction = self.connection.begin_with("begin immediate").await?;
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.holder).bind(&self.fence).bind(ttl);
        let query = query.bind(prolonged).bind(seen.term).bind(&seen.expires_at);
        let term = query.fetch_optional(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(term)
    }

    /// The time to live as a modifier of SQLite's date functions.
    fn prolonged(&self) -> String {
        format!("+{:.3} seconds", self.ttl.as_secs_f64())
    }

    async fn prolong(&mut self, term: Term) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "/* outboxd: prolong */ update {} set expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?)
             where term = ? and expires_at is not null",
            self.table.lease()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.prolonged()).bind(term.0);
        Ok(query.execute(&mut self.connection).await?.rows_affected() == 1)
    }
}

/// Who leads.
pub(crate) async fn leader(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
) -> Result<Option<Leader>, StoreError> {
    let sql = format!(
        "/* outboxd: leader */ select term, holder, left from (
             select term, holder, (julianday(expires_at) - julianday('now')) * 86400.0 as left from {}
         ) where holder is not null and left > 0.0",
        table.lease()
    );
    let found = sqlx::query_as::<_, (i64, String, f64)>(AssertSqlSafe(sql)).fetch_optional(connection).await;
    let leader = found.map_err(|error| classify("looking who leads", error))?;
    Ok(leader.map(|(term, holder, left)| Leader {
        term: Term(term),
        holder,
        remaining: Duration::try_from_secs_f64(left).unwrap_or_default(),
    }))
}

/// Rounded up: others wait for no less than the holder trusts.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

#[async_trait]
impl LeaseSession for SqliteLease {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        let doing = |error| classify("bidding for the lease", error);
        let Seen { renewal, is_ours, ttl } = self.look().await.map_err(doing)?;
        let unchanged = self.watched.see(renewal.clone());
        if renewal.expires_at.is_some() && !is_ours && unchanged < ttl.max(self.ttl) {
            return Ok(Bid::Taken);
        }
        let won = self.claim(&renewal).await.map_err(doing)?;
        Ok(won.map_or(Bid::Taken, |term| Bid::Won(Term(term))))
    }

    /// Nothing but renewals tells here whether a holder lives, so its lease is waited out all the same.
    fn fence(&mut self, name: &str) {
        self.fence = Some(name.to_owned());
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        let is_ours = self.prolong(term).await.map_err(|error| classify("renewing the lease", error))?;
        if is_ours { Ok(()) } else { Err(StoreError::TermOver { term }) }
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
