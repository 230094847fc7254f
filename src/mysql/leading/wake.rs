//! Waking up: MySQL tells a session that waits for a transaction's number when that was committed, so the relay waits for the
//! next one, and writers pay nothing for it. Where the server gives no such numbers (MariaDB, `gtid_mode = OFF`) the
//! latest ids of the outbox are asked for again and again, which is the least that there is to ask for.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{MySqlConnection, Row};
use tokio::time::Instant;

use crate::contract::{Arming, StoreError, WakeSource};
use crate::mysql::address::Address;
use crate::mysql::errors::{classify, not_now};
use crate::mysql::session::{Flavor, Job, Session, ask, sql};
use crate::mysql::table::OutboxTable;

/// How long the server waits at a time, in seconds: so long it takes at most to notice that the relay is gone.
const WAIT_SECONDS: u32 = 1;

/// How often the latest ids are asked for where no commit is told.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// How long commits of others, which a busy server tells one after the other, keep the relay from looking again, at most.
const LONGEST_BREAK: Duration = Duration::from_millis(20);

/// Ids that are looked at for whether something was committed: what commits later than so many others is found by the slow
/// polling that goes on meanwhile.
const LATEST_IDS: u32 = 200;

/// Wake-ups by commits that leave a trace in the outbox.
pub(crate) struct MySqlWake {
    address: Arc<Address>,
    armed: Option<Armed>,
}

struct Armed {
    session: Session,
    /// The transaction that is waited for, where transactions have numbers.
    next: Option<String>,
    /// The latest ids, as they were when the reader was told last.
    latest: String,
    /// How long the last look at them took.
    took: Duration,
    /// How long to wait after a commit that left no trace.
    pause: Duration,
}

impl MySqlWake {
    /// Does not connect.
    pub(crate) fn new(address: Arc<Address>) -> Self {
        Self { address, armed: None }
    }
}

impl Armed {
    /// What is waited for from now on. The number comes first: what is committed in between is among the ids.
    async fn begin(mut session: Session, table: &OutboxTable) -> Result<Self, StoreError> {
        let next = next_transaction(&mut session).await?;
        let begun = Instant::now();
        let latest = latest_ids(&mut session.conn, table).await?;
        Ok(Self { session, next, latest, took: begun.elapsed(), pause: Duration::ZERO })
    }

    /// Waits until something may have been committed.
    async fn pause(&mut self) -> Result<(), StoreError> {
        let doing = "waiting for a wake-up";
        let Some(next) = &self.next else {
            // Rows that are not committed cost each look, and may be many.
            tokio::time::sleep(POLL_INTERVAL.max(self.took * 2)).await;
            return Ok(());
        };
        tokio::time::sleep(self.pause).await;
        let text =
            format!("/* outboxd: wait_for_commit */ select wait_for_executed_gtid_set('{next}', {WAIT_SECONDS})");
        ask(doing, sqlx::raw_sql(sql(text)).execute(&mut self.session.conn)).await.map(drop)
    }

    /// Looks whether a commit left a trace. What is waited for changes only once all is known: a look that is cut short
    /// misses nothing.
    async fn look(&mut self, table: &OutboxTable) -> Result<bool, StoreError> {
        let next = if self.next.is_some() { next_transaction(&mut self.session).await? } else { None };
        let begun = Instant::now();
        let latest = latest_ids(&mut self.session.conn, table).await?;
        let is_new = latest != self.latest;
        let longer = (self.pause * 2).clamp(Duration::from_millis(1), LONGEST_BREAK);
        (self.next, self.latest, self.took) = (next, latest, begun.elapsed());
        self.pause = if is_new { Duration::ZERO } else { longer };
        Ok(is_new)
    }
}

/// The next transaction of the server, as it will be called; nothing where transactions have no numbers.
async fn next_transaction(session: &mut Session) -> Result<Option<String>, StoreError> {
    let doing = "arming the wake-up";
    if session.flavor == Flavor::MariaDb {
        return Ok(None);
    }
    let statement = "/* outboxd: next_transaction */
        select cast(@@global.gtid_mode as char), cast(@@server_uuid as char), cast(@@global.gtid_executed as char)";
    let row = ask(doing, sqlx::raw_sql(statement).fetch_one(&mut session.conn)).await?;
    let read =
        || -> Result<(String, String, String), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)) };
    let (mode, server, executed) = read().map_err(|error| classify(doing, error))?;
    Ok((mode == "ON").then(|| format!("{server}:{}", last_number(&server, &executed) + 1)))
}

/// The highest number that a server has given, of a set of numbers such as `uuid:1-5:7,\nuuid:1-3`.
fn last_number(server: &str, executed: &str) -> u64 {
    let of_server = |set: &str| set.trim().strip_prefix(server).map(str::to_owned);
    let intervals = executed.split(',').find_map(of_server).unwrap_or_default();
    // A word among them begins the numbers of another kind.
    let numbers = intervals.split(':').skip(1).map_while(|interval| interval.rsplit('-').next()?.trim().parse().ok());
    numbers.max().unwrap_or(0)
}

/// What changes when a row is committed among the latest ones, or removed.
async fn latest_ids(conn: &mut MySqlConnection, table: &OutboxTable) -> Result<String, StoreError> {
    let doing = "looking for commits";
    let text = format!(
        "/* outboxd: latest_ids */ select cast(concat_ws(' ', count(*), coalesce(max(id), 0), coalesce(sum(id), 0)) as char)
         from (select {id} as id from {outbox} force index (primary) order by {id} desc limit {LATEST_IDS}) latest",
        id = table.columns().id,
        outbox = table.outbox()
    );
    let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
    row.try_get(0).map_err(|error| classify(doing, error))
}

#[async_trait]
impl WakeSource for MySqlWake {
    async fn arm(&mut self) -> Result<Arming, StoreError> {
        let session = match self.armed.take() {
            Some(armed) => armed.session,
            None => self.address.connect(Job::Wake).await?,
        };
        self.armed = Some(Armed::begin(session, self.address.table()).await?);
        Ok(Arming::Armed)
    }

    async fn wait(&mut self) -> Result<u32, StoreError> {
        loop {
            let Some(armed) = &mut self.armed else { return Err(not_now("waiting for a wake-up", "it is not armed")) };
            let looked = match armed.pause().await {
                Ok(()) => armed.look(self.address.table()).await,
                Err(error) => Err(error),
            };
            match looked {
                Ok(true) => return Ok(1),
                Ok(false) => {}
                Err(error) => {
                    self.armed = None;
                    return Err(error);
                }
            }
        }
    }

    async fn disarm(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_transaction_of_this_server_is_found_among_those_of_others() {
        let ours = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let other = "00000000-0000-0000-0000-000000000001";
        assert_eq!(last_number(ours, ""), 0);
        assert_eq!(last_number(ours, &format!("{ours}:1-5")), 5);
        assert_eq!(last_number(ours, &format!("{other}:1-99,\n{ours}:1-5:7-8:11")), 11);
        assert_eq!(last_number(ours, &format!("{ours}:1-5:tag:1-90")), 5);
        assert_eq!(last_number(ours, &format!("{other}:1-99")), 0);
    }
}
