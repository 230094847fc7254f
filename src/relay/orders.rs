//! What operators ask of the relay: looked up again and again, by standbys too, and told to whom it concerns.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::aligned_tick::aligned_tick;
use crate::contract::Store;
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::outbox::{Orders, Pause, Term};
use crate::relay::flow::SessionEnd;
use crate::relay::status::{Phase, Status};

/// How often a standby says that it is one.
const ATTENDS_EVERY: Duration = Duration::from_secs(5);

/// What operators ask for, as far as this relay knows. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct OrderBook {
    latest: watch::Sender<Orders>,
    status: watch::Sender<Status>,
}

impl OrderBook {
    /// Nothing is asked for, as far as is known. What is paused is shown in `status`.
    pub(crate) fn new(status: watch::Sender<Status>) -> Self {
        Self { latest: watch::Sender::default(), status }
    }

    /// Looks again and again. What the database said last stands while it does not answer. While the relay, which is called
    /// `holder`, is standby, it says so there.
    pub(crate) async fn keep_asking(&self, store: &dyn Store, holder: &str, every: Duration) -> Infallible {
        let outage = Outage::default();
        let mut attended = None;
        loop {
            self.attend(store, holder, &mut attended).await;
            match store.orders().await {
                Ok(orders) => {
                    outage.ends();
                    self.hear(orders);
                }
                Err(error) => {
                    if outage.begins() {
                        tracing::debug!(error = %chain(&error), "it is not known for now what operators ask for");
                    }
                }
            }
            aligned_tick(every).await;
        }
    }

    /// Says now and then that the relay is standby, and once that it is no longer.
    async fn attend(&self, store: &dyn Store, holder: &str, attended: &mut Option<Instant>) {
        let is_standby = self.status.borrow().phase == Phase::Standby;
        let is_due = match attended {
            Some(at) if is_standby => at.elapsed() >= ATTENDS_EVERY,
            Some(_) => true,
            None => is_standby,
        };
        // For people who look: if it cannot be said, it is said the next time.
        if is_due && store.attend(holder, is_standby).await.is_ok() {
            *attended = is_standby.then(Instant::now);
        }
    }

    /// Takes in what is asked for now.
    pub(crate) fn hear(&self, orders: Orders) {
        let before = self.latest.borrow().pauses.clone();
        let is_news = |latest: &mut Orders| {
            let is_news = *latest != orders;
            latest.clone_from(&orders);
            is_news
        };
        if self.latest.send_if_modified(is_news) && before != orders.pauses {
            say(&before, &orders.pauses);
            let topics = orders.pauses.iter().filter(|pause| !pause.topics.is_any()).count();
            metrics::set_paused(orders.pause_all(), topics);
            self.status.send_modify(|status| status.pauses = orders.pauses);
        }
    }

    /// What is asked for, from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Orders> {
        self.latest.subscribe()
    }

    /// How a session of the leader of this term is to end, if it is to.
    pub(crate) fn session_end(&self, term: Term) -> Option<SessionEnd> {
        let orders = self.latest.borrow();
        if orders.step_down == Some(term) {
            return Some(SessionEnd::SteppedDown);
        }
        orders.pause_all().then_some(SessionEnd::Paused)
    }

    /// Waits until a session of the leader of this term is to end. May be cancelled.
    pub(crate) async fn ends_session(&self, term: Term) {
        self.until(|orders| orders.pause_all() || orders.step_down == Some(term)).await;
    }

    /// Waits until the leader of this term is to step down. May be cancelled.
    pub(crate) async fn ends_term(&self, term: Term) {
        self.until(|orders| orders.step_down == Some(term)).await;
    }

    /// Waits before another session: for so long, or until something flows. May be cancelled.
    pub(crate) async fn pass(&self, pause: Option<Duration>) {
        match pause {
            Some(pause) => sleep(pause).await,
            None => {
                self.until(|orders| !orders.pause_all()).await;
                // It was not stuck.
                self.status.send_modify(Status::progressed);
            }
        }
    }

    /// Waits until a topic is not paused. May be cancelled.
    pub(crate) async fn flows(&self, topic: &str) {
        self.until(|orders| !orders.pauses_topic(topic)).await;
    }

    /// Waits until there is an operation to carry out. May be cancelled.
    pub(crate) async fn operation_waits(&self) {
        self.until(|orders| orders.operation.is_some()).await;
    }

    async fn until(&self, condition: impl FnMut(&Orders) -> bool) {
        // Fails only without a sender, and the sender is part of `self`.
        if self.subscribe().wait_for(condition).await.is_err() {
            pending::<()>().await;
        }
    }
}

/// Says which pauses began, and which are over.
fn say(before: &[Pause], now: &[Pause]) {
    for pause in now.iter().filter(|pause| !before.contains(pause)) {
        tracing::info!("{pause}; `outboxd resume` ends it");
    }
    let lasts = |pause: &&Pause| now.iter().any(|other| other.topics == pause.topics);
    for Pause { topics, .. } in before.iter().filter(|pause| !lasts(pause)) {
        tracing::info!(%topics, "no longer paused");
    }
}
