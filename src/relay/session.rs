//! One session: one reader, the opened sink, and the three stages between them.
//!
//! ```text
//!             batches              submissions
//!   fetcher ───────────▶ publisher ───────────▶ settler
//!      ▲                                           │
//!      └────── credit · progress · held lanes ─────┘
//! ```
//!
//! Order of ending: the fetcher stops at once; the publisher finishes the batch at hand; the settler runs
//! until everything submitted is settled; the checkpoint is stored last, through the reader's session.
//! A lease that can no longer be prolonged ends the session the same way. Losing the lease, or the deadline of a
//! stop, makes the sink forget what is not delivered yet.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::contract::{Reader, Sink, Store};
use crate::coordination::Leadership;
use crate::observe::metrics;
use crate::outbox::{Delivery, Progress, Term};
use crate::relay::error::{Ended, Error};
use crate::relay::fetcher::Fetcher;
use crate::relay::flow::{Credit, Ending, Fetched, Frontier, LastCheckpoint, SessionEnd, Submitted};
use crate::relay::lanes::HeldLaneStates;
use crate::relay::orders::OrderBook;
use crate::relay::pacer::Pacer;
use crate::relay::probation::Probation;
use crate::relay::progress::ProgressTracker;
use crate::relay::publisher::Publisher;
use crate::relay::recorder::Recorder;
use crate::relay::rejections::Rejections;
use crate::relay::settings::Settings;
use crate::relay::settler::{Settler, SettlingMode};
use crate::relay::status::{Phase, Status, count_held};

/// Batches read ahead of the publisher; their records are bounded by the credit.
const READ_AHEAD: usize = 4;

/// Submissions that may wait for the settler; their records are bounded by the credit.
const SUBMISSIONS_AHEAD: usize = 256;

/// How long the last words to the database may take once a stop's deadline has passed.
const LAST_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a session works with.
pub(crate) struct Session<'a> {
    pub(crate) store: &'a Arc<dyn Store>,
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) settings: &'a Settings,
    pub(crate) status: &'a watch::Sender<Status>,
    pub(crate) orders: &'a OrderBook,
    pub(crate) probation: &'a Probation,
    pub(crate) leadership: &'a Leadership,
    pub(crate) stop: &'a CancellationToken,
    /// Signalled when there are dead letters to publish.
    pub(crate) dead_lettered: &'a Arc<Notify>,
}

