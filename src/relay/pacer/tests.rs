//! The pacer between a table and its writers, in a time that no test waits for.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::*;

/// The finest time that the clock of tests tells apart.
const TICK: Duration = Duration::from_millis(1);

const SECOND: Duration = Duration::from_secs(1);

/// A table, and the bell that its writers ring while the wake-up is armed.
#[derive(Default)]
struct Table {
    state: Mutex<State>,
    rung: Notify,
}

#[derive(Default)]
struct State {
    /// When the rows were committed that the reader has not read.
    unread: Vec<Instant>,
    reads: u32,
    /// Commits that rang, and that the pacer has not heard.
    rings: u32,
    is_armed: bool,
    /// Whether a writer that would not ring is at work.
    is_refused: bool,
    is_broken: bool,
    asked: u32,
    armed: u32,
    disarmed: u32,
    /// Commits that paid for ringing.
    rang: u32,
}

impl Table {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn pacer(self: &Arc<Self>) -> Pacer {
        Pacer::new(Some(Box::new(Bell(Arc::clone(self)))), &Settings::default())
    }

    /// How often it was disarmed, and whether it is armed again.
    fn disarmed(&self) -> (u32, bool) {
        let state = self.state();
        (state.disarmed, state.is_armed)
    }

    fn commit(&self) {
        let mut state = self.state();
        state.unread.push(Instant::now());
        if state.is_armed {
            state.rings += 1;
            state.rang += 1;
            self.rung.notify_one();
        }
    }

    /// Commits one row after the other.
    async fn write(&self, every: Duration, lasting: Duration) {
        let end = Instant::now() + lasting;
        while Instant::now() + every < end {
            sleep(every).await;
            self.commit();
        }
    }

    /// Reads as the pacer says, and returns how old each row was when it was read.
    async fn read(&self, pacer: &mut Pacer, lasting: Duration) -> Vec<Duration> {
        let (mut ages, end) = (Vec::new(), Instant::now() + lasting);
        while Instant::now() < end {
            let rows = {
                let mut state = self.state();
                state.reads += 1;
                std::mem::take(&mut state.unread)
            };
            ages.extend(rows.iter().map(Instant::elapsed));
            pacer.pause(if rows.is_empty() { Found::Nothing } else { Found::All }).await;
        }
        ages
    }

    /// How old the oldest row was when it was read, of those committed at this pace.
    async fn oldest(&self, pacer: &mut Pacer, every: Duration, lasting: Duration) -> Duration {
        let (ages, ()) = tokio::join!(self.read(pacer, lasting), self.write(every, lasting));
        ages.into_iter().max().expect("some were read")
    }
}

struct Bell(Arc<Table>);

#[async_trait]
impl WakeSource for Bell {
    async fn arm(&mut self) -> Result<Arming, StoreError> {
        let mut state = self.0.state();
        state.asked += 1;
        if state.is_broken {
            return Err(broken());
        }
        if state.is_refused {
            return Ok(Arming::NotNow);
        }
        (state.is_armed, state.rings) = (true, 0);
        state.armed += 1;
        Ok(Arming::Armed)
    }

    async fn wait(&mut self) -> Result<u32, StoreError> {
        loop {
            let rings = {
                let mut state = self.0.state();
                if state.is_broken {
                    return Err(broken());
                }
                std::mem::take(&mut state.rings)
            };
            if rings > 0 {
                return Ok(rings);
            }
            self.0.rung.notified().await;
        }
    }

    async fn disarm(&mut self) -> Result<(), StoreError> {
        let mut state = self.0.state();
        state.is_armed = false;
        state.disarmed += 1;

        Ok(())
    }
}

fn broken() -> StoreError {
    StoreError::Unavailable { doing: "ringing", source: "the bell is broken".into() }
}

