//! One leader: a session's advisory lock, which dies with the process, and a lease row with a term, which bounds
//! everything else (a pause, a host that vanished, a connection that was cut). The times in the row are for people who
//! look: bidders compare them with what they saw before, never with a clock.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use sqlx::{PgConnection, Row};

use crate::contract::{Bid, Leader, LeaseSession, StoreError, Watched};
use crate::outbox::Term;
use crate::postgres::errors::{CANCELLED, NO_LOCK, has_code, is_denied, not_now, unusable};
use crate::postgres::session::{ask, ask_within, lock_key, sql};
use crate::postgres::table::OutboxTable;

/// First half of the lock's key; the second is the table's oid.
const LEASE_LOCK_CLASS: i32 = 1_869_968_482;

/// How long a backend that was told to end may take before the lock is tried again.
const SESSION_END_TIME: Duration = Duration::from_millis(50);

/// What a session `a` is called in the log, for the operator who looks for it.
const SESSION: &str =
    "format('pid %s (%s, user %s)', a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename)";

/// A session that bids and holds. Its connection has `idle_session_timeout` at the time to live, so that the
/// server itself frees the lock of a holder that went silent (PostgreSQL 14 and newer).
pub(crate) struct PgLease {
    conn: PgConnection,
    table: OutboxTable,
    key: i32,
    holder: String,
    ttl: Duration,
    /// By what name the broker shuts this holder out, and lets it shut out others.
    fence: Option<String>,
    watched: Watched<Renewal>,
    locked: bool,
    /// Whether it was said that a session which is no relay's has the lock.
    named_foreigner: bool,
    /// Set while a statement is under way: after a failure the relay does not know what the session holds.
    broken: bool,
}

/// Who leads. The times in the row may be infinite.
pub(crate) async fn leader(conn: &mut PgConnection, table: &OutboxTable) -> Result<Option<Leader>, StoreError> {
    let text = format!(
        "/* outboxd: leader */ select term, holder, extract(epoch from expires_at - clock_timestamp())::float8
         from {} where holder is not null and not released and isfinite(expires_at) and expires_at > clock_timestamp()",
        table.lease()
    );
    let found = sqlx::query_as::<_, (i64, String, f64)>(sql(text)).fetch_optional(conn);
    let leader = ask("looking who leads", found).await?;
    Ok(leader.map(|(term, holder, left)| Leader {
        term: Term(term),
        holder,
        remaining: Duration::try_from_secs_f64(left).unwrap_or_default(),
    }))
}

/// What every renewal of a lease changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Renewal {
    term: i64,
    /// As text, because it is compared and nothing else: it may be infinite, or written by a clock that was wrong.
    expires_at: String,
}

/// What a bidder sees.
struct Seen {
    renewal: Renewal,
    /// Whether no holder has to be waited for.
    is_free: bool,
    /// How long this renewal is known to be the latest.
    unchanged: Duration,
    /// How long its holder may trust it, at most.
    ttl: Duration,
}

impl PgLease {
    /// A session over a connection that is set up for it. `oid` is the outbox's.
    pub(crate) fn new(conn: PgConnection, table: OutboxTable, oid: i64, holder: &str, ttl: Duration) -> Self {
        Self {
            conn,
            table,
            key: lock_key(oid),
            holder: holder.to_owned(),
            ttl,
            fence: None,
            watched: Watched::default(),
            locked: false,
            named_foreigner: false,
            broken: false,
        }
    }

