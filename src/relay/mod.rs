//! The relay: fetch → publish → settle.
//!
//! # What it guarantees
//!
//! 1. A record is published if and only if the transaction that wrote it committed.
//! 2. At least once: no failure of relay, database or broker loses a record.
//! 3. Order per lane: the first occurrences of a lane's records are in the order the application wrote them,
//!    through retries, crashes and takeovers. Duplicates come as a rewind (…5 6 7 5 6 7 8…).
//! 4. A broker outage costs time and nothing else.
//!
//! # How
//!
//! While this relay leads ([`crate::coordination`]) it runs *sessions*: one reader, the opened sink, and three
//! stages with bounded channels between them. Whatever cannot be retried in place ends the session: what is
//! in flight is awaited and settled, and the next session reads on from the stored checkpoint, skipping what
//! is settled. There is no other way of recovery, so the one there is gets tested by every failure.

mod dead_letters;
mod error;
mod fetcher;
mod flow;
mod lanes;
#[cfg(feature = "microbench")]
#[doc(hidden)]
pub mod microbench;
mod orders;
mod pacer;
mod probation;
mod progress;
mod publisher;
mod recorder;
mod rejections;
mod replays;
mod session;
mod settings;
mod settler;
mod status;

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::aligned_tick::aligned_tick;
use crate::backoff::Backoff;
use crate::contract::{LeaseStore, Sink, Store};
use crate::coordination::{Keeper, Leadership, RENEWALS};
use crate::observe::metrics;
use crate::outbox::{Orders, Term};
use crate::relay::dead_letters::DeadLetterPublisher;
use crate::relay::flow::SessionEnd;
use crate::relay::orders::OrderBook;
use crate::relay::probation::Probation;
use crate::relay::replays::ReplayPublisher;
use crate::relay::session::Session;
use crate::relay::status::count_held;

pub use error::{Ended, Error};
pub use settings::Settings;
pub use status::{Phase, Status};

/// A session that lasted this long was a success: the next failure is waited for from the beginning again.
const LASTING_SESSION: Duration = Duration::from_secs(10);

/// How long a relay that was asked to step down bids for no lease: far longer than a standby takes to take over.
const STEPPED_DOWN_FOR: Duration = Duration::from_secs(5);

/// Publishes one outbox. See the [module](self) for what it guarantees.
pub struct Relay {
    store: Arc<dyn Store>,
    sink: Box<dyn Sink>,
    settings: Settings,
    status: watch::Sender<Status>,
    orders: OrderBook,
    probation: Probation,
    /// Signalled when there are dead letters to publish.
    dead_lettered: Arc<Notify>,
    dead_letter_publisher: Option<DeadLetterPublisher>,
    replay_publisher: Option<ReplayPublisher>,
}

impl Relay {
    /// A relay from this store to this sink. Nothing happens before [`run`](Self::run).
    pub fn new(store: Arc<dyn Store>, sink: Box<dyn Sink>, settings: Settings) -> Self {
        let (status, _) = watch::channel(Status::new());
        let (orders, probation) = (OrderBook::new(status.clone()), Probation::begin(status.clone()));
        let dead_lettered = Arc::default();
        let (dead_letter_publisher, replay_publisher) = (None, None);
        Self {
            store,
            sink,
            settings,
            status,
            orders,
            probation,
            dead_lettered,
            dead_letter_publisher,
            replay_publisher,
        }
    }

    /// Publishes dead letters through this sink, to [`Settings::dead_letter_topic`]. It is another sink than that of
    /// the records, so that neither gets into the other's way, and delivers at least once.
    #[must_use]
    pub fn with_dead_letters(mut self, sink: Box<dyn Sink>) -> Self {
        let (store, dead_lettered) = (Arc::clone(&self.store), Arc::clone(&self.dead_lettered));
        self.dead_letter_publisher =
            Some(DeadLetterPublisher::new(store, sink, dead_lettered, self.settings.record_bytes));
        self
    }

