//! The canary: a row of outboxd's own that goes the whole road, again and again: through the table, the relay and the topic to
//! a consumer of its own. It shows what no part sees of itself, that what is committed reaches whoever reads.
//!
//! Every process that has it sends rows of its own, whether its relay leads or not: that of a standby proves the leader's road.
//! It holds up nothing and ends nothing: what fails here is told ([`View`], metrics, the log), and tried again.
//!
//! A row is *lost* that was written and has not come back in time. Two things speak against that judgement. While the topic
//! cannot be read nobody knows, so nothing is judged until all that was missed is read. And what operators paused is meant to
//! wait: such rows are forgotten.

mod awaited;
mod view;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::canary::awaited::Awaited;
use crate::contract::{Enqueue, Heard, Tail, Writer};
use crate::observe::metrics;
use crate::observe::outage::Outage;
use crate::outbox::Message;
use crate::relay::Status;

pub use view::{Back, Unwritten, View};

/// The header that says which process a row is of.
pub const CANARY_HEADER: &str = "outbox-canary";

/// How many rows are waited for at most, those that are lost included.
pub const MOST_AWAITED: u32 = 1_000;

/// How long it may take to write a row.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// How often it is looked whether rows are lost: ten times while one may be on its way, within these bounds.
const JUDGING: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How the canary works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often it sends a row.
    pub every: Duration,
    /// To which topic.
    pub topic: String,
    /// From when on a row that has not come back is lost.
    pub lost_after: Duration,
    /// What this process is called: the key of its rows, and their header [`CANARY_HEADER`].
    pub sender: String,
}

/// A canary that is not let out yet.
pub struct Canary {
    outbox: Arc<dyn Enqueue>,
    tail: Box<dyn Tail>,
    settings: Settings,
}

/// What sending and hearing have in common.
struct Road {
    settings: Settings,
    status: watch::Receiver<Status>,
    awaited: Mutex<Awaited>,
    /// Whether the topic is read: what is sent would be heard.
    hears: watch::Sender<bool>,
    view: watch::Sender<View>,
}

impl Canary {
    /// Writes to this outbox, and hears what comes of it here.
    pub fn new(outbox: Arc<dyn Enqueue>, tail: Box<dyn Tail>, settings: Settings) -> Self {
        Self { outbox, tail, settings }
    }

    /// Sends rows until `stop` is cancelled, and shows how they fare. `status` tells what is paused.
    pub async fn run(self, status: watch::Receiver<Status>, view: watch::Sender<View>, stop: CancellationToken) {
        let Self { outbox, mut tail, settings } = self;
        let awaited = Mutex::new(Awaited::new(settings.lost_after, MOST_AWAITED as usize));
        let road = Road { settings, status, awaited, hears: watch::Sender::new(false), view };
        tokio::select! {
            () = stop.cancelled() => {}
            never = road.send(&*outbox) => match never {},
            never = road.hear(&mut *tail) => match never {},
        }
    }
}

impl Road {
    fn is_paused(&self) -> bool {
        self.status.borrow().pauses.iter().any(|pause| pause.topics.matches(&self.settings.topic))
    }

    async fn send(&self, outbox: &dyn Enqueue) -> Infallible {
        let (mut writer, outage, mut hears) = (None, Outage::default(), self.hears.subscribe());
        let mut tick = interval(self.settings.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // It does not end before this does.
            drop(hears.wait_for(|hears| *hears).await);
            tick.tick().await;
            if self.is_paused() || !*self.hears.borrow() {
                continue;
            }
            let sent = self.send_row(outbox, &mut writer).await;
            match &sent {
                Ok(()) => {
                    metrics::count_canary_sent();
                    if outage.ends() {
                        tracing::info!("the canary's rows are written again");
                    }
                }
                Err(Unwritten { problem, repair }) if outage.begins() => {
                    tracing::warn!(
                        problem,
                        repair,
                        "the canary's row is not written; tried again, and the relay goes on"
                    );
                }
                Err(_) => {}
            }
            self.view.send_modify(|view| view.unwritten = sent.err());
        }
    }

    /// Writes a row. After a failure the writer is another one.
    async fn send_row(&self, outbox: &dyn Enqueue, writer: &mut Option<Box<dyn Writer>>) -> Result<(), Unwritten> {
        let mut open = match writer.take() {
            Some(open) => open,
            None => outbox.writer().await?,
        };
        let Settings { topic, sender, .. } = &self.settings;
        let message = Message::to(topic).key(sender).header(CANARY_HEADER, sender).text("{}");
        let message = message.map_err(|error| Unwritten { problem: error.to_string(), repair: None })?;
        let event_id = message.event_id();
        self.awaited.lock().begins(event_id, Instant::now());
        let written = timeout(WRITE_PATIENCE, open.write(&[message])).await;
        let written =
            written.unwrap_or_else(|_| Err(format!("no answer within {} s", WRITE_PATIENCE.as_secs()).into()));
        match written {
            Ok(()) => {
                self.awaited.lock().written(event_id, Instant::now());
                *writer = Some(open);
                Ok(())
            }
            Err(error) => {
                self.awaited.lock().is_not_written(event_id);
                Err(error.into())
            }
        }
    }

    async fn hear(&self, tail: &mut dyn Tail) -> Infallible {
        let outage = Outage::default();
        let (shortest, longest) = JUDGING;
        let mut judging = interval((self.settings.lost_after / 10).clamp(shortest, longest));
        judging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What has come by now is not lost.
                biased;
                heard = tail.hear() => self.take(heard, &outage),
                _ = judging.tick() => self.judge(),
            }
        }
    }

    fn take(&self, heard: Heard, outage: &Outage) {
        match heard {
            Heard::Record { event_id, at } => {
                if let Some(took) = self.awaited.lock().came_back(event_id, at) {
                    metrics::record_canary_round_trip(took);
                    self.view.send_modify(|view| (view.back, view.lost) = (Some(Back { at, took }), 0));
                }
            }
            Heard::Reads => {
                if outage.ends() {
                    tracing::info!(topic = self.settings.topic, "the canary hears its topic again");
                }
                self.view.send_modify(|view| view.unread = None);
                self.hears.send_replace(true);
            }
            Heard::Deaf(why) => {
                if outage.begins() {
                    tracing::warn!(
                        topic = self.settings.topic,
                        error = why,
                        "the canary cannot read its topic; tried again, and the relay goes on"
                    );
                }
                self.hears.send_replace(false);
                self.view.send_modify(|view| view.unread = Some(why));
            }
        }
    }

    fn judge(&self) {
        let is_paused = self.is_paused();
        if self.view.borrow().is_paused != is_paused {
            self.view.send_modify(|view| view.is_paused = is_paused);
        }
        if is_paused {
            self.awaited.lock().forget_all();
        } else if *self.hears.borrow() {
            let lost = self.awaited.lock().newly_lost(Instant::now());
            if lost > 0 {
                metrics::count_canary_lost(lost);
                self.view.send_modify(|view| view.lost += lost);
            }
        }
    }
}

#[cfg(test)]
mod tests;
