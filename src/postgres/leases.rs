//! One leader: a session's advisory lock, which dies with the process, and a lease row with a term, which bounds
//! everything else (a pause, a host that vanished, a connection that was cut).

use std::time::Duration;

use futures_util::FutureExt;
use sqlx::{PgConnection, Row};

use crate::contract::{Bid, BoxFuture, LeaseSession, StoreError};
use crate::outbox::{Table, Term};
use crate::postgres::errors::{is_denied, not_now, unusable};
use crate::postgres::session::{ask_within, lock_key, sql};

/// First half of the lock's key; the second is the table's oid.
const CLASS: i32 = 1_869_968_482;

/// How long a backend that was told to end may take before the lock is tried again.
const ENDING: Duration = Duration::from_millis(50);

/// A session that bids and holds. Its connection has `idle_session_timeout` at the time to live, so that the
/// server itself frees the lock of a holder that went silent (PostgreSQL 14 and newer).
pub(super) struct PgLease {
    conn: PgConnection,
    table: Table,
    key: i32,
    holder: String,
    ttl: Duration,
    /// Whether a lease that has not run out is taken over from a holder whose lock is gone.
    fences: bool,
    locked: bool,
    /// Set while a statement is under way: after a failure nobody knows what the session holds.
    broken: bool,
}

impl PgLease {
    /// A session over a connection that is set up for it. `oid` is the outbox's.
    pub(super) fn new(conn: PgConnection, table: Table, oid: i64, holder: &str, ttl: Duration) -> Self {
        Self {
            conn,
            table,
            key: lock_key(oid),
            holder: holder.to_owned(),
            ttl,
            fences: false,
            locked: false,
            broken: false,
        }
    }

    fn enter(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(not_now("asking for the lease", "the session failed before: open another"));
        }
        Ok(())
    }

    async fn try_for_it(&mut self) -> Result<Bid, StoreError> {
        self.enter()?;
        let bid = self.lock_and_claim().await?;
        self.broken = false;
        Ok(bid)
    }

    async fn lock_and_claim(&mut self) -> Result<Bid, StoreError> {
        self.locked = self.locked || self.lock().await?;
        if !self.locked && self.end_silent_holder().await? {
            tokio::time::sleep(ENDING).await;
            self.locked = self.lock().await?;
        }
        if !self.locked {
            return Ok(Bid::Taken);
        }
        match self.claim().await? {
            Some(term) => Ok(Bid::Won(term)),
            None => Ok(Bid::Wait(self.remaining().await?)),
        }
    }

    async fn lock(&mut self) -> Result<bool, StoreError> {
        let statement = sqlx::query_scalar("/* outboxd: lock_lease */ select pg_try_advisory_lock($1, $2)");
        let locked = statement.bind(CLASS).bind(self.key).fetch_one(&mut self.conn);
        ask_within("locking the lease", self.ttl, locked).await
    }

    /// Ends the backend that holds the lock though its lease ran out: a holder that is paused or cut off. From
    /// PostgreSQL 14 on `idle_session_timeout` has usually done so before. A bidder that is not in the lease row yet
    /// gets one more time to live.
    async fn end_silent_holder(&mut self) -> Result<bool, StoreError> {
        let text = format!(
            "/* outboxd: end_silent_holder */
             select count(*) filter (where pg_terminate_backend(l.pid)) > 0
             from {lease} r
             join pg_catalog.pg_locks l on l.locktype = 'advisory' and l.granted and l.objsubid = 2
                 and l.classid::bigint = $1 and l.objid::bigint = $2
                 and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
             join pg_catalog.pg_stat_activity a on a.pid = l.pid and a.application_name = 'outboxd/lease'
             where not r.released and r.expires_at <= clock_timestamp()
                 and (l.pid = r.backend_pid or r.expires_at <= clock_timestamp() - $3 * interval '1 microsecond')",
            lease = self.table.lease()
        );
        let objid = i64::from(self.key.cast_unsigned());
        let statement = sqlx::query_scalar(sql(text)).bind(i64::from(CLASS)).bind(objid).bind(micros(self.ttl));
        let ended = statement.fetch_one(&mut self.conn).map(|ended| match ended {
            // Another role's session: it is for that role, or for the server's own timeouts, to end it.
            Err(error) if is_denied(&error) => Ok(false),
            ended => ended,
        });
        ask_within("ending a silent leader's session", self.ttl, ended).await
    }

    /// Begins a term, if nobody else's lease runs. One's own may: its session is gone, since it held the lock.
    async fn claim(&mut self) -> Result<Option<Term>, StoreError> {
        let text = format!(
            "/* outboxd: claim_lease */
             update {lease} set term = term + 1, holder = $1, backend_pid = pg_backend_pid(), released = false,
                 acquired_at = clock_timestamp(), expires_at = clock_timestamp() + $2 * interval '1 microsecond'
             where released or expires_at <= clock_timestamp() or holder = $1 or $3 returning term",
            lease = self.table.lease()
        );
        let statement = sqlx::query_scalar(sql(text)).bind(&self.holder).bind(micros(self.ttl)).bind(self.fences);
        let term = ask_within("bidding for the lease", self.ttl, statement.fetch_optional(&mut self.conn)).await?;
        Ok(term.map(Term))
    }

    /// How long the last lease has still to run.
    async fn remaining(&mut self) -> Result<Duration, StoreError> {
        let text = format!(
            "/* outboxd: remaining_lease */
             select greatest(0, ceil(extract(epoch from expires_at - clock_timestamp()) * 1000))::bigint from {lease}",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).fetch_optional(&mut self.conn);
        let row = ask_within("looking at the lease", self.ttl, statement).await?;
        let row = row.ok_or_else(|| {
            let lease = self.table.lease();
            unusable(format!("{lease} has no row"), format!("run `insert into {lease} default values`"))
        })?;
        Ok(Duration::from_millis(row.get::<i64, _>(0).unsigned_abs()))
    }

    async fn prolong(&mut self, term: Term) -> Result<(), StoreError> {
        self.enter()?;
        let text = format!(
            "/* outboxd: renew_lease */
             update {lease} set expires_at = clock_timestamp() + $2 * interval '1 microsecond'
             where term = $1 and not released and backend_pid = pg_backend_pid()",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).bind(micros(self.ttl));
        let done = ask_within("renewing the lease", self.ttl, statement.execute(&mut self.conn)).await?;
        self.broken = false;
        if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
    }

    async fn give_up(&mut self, term: Term) -> Result<(), StoreError> {
        self.enter()?;
        let text = format!(
            "/* outboxd: resign_lease */ update {lease} set released = true where term = $1",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).execute(&mut self.conn);
        ask_within("resigning", self.ttl, statement).await?;
        if self.locked {
            let statement = sqlx::query("/* outboxd: unlock_lease */ select pg_advisory_unlock($1, $2)");
            let unlocked = statement.bind(CLASS).bind(self.key).execute(&mut self.conn);
            ask_within("unlocking the lease", self.ttl, unlocked).await?;
            self.locked = false;
        }
        self.broken = false;
        Ok(())
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl LeaseSession for PgLease {
    fn bid(&mut self) -> BoxFuture<'_, Result<Bid, StoreError>> {
        Box::pin(self.try_for_it())
    }

    fn fence(&mut self) {
        self.fences = true;
    }

    fn renew(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.prolong(term))
    }

    fn resign(&mut self, term: Term) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.give_up(term))
    }
}
