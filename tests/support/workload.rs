//! Writers as applications are: many connections, aggregates locked before their events are written, several
//! rows a transaction, savepoints, delays and rollbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::ledger::{FIRST, Ledger};
use crate::support::seed::Seed;
use crate::support::wait;

/// What the writers do.
#[derive(Clone)]
pub(crate) struct Workload {
    /// The database they write to; an outbox must be there.
    pub(crate) url: String,
    /// Topics; a key belongs to one of them.
    pub(crate) topics: Vec<String>,
    /// Connections that write at once.
    pub(crate) writers: u64,
    /// Aggregates that they lock.
    pub(crate) keys: u64,
    /// Rows after which they stop; some more may be written.
    pub(crate) rows: i64,
    /// How long a writer pauses after each transaction, so that the load lasts; zero for as fast as possible.
    pub(crate) pause: Duration,
    /// Whether a lost connection is to be expected, and made again.
    pub(crate) outages: bool,
    /// The outbox that they write to. Each has aggregates of its own.
    pub(crate) outbox: String,
    /// Bytes of padding in a payload.
    pub(crate) padding: i32,
    /// Of so many statements that insert rows one has a large last row, if any has; and the bytes of its padding.
    pub(crate) large: Option<(u32, i32)>,
    /// The letter of the history that is being written, of which padding is made. Each transaction shares it to its
    /// end, so that who has it alone has no writer at work.
    pub(crate) history: Arc<RwLock<char>>,
}

/// Writers at work.
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    workload: Workload,
}

impl Workload {
    /// Writers as fast as they can, 16 of them, until so many rows are written.
    pub(crate) fn new(url: &str, topics: &[&str], rows: i64) -> Self {
        let topics = topics.iter().map(|&topic| topic.to_owned()).collect();
        Self {
            url: url.to_owned(),
            topics,
            writers: 16,
            keys: 400,
            rows,
            pause: Duration::ZERO,
            outages: false,
            outbox: "outbox".to_owned(),
            padding: 60,
            large: None,
            history: Arc::new(RwLock::new(FIRST)),
        }
    }

    /// Steady writers, until they are stopped.
    pub(crate) fn steady(url: &str, topics: &[&str]) -> Self {
        Self { writers: 8, keys: 100, pause: Duration::from_millis(30), ..Self::new(url, topics, i64::MAX) }
    }

    /// Makes the aggregates and sets the writers to work.
    pub(crate) async fn start(self, seed: &Seed) -> Writers {
        self.prepare().await;
        let left = Arc::new(AtomicI64::new(self.rows));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for writer in 0..self.writers {
            let writer = Writer {
                workload: self.clone(),
                rng: seed.generator(writer),
                left: Arc::clone(&left),
                stop: stop.clone(),
            };
            tasks.spawn(writer.work());
        }
        Writers { tasks, stop, workload: self }
    }

    async fn prepare(&self) {
        let mut connection = PgConnection::connect(&self.url).await.expect("the database takes connections");
        let table = self.aggregates();
        let tables = format!(
            "create table {table} (key text primary key, topic text not null, seq bigint not null) with (fillfactor = 50)"
        );
        connection.execute(AssertSqlSafe(tables)).await.expect("the table of aggregates is created");
        let topics: Vec<_> = (0..self.keys).map(|key| &*self.topics[key as usize % self.topics.len()]).collect();
        let keys: Vec<_> = (0..self.keys).map(key_name).collect();
        let fill = format!("insert into {table} select k, t, 0 from unnest($1::text[], $2::text[]) u (k, t)");
        let filled = sqlx::query(AssertSqlSafe(fill));
        filled.bind(keys).bind(topics).execute(&mut connection).await.expect("aggregates are inserted");
    }
}

impl Workload {
    /// The table of the aggregates.
    pub(crate) fn aggregates(&self) -> String {
        format!("aggregate_of_{}", self.outbox)
    }

