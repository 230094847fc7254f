//! A steady load: how long from a commit until a consumer has the record.
//!
//! The time is taken by `clock_timestamp()` inside the insert, hence before the commit, and when the consumer's poll
//! returns; both are of one host's clock. What insert and commit take is shown beside it: most of that is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Fallible;
use crate::contestant::{Contestant, Mode};
use crate::load::{BACKLOG, Drain, REST, Steady};
use crate::process::Running;
use crate::results::Figures;
use crate::rig::{Rig, body};
use crate::topic::{Topics, number_in};

/// Connections that write at a thousand rows a second; more of them at higher rates.
const WRITERS: u64 = 4;

/// How long a contestant may take to begin.
const BEGINNING: Duration = Duration::from_secs(90);

/// How long what was written last may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(20);

/// What arrived: a row's number, when it was written, and when it came, both in microseconds.
type Arrival = (u64, u64, u64);

pub(crate) async fn run(rig: &Rig, contestant: &Contestant, mode: &Mode, steady: &Steady) -> Fallible<Figures> {
    let name = rig.fresh_name();
    contestant.make_table(rig, mode, &name).await?;
    if steady.history > 0 {
        let history = contestant.history.as_ref().ok_or("it keeps no history")?;
        rig.fill(history, &name, &Drain { rows: steady.history, ..BACKLOG }).await?;
        sleep(REST).await;
    }
    let topics = Topics::create(rig, &name, 1).await?;
    let mut running = contestant.start(rig, mode, &name)?;
    let watch = Watch::begin(topics.consumer()?);
    begin(rig, contestant, &name, &watch, &mut running).await?;
    let snapshot = if steady.held_snapshot { Some(hold_snapshot(rig).await?) } else { None };

    let Steady { rate, rows, .. } = *steady;
    let writers = WRITERS * (rate / rows).div_ceil(4_000);
    let began = Instant::now() + Duration::from_millis(100);
    let end = began + steady.warm_up + steady.lasting;
    let next = Arc::new(AtomicU64::new(1));
    let mut tasks = Vec::new();
    for _ in 0..writers {
        let writer = Writer {
            connection: rig.connect().await?,
            insert: insert(rig, contestant, rows),
            topic: name.clone(),
            next: Arc::clone(&next),
        };
        tasks.push(tokio::spawn(writer.write(rate, rows, began, end)));
    }
    sleep_until(began + steady.warm_up).await;
    let (from, cpu_before) = (micros(), running.cpu_seconds());
    sleep_until(end - steady.lasting / 2).await;
    let table_before = rig.table_mib().await?;
    sleep_until(end).await;
    let (until, cpu, table) = (micros(), running.cpu_seconds() - cpu_before, rig.table_mib().await?);
    let (mut lags, mut inserts) = (Vec::new(), Vec::new());
    for task in tasks {
        let Timings { late, took } = task.await??;
        lags.extend(late);
        inserts.extend(took);
    }
    running.is_alive()?;
    let written = next.load(Ordering::Relaxed) - 1;
    let arrivals = watch.all(written).await?;
    let (resident, peak) = (running.resident_mib(), running.peak_mib());
    running.stop()?;
    drop(snapshot);
    contestant.tear_down(rig).await?;
    topics.delete().await?;

    let measured = |&&(_, sent, _): &&Arrival| sent >= from && sent < until;
    let mut latencies: Vec<f64> =
        arrivals.iter().filter(measured).map(|(_, sent, came)| came.saturating_sub(*sent) as f64 / 1e3).collect();
    [&mut latencies, &mut lags, &mut inserts].into_iter().for_each(|values| values.sort_by(f64::total_cmp));
    let quantile = |values: &[f64], q: f64| values[((values.len() - 1) as f64 * q) as usize];
    let seconds = steady.lasting.as_secs_f64();
    Ok(Figures::from([
        ("p50_ms", quantile(&latencies, 0.5)),
        ("p95_ms", quantile(&latencies, 0.95)),
        ("p99_ms", quantile(&latencies, 0.99)),
        ("max_ms", quantile(&latencies, 1.0)),
        ("rows_per_second", latencies.len() as f64 / seconds),
        ("insert_p50_ms", quantile(&inserts, 0.5)),
        ("insert_p99_ms", quantile(&inserts, 0.99)),
        ("writers_late_p99_ms", quantile(&lags, 0.99)),
        ("cpu_percent", 100.0 * cpu / seconds),
        ("resident_mib", resident),
        ("peak_mib", peak),
        ("table_mib", table),
        ("table_growth", table / table_before),
    ]))
}