    fn enter(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(not_now("asking for the lease", "the session failed before: open another"));
        }
        Ok(())
    }

    /// Says who has locked the lease, where that is why something failed.
    async fn name_blockers<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let error = match result {
            Err(error) if has_code(&error, &[NO_LOCK, CANCELLED]) => error,
            result => return result,
        };
        let text = format!(
            "/* outboxd: name_blockers */
             select distinct {SESSION}
             from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid
             where l.relation = to_regclass($1)::oid and l.granted and l.pid <> pg_backend_pid()
                 and a.application_name not like 'outboxd/%'"
        );
        let blockers = sqlx::query_scalar::<_, String>(sql(text)).bind(self.table.lease()).fetch_all(&mut self.conn);
        let doing = "waiting for a lock of the lease";
        let blockers = ask_within(doing, self.ttl, blockers).await?;
        if blockers.is_empty() {
            return Err(error);
        }
        let lease = self.table.lease();
        Err(not_now(doing, format!("{lease} is locked by {}", blockers.join(", "))))
    }

    async fn lock_and_claim(&mut self) -> Result<Bid, StoreError> {
        let was_locked = self.locked;
        let mut seen = self.look_and_lock().await?;
        if !self.locked && seen.unchanged >= seen.ttl && self.end_silent_holder(&seen).await? {
            tokio::time::sleep(SESSION_END_TIME).await;
            seen = self.look_and_lock().await?;
        }
        if !self.locked {
            return Ok(Bid::Taken);
        }
        if !was_locked {
            // What was read before the lock was taken may be older than it.
            seen = self.look_and_lock().await?;
        }
        let remaining = seen.ttl.saturating_sub(seen.unchanged);
        if !seen.is_free && !remaining.is_zero() {
            return Ok(Bid::Wait(remaining));
        }
        // Whatever changed meanwhile is seen by the next bid.
        Ok(self.claim(&seen.renewal).await?.map_or(Bid::Wait(Duration::ZERO), Bid::Won))
    }

    /// Looks at the lease and tries for the lock, in one statement. A bidder looks also where the lock is taken, so that
    /// it knows by its own clock, once the holder is gone, since when the last renewal stands.
    async fn look_and_lock(&mut self) -> Result<Seen, StoreError> {
        let text = format!(
            "/* outboxd: look_and_lock */
             select case when $1 then true else pg_try_advisory_lock($2, $3) end, r.term, r.expires_at::text, r.ttl_ms,
                 coalesce(r.released or r.holder = $4 or r.fence = $5, false)
             from {lease} r",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(self.locked).bind(LEASE_LOCK_CLASS).bind(self.key);
        let statement = statement.bind(&self.holder).bind(&self.fence).fetch_optional(&mut self.conn);
        let row = ask_within("bidding for the lease", self.ttl, statement).await?;
        let row = row.ok_or_else(|| {
            let lease = self.table.lease();
            unusable(format!("{lease} has no row"), format!("run `insert into {lease} default values`"))
        })?;
        self.locked = row.get(0);
        let renewal = Renewal { term: row.get(1), expires_at: row.get(2) };
        let holders_ttl =
            row.get::<Option<i64>, _>(3).map_or(Duration::ZERO, |ttl| Duration::from_millis(ttl.unsigned_abs()));
        Ok(Seen {
            unchanged: self.watched.see(renewal.clone()),
            renewal,
            is_free: row.get(4),
            ttl: holders_ttl.max(self.ttl),
        })
    }

    /// Ends the backend that holds the lock though it did not renew its lease in time: a holder that is paused or cut
    /// off. From PostgreSQL 14 on `idle_session_timeout` has usually done so before. A bidder that is not in the lease
    /// row yet gets one more time to live. A session that is no relay's is only named: any role can take the lock.
    async fn end_silent_holder(&mut self, seen: &Seen) -> Result<bool, StoreError> {
        let text = format!(
            "/* outboxd: end_silent_holder */
             select count(*) filter (where case when a.application_name = 'outboxd/lease' and not r.released
                     and r.term = $3 and r.expires_at::text = $4 and (l.pid = r.backend_pid or $5)
                     then pg_terminate_backend(l.pid) else false end) > 0,
                 min({session}) filter (where a.application_name <> 'outboxd/lease')
             from {lease} r
             join pg_catalog.pg_locks l on l.locktype = 'advisory' and l.granted and l.objsubid = 2
                 and l.classid::bigint = $1 and l.objid::bigint = $2
                 and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
             join pg_catalog.pg_stat_activity a on a.pid = l.pid",
            lease = self.table.lease(),
            session = SESSION
        );
        let objid = i64::from(self.key.cast_unsigned());
        let statement =
            sqlx::query_as::<_, (bool, Option<String>)>(sql(text)).bind(i64::from(LEASE_LOCK_CLASS)).bind(objid);
        let statement = statement.bind(seen.renewal.term).bind(&seen.renewal.expires_at);
        let statement = statement.bind(seen.unchanged >= seen.ttl * 2);
        let ended = statement.fetch_one(&mut self.conn).map(|ended| match ended {
            // Another role's session: it is for that role, or for the server's own timeouts, to end it.
            Err(error) if is_denied(&error) => Ok((false, None)),
            ended => ended,
        });
        let (ended, foreigner) = ask_within("ending a silent leader's session", self.ttl, ended).await?;
        if let Some(session) = foreigner
            && !std::mem::replace(&mut self.named_foreigner, true)
        {
            tracing::warn!(%session, outbox = %self.table, "the lock of the lease is held by a session that is no relay's: nobody can lead until it ends");
        }
        Ok(ended)
    }

    /// Begins a term, if the lease is what was seen. One's own may run: its session is gone, since it held the lock.
    async fn claim(&mut self, seen: &Renewal) -> Result<Option<Term>, StoreError> {
        let text = format!(
            "/* outboxd: claim_lease */
             update {lease} set term = term + 1, holder = $1, fence = $2, ttl_ms = $3, backend_pid = pg_backend_pid(),
                 released = false, acquired_at = clock_timestamp(),
                 expires_at = clock_timestamp() + $3 * interval '1 millisecond'
             where term = $4 and expires_at::text = $5 returning term",
            lease = self.table.lease()
        );
        let statement = sqlx::query_scalar(sql(text)).bind(&self.holder).bind(&self.fence).bind(millis(self.ttl));
        let statement = statement.bind(seen.term).bind(&seen.expires_at).fetch_optional(&mut self.conn);
        let term = ask_within("bidding for the lease", self.ttl, statement).await?;
        Ok(term.map(Term))
    }
}

