//! Slow chores: measuring the backlog and the table, and removing old sent rows. They never hold up the relay.
//!
//! Every relay measures, so that a standby's dashboard is not blank; only the leader removes.

mod lag;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::contract::{Backlog, Footprint, Leader, Store, StoreError};
use crate::housekeeping::lag::LagWindow;
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::outbox::Term;
use crate::relay::Status;

/// The pause between two rounds of removing while there is more, so that the database's other work goes first.
const PURGE_PAUSE: Duration = Duration::from_millis(20);

/// How often old rows are looked for at most, however short the retention is.
const SHORTEST_PURGE_PAUSE: Duration = Duration::from_secs(1);

/// How many times longer than a measurement the pause after it is at least: counting a long backlog takes a tenth of a
/// second, which the relay can use better.
const MEASURE_PAUSE: u32 = 50;

/// How long that pause is at most.
const MEASURE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a measurement may be missing before an outbox that was empty counts as unseen: the longest pause, and a while.
const UNSEEN_BACKLOG_AGES_AFTER: Duration = Duration::from_secs(15);

/// How often it is looked how much room the outbox takes: it changes slowly.
const FOOTPRINT_INTERVAL: Duration = Duration::from_secs(60);

/// How many times longer than usual the pause is while nothing waits.
const IDLE_PAUSE: u32 = 10;

/// How the chores are done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long sent rows are kept.
    pub retention: Duration,
    /// How often old rows are looked for; where they are kept for less than that, as often as they grow old.
    pub purge_interval: Duration,
    /// How often the backlog is measured, as long as that is quick.
    pub measure_interval: Duration,
    /// How many unsent messages are counted at most.
    pub count_limit: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            purge_interval: Duration::from_secs(30),
            measure_interval: Duration::from_secs(1),
            count_limit: 100_000,
        }
    }
}

/// Does the chores until `stop` is cancelled. `measured` is told of every measurement.
pub async fn run(
    store: Arc<dyn Store>,
    status: watch::Receiver<Status>,
    settings: Settings,
    measured: watch::Sender<Backlog>,
    stop: CancellationToken,
) {
    let measuring = measure(store.as_ref(), status.clone(), &settings, measured);
    let purging = purge(store.as_ref(), status, &settings);
    let weighing = weigh(store.as_ref());
    tokio::select! {
        () = stop.cancelled() => {}
        never = measuring => match never {},
        never = purging => match never {},
        never = weighing => match never {},
    }
}

async fn measure(
    store: &dyn Store,
    status: watch::Receiver<Status>,
    settings: &Settings,
    measured: watch::Sender<Backlog>,
) -> Infallible {
    let outage = Outage::default();
    let mut shown = Shown { status, measured, window: LagWindow::default(), is_led: false };
    let mut last = Seen { backlog: Backlog::default(), at: Instant::now() };
    loop {
        let began = Instant::now();
        let mut pause = settings.measure_interval;
        let measurement = tokio::select! {
            measurement = look(store, settings.count_limit) => measurement,
            never = last.keep_ageing(&mut shown, settings.measure_interval) => match never {},
        };
        match measurement {
            Ok((backlog, leader)) => {
                outage.ends();
                shown.is_led = leader.is_some();
                if backlog.unsent == 0 {
                    pause *= IDLE_PAUSE;
                }
                pause = pause.max((began.elapsed() * MEASURE_PAUSE).min(MEASURE_PAUSE_MAX));
                backlog.sessions.into_iter().for_each(metrics::set_database_sessions);
                metrics::set_dead_letters(backlog.dead_letters);
                shown.show(&backlog);
                last = Seen { backlog, at: Instant::now() };
            }
            Err(error) => {
                say_once(&outage, &error, "the backlog cannot be measured for now");
                last.age(&mut shown);
            }
        }
        sleep(pause).await;
    }
}