impl Session<'_> {
    /// Runs until something ends it. `failing` says why the last session failed, if it did; it is cleared once this one
    /// stands.
    pub(crate) async fn run(&mut self, failing: &mut Option<String>) -> SessionEnd {
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(SessionEnd::Stopped(Ended::Graceful)),
            () = self.leadership.fading().cancelled() => Err(SessionEnd::LeaseLost),
            () = self.leadership.lost().cancelled() => Err(SessionEnd::LeaseLost),
            () = self.orders.ends_term(self.leadership.term()) => Err(SessionEnd::SteppedDown),
            opened = self.open() => opened,
        };
        let reader = match opened {
            Ok(reader) => reader,
            Err(session_end) => return session_end,
        };
        self.status.send_modify(|status| {
            status.connected = true;
            status.in_flight = 0;
        });
        if failing.take().is_some() {
            tracing::info!(term = %self.leadership.term(), "reading on from the checkpoint");
        }
        let session_end = self.relay(reader).await;
        let is_cut_off = matches!(session_end, SessionEnd::Again(_) | SessionEnd::LeaseLost);
        self.status.send_modify(|status| status.connected = !is_cut_off);
        session_end
    }

    async fn open(&mut self) -> Result<Box<dyn Reader>, SessionEnd> {
        let (term, mandate) = (self.leadership.term(), self.leadership.mandate());
        // Before anything is published: what was asked of the leader before is asked of this one.
        self.orders.hear(self.store.orders().await?);
        if let Some(session_end) = self.orders.session_end(term) {
            return Err(session_end);
        }
        if let Some(progress) = self.sink.open(term, Some(mandate)).await? {
            recover_progress(self.store.as_ref(), term, &progress).await?;
            self.sink.progress_stored();
        }
        let mut reader = self.store.open().await?;
        reader.load_at_most(self.settings.record_bytes);
        Ok(reader)
    }

    async fn relay(&mut self, reader: Box<dyn Reader>) -> SessionEnd {
        let ending = Ending::default();
        let stop = (self.stop, self.settings.drain_deadline);
        let (leadership, orders) = (self.leadership, self.orders);
        let watchdog = watch_ending(stop, leadership, orders, self.status, &ending);
        let stages = Stages::start(self, reader, &ending);
        let Drained { reader, published, settled, fetched } = tokio::select! {
            drained = stages.drain() => drained,
            never = watchdog => match never {},
        };
        let all_settled = matches!(settled, Ok(()) | Err(SessionEnd::Afresh));
        let failed = [settled.err(), published.err(), fetched.err()].into_iter().flatten().reduce(SessionEnd::graver);
        if let Some(reader) = reader {
            self.store_last_checkpoint(reader).await;
        }
        match failed {
            Some(session_end @ SessionEnd::Failed(_)) => session_end,
            _ if self.stop.is_cancelled() && all_settled => SessionEnd::Stopped(Ended::Graceful),
            _ if self.stop.is_cancelled() => SessionEnd::Stopped(Ended::CutOff),
            Some(session_end) => session_end,
            None if leadership.fading().is_cancelled() || leadership.lost().is_cancelled() => SessionEnd::LeaseLost,
            // What was asked for may have been taken back meanwhile.
            None => orders.session_end(leadership.term()).unwrap_or(SessionEnd::Afresh),
        }
    }

    fn fetcher(
        &self,
        shared: &Shared,
        reader: Box<dyn Reader>,
        batches: mpsc::Sender<Fetched>,
        progress: watch::Receiver<Frontier>,
    ) -> Fetcher {
        Fetcher {
            reader,
            term: self.leadership.term(),
            batch: self.settings.batch,
            credit: Credit::new(self.settings.in_flight, self.settings.batch),
            probation: self.probation.clone(),
            pacer: Pacer::new(self.store.wake(), self.settings),
            checkpoint_interval: self.settings.checkpoint_interval,
            proves: self.is_exactly_once(),
            lanes: Arc::clone(&shared.lanes),
            released: Arc::clone(&shared.released),
            batches,
            progress,
            status: self.status.clone(),
            ending: shared.ending.clone(),
        }
    }

    fn publisher(
        &mut self,
        shared: &Shared,
        fetched: mpsc::Receiver<Fetched>,
        submissions: mpsc::Sender<Submitted>,
    ) -> Publisher<'_> {
        let rejections = self.rejections(shared);
        Publisher {
            sink: &mut *self.sink,
            leadership: self.leadership,
            lanes: Arc::clone(&shared.lanes),
            released: Arc::clone(&shared.released),
            fetched,
            submissions,
            rejections,
            release_interval: self.settings.release_interval,
            together: self.settings.delivery.fences().then_some(self.settings.transaction),
            tracker: ProgressTracker::of(self.settings.delivery),
            orders: self.orders.subscribe(),
            status: self.status.clone(),
            ending: shared.ending.clone(),
        }
    }

    fn settler(
        &self,
        shared: &Shared,
        submitted: mpsc::Receiver<Submitted>,
        progress: watch::Sender<Frontier>,
    ) -> Settler {
        let store = Arc::clone(self.store);
        let recorder = Recorder::new(store, self.probation.clone(), self.status.clone(), shared.ending.clone());
        Settler {
            recorder,
            lanes: Arc::clone(&shared.lanes),
            rejections: self.rejections(shared),
            mode: SettlingMode { exactly_once: self.is_exactly_once(), record_position: self.settings.record_position },
            submitted,
            progress,
            beyond: None,
            status: self.status.clone(),
            ending: shared.ending.clone(),
        }
    }

    fn rejections(&self, shared: &Shared) -> Rejections {
        Rejections {
            store: Arc::clone(self.store),
            policy: self.settings.on_reject.clone(),
            topic: self.settings.dead_letter_topic.clone(),
            lanes: Arc::clone(&shared.lanes),
            dead_lettered: Arc::clone(self.dead_lettered),
            probation: self.probation.clone(),
            ending: shared.ending.clone(),
        }
    }

    fn is_exactly_once(&self) -> bool {
        self.settings.delivery == Delivery::ExactlyOnce
    }

    /// Stores how far everything is settled, so that the next session need not read it again.
    async fn store_last_checkpoint(&mut self, mut last: LastCheckpoint) {
        if !self.leadership.is_trusted() {
            return;
        }
        match timeout(LAST_CHECKPOINT_TIMEOUT, last.reader.save(&last.checkpoint)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::observe::chain(&error), "the last checkpoint was not stored; settled records are skipped by the next session");
            }
            Err(_elapsed) => tracing::warn!("the last checkpoint was not stored in time"),
        }
    }
}