    /// Writes so many events of a locked aggregate in the transaction under way; the last has this much padding.
    pub(crate) async fn events(
        &self,
        connection: &mut PgConnection,
        key: &str,
        count: i64,
        (letter, large): (char, i32),
    ) -> Result<(), sqlx::Error> {
        let text = INSERT.replace("AGGREGATE", &self.aggregates()).replace("OUTBOX", &self.outbox);
        let insert = sqlx::query(AssertSqlSafe(text)).bind(key).bind(count).bind(self.padding).bind(large);
        insert.bind(letter.to_string()).execute(&mut *connection).await.map(drop)
    }

    /// What has committed by now. A database that is away is waited for.
    pub(crate) async fn ledger(&self) -> Ledger {
        let read = async || read_ledger(&self.url, &self.aggregates()).await.ok();
        wait::until("the aggregates can be read", wait::PATIENCE, read).await
    }
}

impl Writers {
    /// Waits until all rows are written, and says what committed.
    pub(crate) async fn finish(mut self) -> Ledger {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
        self.workload.ledger().await
    }

    /// Lets each writer finish its transaction, and says what committed.
    pub(crate) async fn stop(self) -> Ledger {
        self.stop.cancel();
        self.finish().await
    }

    /// Lets each writer finish its transaction.
    pub(crate) async fn rest(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer does not panic");
        }
    }
}

/// What the aggregates of a database say was committed.
async fn read_ledger(url: &str, aggregates: &str) -> Result<Ledger, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let read = format!("select topic, key, seq from {aggregates}");
    let rows: Vec<(String, String, i64)> = sqlx::query_as(AssertSqlSafe(read)).fetch_all(&mut connection).await?;
    let mut ledger = Ledger::default();
    for (topic, key, seq) in rows {
        ledger.committed(&topic, &key, seq as u64);
    }
    Ok(ledger)
}

/// Inserts rows in one statement, numbered on from `from` in each of `keys` keys; `from` and `rows` count rows
/// of all keys together and are multiples of `keys`.
pub(crate) async fn bulk(pool: &PgPool, topic: &str, keys: i64, from: i64, rows: i64, padding: i32) {
    assert_eq!((from % keys, rows % keys), (0, 0), "each key gets as many rows");
    let insert = sqlx::query(
        "insert into outbox (topic, key, payload) \
         select $1, 'k' || i % $2, convert_to('k' || i % $2 || ' ' || i / $2 + 1 || ' ' || repeat('x', $5), 'UTF8') \
         from generate_series($3, $3 + $4 - 1) i order by i",
    );
    let inserted = insert.bind(topic).bind(keys).bind(from).bind(rows).bind(padding).execute(pool).await;
    inserted.expect("rows are inserted");
}

pub(crate) fn key_name(key: u64) -> String {
    format!("k{key}")
}

struct Writer {
    workload: Workload,
    rng: SmallRng,
    left: Arc<AtomicI64>,
    stop: CancellationToken,
}

impl Writer {
    async fn work(mut self) {
        let mut connection = None;
        while self.left.load(Ordering::Relaxed) > 0 && !self.stop.is_cancelled() {
            if let Err(error) = self.write(&mut connection).await {
                assert!(self.workload.outages || is_lost_race(&error), "a writer failed: {error}");
                connection = None;
                sleep(Duration::from_millis(100)).await;
            }
            sleep(self.workload.pause).await;
        }
    }

    async fn write(&mut self, connection: &mut Option<PgConnection>) -> Result<(), sqlx::Error> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(PgConnection::connect(&self.workload.url).await?),
        };
        // A plan of its own, so that what is random does not depend on how far a transaction got.
        let mut plan = SmallRng::seed_from_u64(self.rng.random());
        let history = self.workload.history.read().await;
        let written = transaction(connection, &mut plan, &self.workload, *history).await?;
        self.left.fetch_sub(written, Ordering::Relaxed);
        Ok(())
    }
}

