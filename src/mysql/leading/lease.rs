//! One leader: a session's named lock, which dies with the process, and a lease row with a term, which bounds everything else
//! (a pause, a host that vanished, a connection that was cut), and which alone counts where several nodes take writes: a named
//! lock is had on each. The times in the row are for people who look: bidders compare them with what they saw before, never
//! with a clock.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row};

use crate::contract::{Bid, Leader, LeaseSession, StoreError, Watched};
use crate::mysql::errors::{classify, not_now, unusable};
use crate::mysql::session::{Session, ask, ask_within, sql};
use crate::mysql::table::OutboxTable;
use crate::outbox::Term;

/// Characters that the name of a lock may have.
const LONGEST_LOCK: usize = 64;

/// A session that bids and holds. The server ends it when it was silent for the time to live, and frees the lock of a holder
/// that was paused or cut off.
pub(crate) struct MySqlLease {
    session: Session,
    table: OutboxTable,
    lock: String,
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

/// Who leads.
pub(crate) async fn leader(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<Option<Leader>, StoreError> {
    let doing = "looking who leads";
    let text = format!(
        "/* outboxd: leader */ select term, holder, timestampdiff(microsecond, utc_timestamp(6), expires_at)
         from {} where holder is not null and not released and expires_at > utc_timestamp(6)",
        table.lease()
    );
    let Some(row) = ask(doing, sqlx::query(sql(text)).fetch_optional(conn)).await? else { return Ok(None) };
    let read = || -> Result<Leader, sqlx::Error> {
        let left: i64 = row.try_get(2)?;
        let remaining = Duration::from_micros(u64::try_from(left).unwrap_or_default());
        Ok(Leader { term: Term(row.try_get(0)?), holder: row.try_get(1)?, remaining })
    };
    read().map(Some).map_err(|error| classify(doing, error))
}

/// What every renewal of a lease changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Renewal {
    term: i64,
    /// As text, because it is compared and nothing else.
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

impl MySqlLease {
    /// A session over a connection that is set up for it.
    pub(crate) fn new(session: Session, table: OutboxTable, holder: &str, ttl: Duration) -> Self {
        let lock = lock_name("outboxd", &table);
        let (fence, watched, holder) = (None, Watched::default(), holder.to_owned());
        let (locked, named_foreigner, broken) = (false, false, false);
        Self { session, table, lock, holder, ttl, fence, watched, locked, named_foreigner, broken }
    }

    fn enter(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(not_now("asking for the lease", "the session failed before: open another"));
        }
        Ok(())
    }

    async fn lock_and_claim(&mut self) -> Result<Bid, StoreError> {
        if !self.locked {
            let statement = sqlx::query_scalar::<_, Option<i64>>("/* outboxd: lock_lease */ select get_lock(?, 0)");
            let locked = statement.bind(&self.lock).fetch_one(&mut self.session.conn);
            self.locked = ask_within("bidding for the lease", self.ttl, locked).await? == Some(1);
        }
        // Looked at where the lock is taken too, so that the bidder knows by its own clock, once the holder is gone, since when
        // the last renewal stands.
        let seen = self.look().await?;
        if !self.locked {
            self.name_foreigner(&seen).await?;
            return Ok(Bid::Taken);
        }
        let remaining = seen.ttl.saturating_sub(seen.unchanged);
        if !seen.is_free && !remaining.is_zero() {
            return Ok(Bid::Wait(remaining));
        }
        // Whatever changed meanwhile is seen by the next bid.
        Ok(self.claim(&seen.renewal).await?.map_or(Bid::Wait(Duration::ZERO), Bid::Won))
    }

    async fn look(&mut self) -> Result<Seen, StoreError> {
        let doing = "bidding for the lease";
        let text = format!(
            "/* outboxd: look_at_lease */
             select term, cast(expires_at as char), ttl_ms, coalesce(released or holder = ? or fence = ?, 0) from {}",
            self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(&self.holder).bind(&self.fence);
        let row = ask_within(doing, self.ttl, statement.fetch_optional(&mut self.session.conn)).await?;
        let row = row.ok_or_else(|| {
            let lease = self.table.lease();
            unusable(format!("{lease} has no row"), format!("run `insert into {lease} (only_row) values (1)`"))
        })?;
        let read = || -> Result<(Renewal, Option<i64>, bool), sqlx::Error> {
            Ok((Renewal { term: row.try_get(0)?, expires_at: row.try_get(1)? }, row.try_get(2)?, row.try_get(3)?))
        };
        let (renewal, ttl, is_free) = read().map_err(|error| classify(doing, error))?;
        let holders_ttl = ttl.map_or(Duration::ZERO, |ttl| Duration::from_millis(ttl.unsigned_abs()));
        let unchanged = self.watched.see(renewal.clone());
        Ok(Seen { unchanged, renewal, is_free, ttl: holders_ttl.max(self.ttl) })
    }

    /// Says once which session has the lock and is not the one that the row names as the holder's: nobody can lead until it
    /// ends. A holder that is silent the server ends by itself.
    async fn name_foreigner(&mut self, seen: &Seen) -> Result<(), StoreError> {
        if self.named_foreigner || seen.unchanged < seen.ttl * 2 {
            return Ok(());
        }
        let text = format!(
            "/* outboxd: lock_holder */ select cast(is_used_lock(?) as signed) as id from {}
             where is_used_lock(?) <> coalesce(connection_id, 0)",
            self.table.lease()
        );
        let statement = sqlx::query_scalar::<_, Option<i64>>(sql(text)).bind(&self.lock).bind(&self.lock);
        let found =
            ask_within("looking who has the lease's lock", self.ttl, statement.fetch_optional(&mut self.session.conn));
        if let Some(id) = found.await?.flatten() {
            self.named_foreigner = true;
            tracing::warn!(connection = id, lock = %self.lock, outbox = %self.table, "the lock of the lease is held by a session that is not the leader's: nobody can lead until it ends");
        }
        Ok(())
    }

    /// Begins a term, if the lease is what was seen. One's own may run: its session is gone, since it held the lock.
    async fn claim(&mut self, seen: &Renewal) -> Result<Option<Term>, StoreError> {
        let text = format!(
            "/* outboxd: claim_lease */
             update {lease} set term = term + 1, holder = ?, fence = ?, ttl_ms = ?, connection_id = connection_id(),
                 released = false, acquired_at = utc_timestamp(6),
                 expires_at = utc_timestamp(6) + interval ? microsecond
             where term = ? and expires_at = ?",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(&self.holder).bind(&self.fence).bind(millis(self.ttl));
        let statement = statement.bind(micros(self.ttl)).bind(seen.term).bind(&seen.expires_at);
        let done = ask_within("bidding for the lease", self.ttl, statement.execute(&mut self.session.conn)).await?;
        Ok((done.rows_affected() == 1).then(|| Term(seen.term + 1)))
    }
}

/// What a lock of an outbox is called, for the whole server. Names of locks know no upper case, and names of tables may.
pub(crate) fn lock_name(what: &str, table: &OutboxTable) -> String {
    let name = format!("{what}:{}.{}", table.schema().unwrap_or_default(), table.name());
    if name.chars().count() <= LONGEST_LOCK && !name.chars().any(char::is_uppercase) {
        return name;
    }
    // FNV-1a: the same in every version, since relays of two versions have to agree.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let kept: String = name.chars().take(LONGEST_LOCK - 17).collect();
    format!("{kept}#{hash:016x}")
}

/// Rounded up: others wait for no less than the holder trusts.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl LeaseSession for MySqlLease {
    async fn bid(&mut self) -> Result<Bid, StoreError> {
        self.enter()?;
        let bid = self.lock_and_claim().await?;
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
             update {lease} set expires_at = utc_timestamp(6) + interval ? microsecond
             where term = ? and not released and connection_id = connection_id()",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(micros(self.ttl)).bind(term.0);
        let done = ask_within("renewing the lease", self.ttl, statement.execute(&mut self.session.conn)).await?;
        self.broken = false;
        if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
    }

    async fn resign(&mut self, term: Term) -> Result<(), StoreError> {
        self.enter()?;
        let text = format!(
            "/* outboxd: resign_lease */ update {lease} set released = true where term = ?",
            lease = self.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).execute(&mut self.session.conn);
        ask_within("resigning", self.ttl, statement).await?;
        if self.locked {
            let statement = sqlx::query("/* outboxd: unlock_lease */ select release_lock(?)").bind(&self.lock);
            ask_within("unlocking the lease", self.ttl, statement.execute(&mut self.session.conn)).await?;
            self.locked = false;
        }
        self.broken = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Table;

    #[test]
    fn a_locks_name_fits_and_tells_outboxes_apart() {
        let name = |schema: &str, table: &str| {
            let table: Table = table.parse().expect("a name");
            lock_name("outboxd", &OutboxTable::found_in(&table, schema.to_owned()))
        };
        assert_eq!(name("shop", "outbox"), "outboxd:shop.outbox");
        assert_ne!(name("shop", "Outbox").to_lowercase(), name("shop", "outbox").to_lowercase());
        let long = "x".repeat(64);
        assert_eq!(name(&long, "outbox").chars().count(), LONGEST_LOCK);
        assert_ne!(name(&long, "outbox"), name(&long, "outbox_2"));
    }
}