    /// Sends rows again through this sink, as operators ask. It is another sink than that of the records, and delivers at
    /// least once. Without it what they ask for waits for a relay that has one.
    #[must_use]
    pub fn with_replays(mut self, sink: Box<dyn Sink>) -> Self {
        let (store, Settings { record_bytes, batch, .. }) = (Arc::clone(&self.store), &self.settings);
        self.replay_publisher = Some(ReplayPublisher::new(store, sink, *record_bytes, batch.records));
        self
    }

    /// What the relay is doing, from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Relays until `stop` is cancelled: waits as standby, leads, recovers.
    ///
    /// # Errors
    /// When something is wrong that waiting does not mend. Nothing is lost by it.
    pub async fn run(mut self, stop: CancellationToken) -> Result<Ended, Error> {
        let (store, orders) = (Arc::clone(&self.store), self.orders.clone());
        let (holder, every) = (self.settings.holder.clone(), self.settings.release_interval);
        let ended = tokio::select! {
            ended = self.relay(&stop) => ended,
            never = orders.keep_asking(store.as_ref(), &holder, every) => match never {},
        };
        self.sink.close(Duration::ZERO).await;
        metrics::set_leader(None);
        self.status.send_modify(|status| {
            status.phase = Phase::Stopped;
            status.term = None;
        });
        ended
    }

    async fn relay(&mut self, stop: &CancellationToken) -> Result<Ended, Error> {
        let store = Arc::clone(&self.store);
        let leases: Arc<dyn LeaseStore> = store;
        let mut keeper = Keeper::new(leases, &self.settings.holder, self.settings.lease_ttl);
        if let Some(name) = self.sink.fence() {
            keeper = keeper.fencing(name);
        }
        loop {
            let status = &self.status;
            let connected = |connected| standby(status, connected);
            let leadership = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(Ended::Graceful),
                leadership = keeper.lead(connected) => leadership.map_err(Error::Store)?,
            };
            self.begin_term(&leadership, keeper.holder());
            let shown = show_lease(&leadership, self.status.clone(), self.settings.lease_ttl / RENEWALS);
            let (mut letters, mut replays) = (self.dead_letter_publisher.take(), self.replay_publisher.take());
            let (orders, term) = (self.orders.clone(), leadership.term());
            let carried = carry(letters.as_mut(), term, orders.subscribe());
            let replayed = replay(replays.as_mut(), term, &orders, self.status());
            let session_end = tokio::select! {
                session_end = self.lead(&leadership, stop) => session_end,
                never = shown => match never {},
                never = carried => match never {},
                never = replayed => match never {},
            };
            (self.dead_letter_publisher, self.replay_publisher) = (letters, replays);
            metrics::set_leader(None);
            self.forget_session();
            if self.settings.delivery.fences() {
                // A client that still asks to be let in would shut the next leader out.
                self.sink.abort();
            }
            leadership.resign().await;
            match session_end {
                SessionEnd::Stopped(ended) => return Ok(ended),
                SessionEnd::Failed(error) => return Err(error),
                SessionEnd::SteppedDown if stand_by(&self.status, stop).await => return Ok(Ended::Graceful),
                SessionEnd::Again(_)
                | SessionEnd::Refused(_)
                | SessionEnd::Paused
                | SessionEnd::SteppedDown
                | SessionEnd::Afresh
                | SessionEnd::LeaseLost => {}
            }
        }
    }

    fn begin_term(&self, leadership: &Leadership, holder: &str) {
        tracing::info!(term = %leadership.term(), holder, "leading");
        metrics::set_leader(Some(leadership.term().0));
        metrics::set_progress_now();
        self.status.send_modify(|status| {
            status.phase = Phase::Leading;
            status.term = Some(leadership.term());
            status.progressed();
        });
    }

    /// What a leader has in flight and holds is no longer this relay's to tell.
    fn forget_session(&self) {
        metrics::set_in_flight(0);
        count_held(&[]);
        self.status.send_modify(|status| {
            status.in_flight = 0;
            status.held = Vec::new();
        });
    }

    /// Runs sessions until the leadership or the relay ends.
    async fn lead(&mut self, leadership: &Leadership, stop: &CancellationToken) -> SessionEnd {
        let mut backoff = Backoff::default();
        let mut failing = None;
        loop {
            let began = Instant::now();
            metrics::count_session();
            let mut session = Session {
                store: &self.store,
                sink: self.sink.as_mut(),
                settings: &self.settings,
                status: &self.status,
                orders: &self.orders,
                probation: &self.probation,
                leadership,
                stop,
                dead_lettered: &self.dead_lettered,
            };
            let pause = match session.run(&mut failing).await {
                SessionEnd::Again(reason) => {
                    if began.elapsed() > LASTING_SESSION {
                        backoff.reset();
                    }
                    if failing.as_ref() != Some(&reason) {
                        tracing::warn!(error = %reason, "reading on from the checkpoint after a failure");
                        failing = Some(reason);
                    }
                    if self.sink.has_learnt() {
                        continue;
                    }
                    Some(backoff.next_wait())
                }
                SessionEnd::Refused(error) => Some(self.probation.refused(&error)),
                SessionEnd::Paused => None,
                SessionEnd::Afresh => continue,
                session_end => return session_end,
            };
            tokio::select! {
                () = self.orders.pass(pause) => {}
                () = stop.cancelled() => return SessionEnd::Stopped(Ended::Graceful),
                () = self.orders.ends_term(leadership.term()) => return SessionEnd::SteppedDown,
                () = leadership.fading().cancelled() => return SessionEnd::LeaseLost,
                () = leadership.lost().cancelled() => return SessionEnd::LeaseLost,
            }
        }
    }
}