/// Looks how much room the outbox takes.
async fn weigh(store: &dyn Store) -> Infallible {
    loop {
        match store.footprint().await {
            Ok(Footprint { bytes, dead_rows, vacuumed_at }) => metrics::set_footprint(bytes, dead_rows, vacuumed_at),
            // Measuring the backlog fails as well, and says so.
            Err(error) => tracing::debug!(error = %chain(&error), "the table cannot be measured for now"),
        }
        sleep(FOOTPRINT_INTERVAL).await;
    }
}

/// Measures the backlog and asks who leads, once what became due behind the reader was brought back before it.
async fn look(store: &dyn Store, count_limit: u64) -> Result<(Backlog, Option<Leader>), StoreError> {
    let late = store.bring_back_late().await?;
    if late > 0 {
        metrics::count_late(late);
        tracing::warn!(
            records = late,
            "records became due behind the reader and are read now: they were corrected, restored or moved back by hand"
        );
    }
    Ok((store.backlog(count_limit).await?, store.leader().await?))
}

/// Where the backlog is shown.
struct Shown {
    status: watch::Receiver<Status>,
    measured: watch::Sender<Backlog>,
    window: LagWindow,
    /// Whether any relay leads, by what the database said last.
    is_led: bool,
}

impl Shown {
    fn show(&mut self, backlog: &Backlog) {
        metrics::set_backlog(backlog.unsent, backlog.capped, backlog.oldest, backlog.oldest_snapshot);
        metrics::set_topic_backlogs(backlog.topics.iter().map(|topic| (&*topic.topic, topic.unsent, topic.oldest)));
        metrics::set_lag_state(self.window.judge(backlog, self.is_led, &self.status.borrow(), Instant::now()));
        self.measured.send_replace(backlog.clone());
    }
}

/// The latest measurement.
struct Seen {
    backlog: Backlog,
    at: Instant,
}

impl Seen {
    /// Shows the lag while the database does not answer.
    async fn keep_ageing(&self, shown: &mut Shown, every: Duration) -> Infallible {
        loop {
            sleep(every).await;
            self.age(shown);
        }
    }

    /// The relay does not know how much waits while the database does not answer. What waited grows older; where
    /// nothing did, something may wait since it was looked at last.
    fn age(&self, shown: &mut Shown) {
        let unseen = self.at.elapsed();
        if self.backlog.unsent > 0 || unseen > UNSEEN_BACKLOG_AGES_AFTER {
            let mut backlog = Backlog { oldest: self.backlog.oldest + unseen, ..self.backlog.clone() };
            backlog.topics.iter_mut().for_each(|topic| topic.oldest += unseen);
            shown.show(&backlog);
        }
    }
}

/// Removes old rows while this relay leads: as soon as it does, and then now and then.
async fn purge(store: &dyn Store, mut status: watch::Receiver<Status>, settings: &Settings) -> Infallible {
    let pause = settings.purge_interval.min(settings.retention.max(SHORTEST_PURGE_PAUSE));
    let outage = Outage::default();
    loop {
        let leads = status.wait_for(|status| status.term.is_some()).await.map(|status| status.term);
        let Ok(Some(term)) = leads else {
            // The relay has ended; the daemon ends the chores.
            return std::future::pending().await;
        };
        match purge_all(store, term, settings.retention).await {
            Ok(removed) => {
                outage.ends();
                if removed > 0 {
                    tracing::debug!(rows = removed, "removed settled rows after their retention");
                }
            }
            Err(StoreError::TermOver { .. }) => {}
            Err(error) => say_once(&outage, &error, "old rows cannot be removed for now"),
        }
        sleep(pause).await;
    }
}

async fn purge_all(store: &dyn Store, term: Term, retention: Duration) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let purged = store.purge(term, retention).await?;
        metrics::count_purged(purged.removed);
        removed += purged.removed;
        if !purged.more {
            return Ok(removed);
        }
        sleep(PURGE_PAUSE).await;
    }
}

fn say_once(outage: &Outage, error: &StoreError, what: &str) {
    if outage.begins() {
        tracing::warn!(error = %chain(error), "{what}");
    }
}