/// PostgreSQL 18.0, once in hundreds of thousands of transactions, refuses to lock a row whose last writer is just
/// committing (`heapam_tuple_lock`), or finds a deadlock of two writers, though they lock in one order: one of them had
/// gone back to a savepoint. The transaction is rolled back and an application tries again.
fn is_lost_race(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let is_uncommitted = error.message().starts_with("t_xmin") && error.message().contains("is uncommitted in tuple");
    is_uncommitted || error.code().as_deref() == Some(DEADLOCK)
}

/// The state of a transaction that was rolled back to end a deadlock.
const DEADLOCK: &str = "40P01";

/// One transaction; says how many rows it committed.
async fn transaction(
    connection: &mut PgConnection,
    plan: &mut SmallRng,
    workload: &Workload,
    letter: char,
) -> Result<i64, sqlx::Error> {
    let keys = workload.keys;
    let chosen: Vec<_> = (0..plan.random_range(1..=3)).map(|_| key_name(plan.random_range(0..keys))).collect();
    connection.execute("begin").await?;
    let lock = format!("select from {} where key = any($1) order by key for update", workload.aggregates());
    let lock = sqlx::query(AssertSqlSafe(lock));
    lock.bind(&chosen).execute(&mut *connection).await?;
    let mut written = 0;
    for key in &chosen {
        delay(plan).await;
        written += step(connection, plan, workload, (letter, key)).await?;
    }
    if plan.random_ratio(1, 10) {
        connection.execute("rollback").await?;
        return Ok(0);
    }
    delay(plan).await;
    connection.execute("commit").await?;
    Ok(written)
}

/// Writes some events of a locked aggregate, now and then inside a savepoint; says how many remain.
async fn step(
    connection: &mut PgConnection,
    plan: &mut SmallRng,
    workload: &Workload,
    (letter, key): (char, &str),
) -> Result<i64, sqlx::Error> {
    let count = plan.random_range(1..=5_i64);
    let savepoint = plan.random_ratio(1, 5);
    if savepoint {
        connection.execute("savepoint step").await?;
    }
    let large = workload.large.filter(|(of, _)| plan.random_ratio(1, *of)).map_or(workload.padding, |(_, size)| size);
    workload.events(connection, key, count, (letter, large)).await?;
    if savepoint && plan.random_ratio(1, 3) {
        connection.execute("rollback to savepoint step").await?;
        return Ok(0);
    }
    if savepoint && plan.random() {
        connection.execute("release savepoint step").await?;
    }
    Ok(count)
}

const INSERT: &str = "with drawn as (update AGGREGATE set seq = seq + $2 where key = $1 returning topic, seq) \
    insert into OUTBOX (topic, key, payload, headers) \
    select topic, $1, convert_to($1 || ' ' || n || ' ' || repeat($5, case when n = seq then $4 else $3 end), 'UTF8'), \
    '{\"kind\": \"step\"}' from drawn, generate_series(seq - $2 + 1, seq) n order by n";

/// Most of the time none, sometimes a moment, rarely long.
async fn delay(plan: &mut SmallRng) {
    match plan.random_range(0..400) {
        0 => sleep(Duration::from_millis(plan.random_range(50..300))).await,
        1..=100 => sleep(Duration::from_micros(plan.random_range(100..4_000))).await,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::support::machine;
    use crate::support::scene::Scene;

    /// The audit compares Kafka with the ledger, so the ledger itself is compared with the table.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_ledger_says_what_the_table_holds() {
        let _machine = machine::shared().await;
        let scene = Scene::set().await;
        let ledger = scene.writers(5_000).start(&scene.seed).await.finish().await;
        let rows = scene.database.number("select count(*) from outbox").await;
        assert_eq!(ledger.rows_of(scene.topic.name()), rows as u64);
        // The numbers of each key are 1, 2, 3 … in the order of the ids, that is of the commits.
        let misplaced = scene.database.number(
            "select count(*) from (select split_part(convert_from(payload, 'UTF8'), ' ', 2)::bigint as said, \
             row_number() over (partition by key order by id) as expected from outbox) n where said <> expected",
        );
        assert_eq!(misplaced.await, 0);
    }
}