/// Rounded up: others wait for no less than the holder trusts.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

#[async_trait]
impl LeaseSession for PgLease {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        self.enter()?;
        let bid = self.lock_and_claim().await;
        let bid = self.name_blockers(bid).await?;
        self.broken = false;
        Ok(bid)
    }

    fn fence(&mut self, name: &str) {
        self.fence = Some(name.to_owned());
    }

    async fn renew(&mut self, term: Term) -> Result<(), StoreError> {
        self.enter()?;
        let text = format!(
            "/* outboxd: renew_lease */
             update {lease} set expires_at = clock_timestamp() + $2 * interval '1 millisecond'
             where term = $1 and not released and backend_pid = pg_backend_pid()",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).bind(millis(self.ttl));
        let done = ask_within("renewing the lease", self.ttl, statement.execute(&mut self.conn)).await;
        let done = self.name_blockers(done).await?;
        self.broken = false;
        if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        self.enter()?;
        let text = format!(
            "/* outboxd: resign_lease */ update {lease} set released = true where term = $1",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).execute(&mut self.conn);
        ask_within("resigning", self.ttl, statement).await?;
        if self.locked {
            let statement = sqlx::query("/* outboxd: unlock_lease */ select pg_advisory_unlock($1, $2)");
            let unlocked = statement.bind(LEASE_LOCK_CLASS).bind(self.key).execute(&mut self.conn);
            ask_within("unlocking the lease", self.ttl, unlocked).await?;
            self.locked = false;
        }
        self.broken = false;
        Ok(())
    }
}