/// Publishes dead letters, if they are to be.
async fn carry(
    dead_letter_publisher: Option<&mut DeadLetterPublisher>,
    term: Term,
    orders: watch::Receiver<Orders>,
) -> Infallible {
    match dead_letter_publisher {
        Some(dead_letter_publisher) => dead_letter_publisher.run(term, orders).await,
        None => pending().await,
    }
}

/// Sends rows again, if this relay can.
async fn replay(
    replay_publisher: Option<&mut ReplayPublisher>,
    term: Term,
    orders: &OrderBook,
    status: watch::Receiver<Status>,
) -> Infallible {
    match replay_publisher {
        Some(replay_publisher) => replay_publisher.run(term, orders, status).await,
        None => pending().await,
    }
}

/// Keeps showing how long the lease can be trusted.
async fn show_lease(leadership: &Leadership, status: watch::Sender<Status>, every: Duration) -> Infallible {
    let mut trust = leadership.trust();
    loop {
        let until = *trust.borrow_and_update();
        metrics::set_lease_remaining(until.saturating_duration_since(Instant::now()));
        status.send_modify(|status| status.trusted_until = Some(until));
        tokio::select! {
            // Told at once: a lease that looks as if it had run out is told of, too.
            Ok(()) = trust.changed() => {}
            () = aligned_tick(every) => {}
        }
    }
}

/// Leaves the lease to another relay for a while. Says whether this one is to stop.
async fn stand_by(status: &watch::Sender<Status>, stop: &CancellationToken) -> bool {
    tracing::info!(seconds = STEPPED_DOWN_FOR.as_secs(), "stepped down, as was asked for: another relay may lead");
    standby(status, true);
    tokio::select! {
        biased;
        () = stop.cancelled() => true,
        () = sleep(STEPPED_DOWN_FOR) => false,
    }
}

fn standby(status: &watch::Sender<Status>, connected: bool) {
    status.send_if_modified(|status| {
        let changed = status.phase != Phase::Standby || status.connected != connected;
        status.phase = Phase::Standby;
        status.term = None;
        status.trusted_until = None;
        status.connected = connected;
        changed
    });
}
