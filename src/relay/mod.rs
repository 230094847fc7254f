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
mod fetcher;
mod lanes;
#[cfg(feature = "microbench")]
#[doc(hidden)]
pub mod microbench;
mod pacer;
mod probation;
mod publisher;
mod recorder;
mod rejections;
mod session;
mod settler;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::beat::beat;
use crate::contract::{LeaseStore, Rejection, Sink, SinkError, Store, StoreError};
use crate::coordination::{Keeper, Leadership, RENEWALS};
use crate::observe::{chain, metrics};
use crate::outbox::{DeadLetterTopic, Delivery, Limit, RejectPolicy, Term};
use crate::relay::dead_letters::Courier;
use crate::relay::probation::Probation;
use crate::relay::session::{Session, Verdict};
use crate::relay::settler::count_held;

pub use status::{Phase, Status};

/// A session that lasted this long was a success: the next failure is waited for from the beginning again.
const LASTING: Duration = Duration::from_secs(10);

/// How a relay works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What this relay is called in the lease, for people who look.
    pub holder: String,
    /// How long a lease lasts without renewal; a standby takes over no later.
    pub lease_ttl: Duration,
    /// How much is read at once.
    pub batch: Limit,
    /// How much may be read and not settled: what bounds the memory.
    pub in_flight: Limit,
    /// Bytes of key, payload and headers that a row may have to be loaded; a larger one is rejected unseen.
    pub record_bytes: usize,
    /// How strong the delivery is. The sink must be set up for the same.
    pub delivery: Delivery,
    /// How much that was read already goes into one submission of a sink that works in transactions.
    pub transaction: Limit,
    /// How long a stop waits for what is in flight before it is cut off.
    pub drain_deadline: Duration,
    /// How often the checkpoint is stored while records flow.
    pub checkpoint_interval: Duration,
    /// The pause between reads while records flow.
    pub poll_busy: Duration,
    /// The longest pause between reads while nothing wakes the reader: without a wake source, after commits came in a rush,
    /// and where a writer that would not wake it is still at work.
    pub poll_idle: Duration,
    /// The longest pause between reads while a wake-up is armed.
    pub poll_armed: Duration,
    /// How often the sink is asked whether it accepts a held topic by now, and the store whether somebody asks for a
    /// release.
    pub release_interval: Duration,
    /// What becomes of records that can never be published.
    pub on_reject: RejectPolicy,
    /// Where dead letters are published, besides being kept, given [`Relay::with_dead_letters`].
    pub dead_letter_topic: Option<DeadLetterTopic>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            holder: format!("relay-{}", Uuid::new_v4()),
            lease_ttl: Duration::from_secs(3),
            batch: Limit { records: 10_000, bytes: 8 << 20 },
            in_flight: Limit { records: 40_000, bytes: 48 << 20 },
            record_bytes: 32 << 20,
            delivery: Delivery::default(),
            transaction: Limit { records: 10_000, bytes: 16 << 20 },
            drain_deadline: Duration::from_secs(20),
            checkpoint_interval: Duration::from_secs(1),
            poll_busy: Duration::from_micros(200),
            poll_idle: Duration::from_millis(50),
            poll_armed: Duration::from_secs(1),
            release_interval: Duration::from_secs(1),
            on_reject: RejectPolicy::default(),
            dead_letter_topic: None,
        }
    }
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was in flight was settled.
    Graceful,
    /// The deadline passed first: some records may be published and not settled, and will come again.
    CutOff,
}

/// Why a relay cannot go on by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the database holds is not for this process.
    #[error("the relay stops: the outbox cannot be used")]
    Store(#[source] StoreError),
    /// The broker's client is not what is needed.
    #[error("the relay stops: the broker cannot be used")]
    Sink(#[source] SinkError),
    /// A record can never be published.
    #[error(
        "the relay stops: record {id} (event {}) of topic {topic} can never be published; make its topic accept it, or correct or delete the row, and start again",
        .event_id.map_or_else(|| "unknown".to_owned(), |event_id| event_id.to_string())
    )]
    Rejected {
        /// The row's id.
        id: i64,
        /// The event's identity, if the row has one that can be read.
        event_id: Option<Uuid>,
        /// The topic.
        topic: Arc<str>,
        /// Why.
        #[source]
        rejection: Box<Rejection>,
    },
    /// A part of the relay broke.
    #[error("the relay stops: its {0} panicked")]
    Panicked(&'static str),
}

