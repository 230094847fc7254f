//! How long to wait between reads: not at all while there is more, shortly while records flow fast, and otherwise until a
//! commit wakes the reader.
//!
//! Commits that come one at a time should each be read at once, and cost writers next to nothing to tell; where thousands
//! come in a second telling is expensive (see the wake sources), and each read finds something anyway. So the wake-up is
//! armed as soon as two reads in a row find nothing, and stays armed until commits come in a rush.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::aligned_tick::aligned_tick;
use crate::contract::{Arming, StoreError, WakeSource};
use crate::observe::chain;
use crate::observe::outage::Outage;
use crate::outbox::Batch;
use crate::relay::settings::Settings;

/// So many commits within so long are a rush.
const RUSH: (u32, Duration) = (100, Duration::from_millis(250));

/// After a rush, or a wake-up that failed, the table is polled for so long before another one is armed. That bounds how
/// often it is armed in vain, and how many writers pay for it.
const POLLING_AFTER_RUSH: Duration = Duration::from_secs(1);

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing is new.
    Nothing,
    /// All that was new.
    All,
    /// A part of it: there is more to read at once.
    Part,
}

impl Found {
    pub(crate) fn of(batch: &Batch) -> Self {
        match batch.is_empty() {
            _ if batch.more => Found::Part,
            true => Found::Nothing,
            false => Found::All,
        }
    }
}

/// The timer behind the doorbell. The table is the truth: it goes on polling, slowly, even while armed.
pub(crate) struct Pacer {
    wake: Option<Box<dyn WakeSource>>,
    /// The commits that woke the reader lately, while the wake-up is armed.
    armed: Option<Commits>,
    /// It is not armed before.
    polls_until: Instant,
    next: Duration,
    busy: Duration,
    idle: Duration,
    slow: Duration,
    outage: Outage,
}

/// Commits, counted from some moment on.
struct Commits {
    since: Instant,
    count: u32,
}

impl Commits {
    fn none() -> Self {
        Self { since: Instant::now(), count: 0 }
    }

    fn add(&mut self, count: u32) {
        if self.since.elapsed() > RUSH.1 {
            *self = Self::none();
        }
        self.count = self.count.saturating_add(count);
    }

    fn are_a_rush(&self) -> bool {
        self.count >= RUSH.0
    }
}

impl Pacer {
    pub(crate) fn new(wake: Option<Box<dyn WakeSource>>, settings: &Settings) -> Self {
        Self {
            wake,
            armed: None,
            polls_until: Instant::now(),
            next: settings.poll_busy,
            busy: settings.poll_busy,
            idle: settings.poll_idle,
            slow: settings.poll_armed,
            outage: Outage::default(),
        }
    }

    /// Waits as long as it pays after a read. May be cancelled.
    pub(crate) async fn pause(&mut self, found: Found) {
        if let Err(error) = self.try_pause(found).await {
            self.armed = None;
            self.polls_until = Instant::now() + POLLING_AFTER_RUSH;
            if self.outage.begins() {
                tracing::warn!(error = %chain(&error), "wake-ups are not available; polling instead");
            }
            self.rest(found).await;
        }
    }

    async fn try_pause(&mut self, found: Found) -> Result<(), StoreError> {
        if found != Found::Nothing {
            self.next = self.busy;
        }
        // A first read that finds nothing can have come too early.
        let is_quiet = found == Found::Nothing && self.next > self.busy && Instant::now() >= self.polls_until;
        if let Some(wake) = &mut self.wake {
            if let Some(commits) = &mut self.armed {
                if found != Found::Part && !commits.are_a_rush() {
                    tokio::select! {
                        woken = wake.wait() => commits.add(woken?),
                        () = aligned_tick(self.slow) => {}
                    }
                    return Ok(());
                }
                self.armed = None;
                self.polls_until = Instant::now() + POLLING_AFTER_RUSH;
                wake.disarm().await?;
            } else if is_quiet && wake.arm().await? == Arming::Armed {
                // The caller reads once more before it waits.
                self.armed = Some(Commits::none());
                self.outage.ends();
                return Ok(());
            }
        }
        self.rest(found).await;
        Ok(())
    }

    async fn rest(&mut self, found: Found) {
        match found {
            Found::Part => {}
            Found::All => sleep(self.busy).await,
            Found::Nothing => {
                sleep(self.next).await;
                self.next = (self.next * 2).min(self.idle);
            }
        }
    }
}

#[cfg(test)]
mod tests;