/// What all three stages share.
struct Shared {
    lanes: Arc<Mutex<HeldLaneStates>>,
    /// Signalled when a lane is to flow again.
    released: Arc<Notify>,
    ending: Ending,
}

/// The stages at work. The publisher has no task of its own, since the sink is lent to it. The other two end with this: a
/// relay that is dropped must not go on in the background.
struct Stages<'a> {
    fetcher: AbortOnDropHandle<(Option<LastCheckpoint>, Result<(), SessionEnd>)>,
    publisher: Publisher<'a>,
    settler: AbortOnDropHandle<Result<(), SessionEnd>>,
    ending: Ending,
}

/// What came of the stages.
struct Drained {
    /// The reader and the last checkpoint, if the reader is still good.
    reader: Option<LastCheckpoint>,
    fetched: Result<(), SessionEnd>,
    published: Result<(), SessionEnd>,
    settled: Result<(), SessionEnd>,
}

impl<'a> Stages<'a> {
    /// Starts them, to end as `ending` says.
    fn start(session: &'a mut Session<'_>, reader: Box<dyn Reader>, ending: &Ending) -> Self {
        count_held(reader.held());
        let shared = Shared {
            lanes: Arc::new(Mutex::new(HeldLaneStates::restore(reader.held()))),
            released: Arc::new(Notify::new()),
            ending: ending.clone(),
        };
        let (batches, fetched) = mpsc::channel(READ_AHEAD);
        let (submissions, submitted) = mpsc::channel(SUBMISSIONS_AHEAD);
        let (progress, reached) = watch::channel(Frontier::at(reader.position()));
        let fetcher = session.fetcher(&shared, reader, batches, reached);
        let settler = session.settler(&shared, submitted, progress);
        Self {
            fetcher: AbortOnDropHandle::new(tokio::spawn(fetcher.run())),
            publisher: session.publisher(&shared, fetched, submissions),
            settler: AbortOnDropHandle::new(tokio::spawn(settler.run())),
            ending: shared.ending,
        }
    }

    /// Publishes until the session ends, then waits until all that was submitted is settled.
    async fn drain(self) -> Drained {
        let Self { fetcher, publisher, mut settler, ending } = self;
        let (sink, published) = publisher.run().await;
        ending.soft.cancel();
        let settled = tokio::select! {
            biased;
            () = ending.abort.cancelled() => {
                sink.abort();
                settler.await
            }
            settled = &mut settler => settled,
        };
        let panicked = |stage| Err(SessionEnd::Failed(Error::Panicked(stage)));
        let (reader, fetched) = fetcher.await.unwrap_or_else(|_| (None, panicked("fetcher")));
        Drained { reader, fetched, published, settled: settled.unwrap_or_else(|_| panicked("settler")) }
    }
}

/// Lets the database know what the broker remembers: that decides what is published.
async fn recover_progress(store: &dyn Store, mine: Term, progress: &Progress) -> Result<(), SessionEnd> {
    let Progress { position, beyond, .. } = progress;
    Ok(store.recover(mine, position.as_ref(), beyond).await?)
}

/// Turns the outside world into endings.
async fn watch_ending(
    (stop, deadline): (&CancellationToken, Duration),
    leadership: &Leadership,
    orders: &OrderBook,
    status: &watch::Sender<Status>,
    ending: &Ending,
) -> Infallible {
    let lost = async {
        leadership.lost().cancelled().await;
        ending.soft.cancel();
        ending.abort.cancel();
        // What is left to do, such as settling what was delivered, another leader need not wait for.
        metrics::set_leader(None);
        status.send_modify(|status| {
            if status.phase == Phase::Leading {
                status.phase = Phase::Standby;
            }
            status.term = None;
            // The next bid tells.
            status.connected = false;
        });
    };
    let fading = async {
        leadership.fading().cancelled().await;
        ending.soft.cancel();
    };
    let stopped = async {
        stop.cancelled().await;
        status.send_modify(|status| status.phase = Phase::Draining);
        drain_within(deadline, ending).await;
    };
    let paused = async {
        orders.ends_session(leadership.term()).await;
        ending.soft.cancel();
    };
    let stepping_down = async {
        orders.ends_term(leadership.term()).await;
        drain_within(deadline, ending).await;
    };
    tokio::join!(lost, fading, stopped, paused, stepping_down);
    std::future::pending().await
}

/// Lets what is in flight end, for no longer than that.
async fn drain_within(deadline: Duration, ending: &Ending) {
    ending.soft.cancel();
    sleep(deadline).await;
    ending.abort.cancel();
    ending.give_up.cancel();
}