/// Publishes one outbox. See the [module](self) for what it guarantees.
pub struct Relay {
    store: Arc<dyn Store>,
    sink: Box<dyn Sink>,
    settings: Settings,
    status: watch::Sender<Status>,
    probation: Probation,
    /// Signalled when there are dead letters to publish.
    buried: Arc<Notify>,
    courier: Option<Courier>,
}

impl Relay {
    /// A relay from this store to this sink. Nothing happens before [`run`](Self::run).
    pub fn new(store: Arc<dyn Store>, sink: Box<dyn Sink>, settings: Settings) -> Self {
        let (status, _) = watch::channel(Status::new());
        let probation = Probation::begin(status.clone());
        Self { store, sink, settings, status, probation, buried: Arc::default(), courier: None }
    }

    /// Publishes dead letters through this sink, to [`Settings::dead_letter_topic`]. It is another sink than that of
    /// the records, so that neither gets into the other's way, and delivers at least once.
    #[must_use]
    pub fn with_dead_letters(mut self, sink: Box<dyn Sink>) -> Self {
        let (store, buried) = (Arc::clone(&self.store), Arc::clone(&self.buried));
        self.courier = Some(Courier::new(store, sink, buried, self.settings.record_bytes));
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
        let ended = self.relay(&stop).await;
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
            let mut courier = self.courier.take();
            let carried = carry(courier.as_mut(), leadership.term());
            let verdict = tokio::select! {
                verdict = self.lead(&leadership, stop) => verdict,
                () = shown => unreachable!("it never ends"),
                () = carried => unreachable!("it never ends"),
            };
            self.courier = courier;
            metrics::set_leader(None);
            self.forget_session();
            if self.settings.delivery.fences() {
                // A client that still asks to be let in would shut the next leader out.
                self.sink.abort();
            }
            leadership.resign().await;
            match verdict {
                Verdict::Stopped(ended) => return Ok(ended),
                Verdict::Failed(error) => return Err(error),
                Verdict::Again(_) | Verdict::Refused(_) | Verdict::Afresh | Verdict::LeaseLost => {}
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
    async fn lead(&mut self, leadership: &Leadership, stop: &CancellationToken) -> Verdict {
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
                probation: &self.probation,
                leadership,
                stop,
                buried: &self.buried,
            };
            let pause = match session.run(&mut failing).await {
                Verdict::Again(reason) => {
                    if began.elapsed() > LASTING {
                        backoff.reset();
                    }
                    if failing.as_ref() != Some(&reason) {
                        tracing::warn!(error = %reason, "reading on from the checkpoint after a failure");
                        failing = Some(reason);
                    }
                    if self.sink.has_learnt() {
                        continue;
                    }
                    backoff.next_wait()
                }
                Verdict::Refused(error) => self.probation.refused(&error),
                Verdict::Afresh => continue,
                verdict => return verdict,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return Verdict::Stopped(Ended::Graceful),
                () = leadership.fading().cancelled() => return Verdict::LeaseLost,
                () = leadership.lost().cancelled() => return Verdict::LeaseLost,
            }
        }
    }
}

/// Publishes dead letters, if they are to be; never returns.
async fn carry(courier: Option<&mut Courier>, term: Term) {
    if let Some(courier) = courier {
        courier.run(term).await;
    }
    std::future::pending().await
}

/// Keeps showing how long the lease can be trusted; never returns.
async fn show_lease(leadership: &Leadership, status: watch::Sender<Status>, every: Duration) {
    loop {
        let until = leadership.trusted_until();
        metrics::set_lease_remaining(until.saturating_duration_since(Instant::now()));
        status.send_modify(|status| status.trusted_until = Some(until));
        beat(every).await;
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

/// Sorts a store's error into how a session ends. Besides [`StoreError::Incompatible`] what ends the relay is a sink that
/// can never work, a record that it is to halt for, and a part of it that panics: see [`Error`].
fn store_verdict(error: StoreError) -> Verdict {
    match error {
        StoreError::Unavailable { .. } | StoreError::Forgotten => Verdict::Again(chain(&error)),
        StoreError::TermOver { .. } => Verdict::LeaseLost,
        StoreError::Unusable { .. } => Verdict::Refused(error),
        StoreError::Incompatible { .. } => Verdict::Failed(Error::Store(error)),
    }
}

/// Sorts a sink's error into how a session ends.
fn sink_verdict(error: SinkError) -> Verdict {
    match error {
        SinkError::Unavailable { .. } => Verdict::Again(chain(&error)),
        SinkError::TermOver => Verdict::LeaseLost,
        SinkError::Unusable { .. } => Verdict::Failed(Error::Sink(error)),
    }
}