/// Waits until a contestant works: rows are written until one of them arrives.
pub(crate) async fn begin(
    rig: &Rig,
    contestant: &Contestant,
    topic: &str,
    watch: &Watch,
    running: &mut Running,
) -> Fallible<()> {
    let (mut connection, insert) = (rig.connect().await?, insert(rig, contestant, 1));
    let end = Instant::now() + BEGINNING;
    while watch.arrived.load(Ordering::Relaxed) == 0 {
        running.is_alive()?;
        if Instant::now() > end {
            return Err(format!("nothing arrived within {BEGINNING:?}").into());
        }
        sqlx::query(AssertSqlSafe(insert.as_str())).bind(topic).bind(0_i64).execute(&mut connection).await?;
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// A statement that inserts rows: of a topic, from a number on. What does not depend on that number is planned once.
pub(crate) fn insert(rig: &Rig, contestant: &Contestant, rows: u64) -> String {
    let body = body("n::text", "(extract(epoch from clock_timestamp()) * 1e6)::bigint", 300);
    let offsets: Vec<String> = (0..rows).map(|offset| format!("({offset})")).collect();
    format!(
        "with rows(topic, key, body) as (
             select $1::text, 'key-' || n % 10000, {body}
             from (values {}) offsets (o), lateral (select $2::bigint + o) numbers (n)
         ) {}",
        offsets.join(", "),
        rig.fill_in(&contestant.insert),
    )
}

/// What a writer's transactions took, in milliseconds.
#[derive(Default)]
struct Timings {
    /// How much later than they should have they began.
    late: Vec<f64>,
    /// From the insert until the commit was confirmed. The greater part of that is in every latency.
    took: Vec<f64>,
}

/// One of those who write, in turns.
struct Writer {
    connection: PgConnection,
    insert: String,
    topic: String,
    /// The number of the next row that no writer has taken on.
    next: Arc<AtomicU64>,
}

impl Writer {
    /// Writes every transaction at its time, or as soon after it as it can.
    async fn write(mut self, rate: u64, rows: u64, began: Instant, end: Instant) -> Fallible<Timings> {
        let mut timings = Timings::default();
        loop {
            let number = self.next.fetch_add(rows, Ordering::Relaxed);
            let due = began + Duration::from_nanos(number * 1_000_000_000 / rate);
            if due >= end {
                self.next.fetch_sub(rows, Ordering::Relaxed);
                return Ok(timings);
            }
            sleep_until(due).await;
            let started = Instant::now();
            let written = sqlx::query(AssertSqlSafe(self.insert.as_str())).bind(&self.topic).bind(number as i64);
            written.execute(&mut self.connection).await?;
            timings.late.push((started - due).as_secs_f64() * 1e3);
            timings.took.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
}

/// A transaction that sees the database as it is now, for as long as the connection lives.
async fn hold_snapshot(rig: &Rig) -> Fallible<PgConnection> {
    let mut connection = rig.connect().await?;
    sqlx::raw_sql("begin isolation level repeatable read; select count(*) from pg_class")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// A consumer that takes everything at once, on a thread of its own.
pub(crate) struct Watch {
    arrived: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Fallible<Vec<Arrival>>>>,
}

impl Watch {
    pub(crate) fn begin(consumer: BaseConsumer) -> Self {
        let (arrived, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, over) = (Arc::clone(&arrived), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            let mut arrivals = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
                let came = micros();
                let record = record?;
                let payload = record.payload().unwrap_or_default();
                let number = number_in(payload, "seq").ok_or("a record without a number")?;
                arrivals.push((number, number_in(payload, "t").ok_or("a record without a time")?, came));
                count.fetch_add(u64::from(number > 0 || count.load(Ordering::Relaxed) == 0), Ordering::Relaxed);
            }
            Ok(arrivals)
        });
        Self { arrived, is_over, thread: Some(thread) }
    }

    /// Ends when so many rows have arrived, apart from those that began it.
    async fn all(mut self, rows: u64) -> Fallible<Vec<Arrival>> {
        let all = async {
            while self.arrived.load(Ordering::Relaxed) <= rows {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(ON_ITS_WAY, all).await;
        self.is_over.store(true, Ordering::Relaxed);
        let arrivals = self.thread.take().ok_or("it is over")?.join().map_err(|_| "the consumer panicked")??;
        match in_time {
            Ok(()) => Ok(arrivals),
            Err(_) => Err(format!("{} of {rows} rows arrived", self.arrived.load(Ordering::Relaxed)).into()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn micros() -> u64 {
    chrono::Utc::now().timestamp_micros().unsigned_abs()
}