#[tokio::test(start_paused = true)]
async fn rows_that_trickle_are_read_when_they_are_committed_by_one_read_each() {
    for rate in [1, 10, 50, 200] {
        let table = Arc::new(Table::default());
        let mut pacer = table.pacer();
        assert!(table.oldest(&mut pacer, SECOND / rate, 10 * SECOND).await <= TICK, "{rate} a second");
        let state = table.state();
        assert_eq!((state.armed, state.disarmed), (1, 0), "{rate} a second");
        // Besides, one a second looks whether a wake-up was lost.
        assert!(state.reads <= 10 * rate + 15, "{} reads at {rate} a second", state.reads);
    }
}

#[tokio::test(start_paused = true)]
async fn of_commits_in_a_rush_a_hundred_a_second_ring_and_no_more() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    // Five thousand a second, with gaps in which reads find nothing.
    let rush = async {
        for millisecond in 0..10_000 {
            (0..7).filter(|_| millisecond % 14 < 10).for_each(|_| table.commit());
            sleep(TICK).await;
        }
    };
    let (ages, ()) = tokio::join!(table.read(&mut pacer, 10 * SECOND), rush);
    assert!(ages.len() > 49_000 && ages.iter().all(|age| *age <= 4 * TICK));
    let state = table.state();
    assert!(state.armed <= 10, "armed {} times in ten seconds", state.armed);
    assert!(state.rang <= 10 * (RUSH.0 + 7), "{} of {} rang", state.rang, ages.len());
}

#[tokio::test(start_paused = true)]
async fn after_a_rush_rows_that_trickle_are_read_at_once_again() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    table.read(&mut pacer, SECOND).await;
    table.oldest(&mut pacer, TICK, SECOND).await;
    assert_eq!(table.disarmed(), (1, false));
    assert!(table.oldest(&mut pacer, SECOND / 50, POLLING_AFTER_RUSH).await <= Settings::default().poll_idle);
    assert!(table.oldest(&mut pacer, SECOND / 50, SECOND).await <= TICK);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_asks_no_writer_to_ring_and_is_not_waited_for() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    table.read(&mut pacer, SECOND).await;
    assert!(table.state().is_armed);
    let began = Instant::now();
    for _ in 0..3 {
        pacer.pause(Found::Part).await;
    }
    assert_eq!((table.disarmed(), began.elapsed()), ((1, false), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn while_a_writer_at_work_would_not_ring_the_table_is_polled() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    table.state().is_refused = true;
    assert!(table.oldest(&mut pacer, SECOND / 10, 2 * SECOND).await <= Settings::default().poll_idle);
    table.state().is_refused = false;
    table.oldest(&mut pacer, SECOND / 10, SECOND).await;
    assert!(table.oldest(&mut pacer, SECOND / 10, SECOND).await <= TICK);
}

#[tokio::test(start_paused = true)]
async fn a_bell_that_breaks_is_tried_once_a_second_while_the_table_is_polled() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    table.read(&mut pacer, SECOND).await;
    table.state().is_broken = true;
    table.state().asked = 0;
    let slow = Settings::default().poll_armed;
    let ages = tokio::join!(table.read(&mut pacer, 10 * SECOND), table.write(SECOND / 10, 10 * SECOND)).0;
    let (first, rest) = ages.split_first().expect("some were read");
    assert!(*first <= slow && rest.iter().all(|age| *age <= Settings::default().poll_idle));
    assert!((9..=10).contains(&table.state().asked), "asked {} times", table.state().asked);
    table.state().is_broken = false;
    table.read(&mut pacer, 2 * POLLING_AFTER_RUSH).await;
    assert!(table.state().is_armed);
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_is_lost_costs_no_more_than_a_slow_poll() {
    let table = Arc::new(Table::default());
    let mut pacer = table.pacer();
    table.read(&mut pacer, SECOND).await;
    let lost = async { table.state().unread.push(Instant::now()) };
    let (ages, ()) = tokio::join!(table.read(&mut pacer, 3 * SECOND), lost);
    assert!(ages.len() == 1 && ages[0] <= Settings::default().poll_armed);
}
