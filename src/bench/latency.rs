//! A steady rate: how long from the beginning of a transaction until a consumer has its record, by this host's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::bench::load::{Event, Load};
use crate::bench::scratch_outbox::ScratchOutbox;
use crate::bench::settings::Settings;
use crate::contract::Writer;
use crate::kafka::{Consumer, IsolationLevel};

/// Rows a second that one connection writes at most.
const ROWS_OF_A_WRITER: u64 = 500;

/// Connections at most.
const WRITERS: u64 = 32;

/// How long one look for a record may take.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// How long what was written last may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(20);

/// What came of a steady rate. Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Rows that were written a second.
    pub written: f64,
    /// Rows that were written and had not arrived when the writers stopped.
    pub behind: u64,
    /// Half of the rows took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Measures it while a relay is at work that has nothing else to do.
pub(crate) async fn measure(place: &ScratchOutbox, load: &Load, settings: &Settings) -> anyhow::Result<Latency> {
    // Numbers go on after those of the backlog, by which the consumer tells them apart.
    let first = settings.rows;
    let arrivals = Arrivals::begin(place, first).await?;
    let next = Arc::new(AtomicU64::new(first));
    let pace = Pace { first, rate: settings.rate, began: Instant::now(), lasting: settings.lasting };
    let mut writers = JoinSet::new();
    let load = Arc::new(load.clone());
    for _ in 0..settings.rate.div_ceil(ROWS_OF_A_WRITER).clamp(1, WRITERS) {
        let writer = place.scratch().writer().await?;
        writers.spawn(write(writer, Arc::clone(&load), Arc::clone(&next), pace));
    }
    while let Some(written) = writers.join_next().await {
        written.context("a writer panicked")??;
    }
    let seconds = pace.began.elapsed().as_secs_f64();
    let written = next.load(Ordering::Relaxed) - first;
    let behind = written.saturating_sub(arrivals.count());
    let mut latencies = arrivals.all(written).await?;
    latencies.sort_by(f64::total_cmp);
    let quantile = |q: f64| latencies.get(((latencies.len() - 1) as f64 * q) as usize).copied().unwrap_or_default();
    let (p50, p95, p99, max) = (quantile(0.5), quantile(0.95), quantile(0.99), quantile(1.0));
    Ok(Latency { written: written as f64 / seconds, behind, p50, p95, p99, max })
}

/// When which row is due.
#[derive(Clone, Copy)]
struct Pace {
    first: u64,
    rate: u64,
    began: Instant,
    lasting: Duration,
}

/// Writes rows at their times, or as soon after as it can.
async fn write(mut writer: Box<dyn Writer>, load: Arc<Load>, next: Arc<AtomicU64>, pace: Pace) -> anyhow::Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let due = Duration::from_nanos((number - pace.first) * 1_000_000_000 / pace.rate);
        if due >= pace.lasting || pace.began.elapsed() >= pace.lasting {
            next.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        sleep_until(pace.began + due).await;
        writer.write(&[load.message(number)?]).await.map_err(anyhow::Error::from_boxed)?;
    }
}

/// Who consumes.
struct Arrivals {
    count: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<Vec<f64>>>,
}

impl Arrivals {
    /// Begins to consume, and returns once everything that was published before is read.
    async fn begin(place: &ScratchOutbox, first: u64) -> anyhow::Result<Self> {
        let (properties, topic) = (place.config().kafka.properties.clone(), place.topic().to_owned());
        let opening = move || {
            let mut consumer = Consumer::open(&properties, &topic, IsolationLevel::ReadCommitted)?;
            while !consumer.is_at_end() {
                consumer.next(POLL_TIMEOUT)?;
            }
            Ok::<_, crate::kafka::ConsumerError>(consumer)
        };
        let consumer = tokio::task::spawn_blocking(opening).await.context("opening a consumer panicked")?;
        let (count, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, over, consumer) = (Arc::clone(&count), Arc::clone(&is_over), consumer?);
        let task = tokio::task::spawn_blocking(move || consume(consumer, first, &counted, &over));
        Ok(Self { count, is_over, task })
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for so many, and returns how long each took.
    async fn all(mut self, rows: u64) -> anyhow::Result<Vec<f64>> {
        let arrived = timeout(ON_ITS_WAY, async {
            while self.count() < rows {
                sleep(Duration::from_millis(10)).await;
            }
        });
        let in_time = arrived.await;
        self.is_over.store(true, Ordering::Relaxed);
        let latencies = (&mut self.task).await.context("the consumer panicked")??;
        in_time.with_context(|| format!("{} of {rows} rows arrived", latencies.len()))?;
        Ok(latencies)
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn consume(mut consumer: Consumer, first: u64, count: &AtomicU64, is_over: &AtomicBool) -> anyhow::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let Some(record) = consumer.next(POLL_TIMEOUT)? else { continue };
        let now = Utc::now().timestamp_micros();
        let event: Event = serde_json::from_slice(record.payload.as_deref().unwrap_or_default())?;
        if event.number >= first {
            latencies.push((now - event.at) as f64 / 1_000.0);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(latencies)
}
