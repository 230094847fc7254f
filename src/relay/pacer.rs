//! How long to wait between reads: short while records flow, longer while none come, long while a wake-up
//! is armed.

use std::time::Duration;

use tokio::time::sleep;

use crate::beat::beat;
use crate::contract::{StoreError, WakeSource};
use crate::observe::chain;
use crate::relay::Settings;

/// The timer behind the doorbell. The table is the truth: it goes on polling, slowly, even while armed.
pub(crate) struct Pacer {
    wake: Option<Box<dyn WakeSource>>,
    armed: bool,
    next: Duration,
    busy: Duration,
    idle: Duration,
    slow: Duration,
    failing: bool,
}

impl Pacer {
    pub(crate) fn new(wake: Option<Box<dyn WakeSource>>, settings: &Settings) -> Self {
        Self {
            wake,
            armed: false,
            next: settings.poll_busy,
            busy: settings.poll_busy,
            idle: settings.poll_idle,
            slow: settings.poll_armed,
            failing: false,
        }
    }

    /// Waits as long as it pays after a read that found something, or did not.
    pub(crate) async fn pause(&mut self, found: bool) {
        if let Err(error) = self.try_pause(found).await {
            self.armed = false;
            if !std::mem::replace(&mut self.failing, true) {
                tracing::warn!(error = %chain(&error), "wake-ups are not available; polling instead");
            }
            sleep(self.idle).await;
        }
    }

    async fn try_pause(&mut self, found: bool) -> Result<(), StoreError> {
        if found {
            self.next = self.busy;
            if std::mem::take(&mut self.armed)
                && let Some(wake) = &mut self.wake
            {
                wake.disarm().await?;
            }
            sleep(self.busy).await;
            return Ok(());
        }
        if let Some(wake) = &mut self.wake {
            if self.armed {
                tokio::select! {
                    woken = wake.wait() => woken?,
                    () = beat(self.slow) => {}
                }
                return Ok(());
            }
            if self.next >= self.idle && wake.arm().await? {
                // The caller reads once more before it waits.
                self.armed = true;
                self.failing = false;
                return Ok(());
            }
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(self.idle);
        Ok(())
    }
}
