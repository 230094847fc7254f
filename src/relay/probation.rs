//! Whether what is delivered can be recorded, as far as it was tried.
//!
//! What cannot be recorded comes again, and a process that ends over it and is started again repeats it each time. So
//! little is published before something was recorded, and what a database refuses is waited for: until an operator
//! grants a right, corrects a row or mends a table, the lease is kept and the cause is said.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::contract::StoreError;
use crate::observe::chain;
use crate::outbox::Limit;
use crate::relay::status::Status;

/// Records that are published at most before one of them was recorded: what a restart can repeat for nothing.
pub(crate) const PROBE_RECORDS: usize = 100;

/// The pause after the first refusal; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between attempts at what is refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often a cause that stays the same is said again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);

/// What is known of the database's consent. Clones share it; it outlives sessions and terms.
#[derive(Debug, Clone)]
pub(crate) struct Probation {
    shared: Arc<Mutex<Shared>>,
    status: watch::Sender<Status>,
}

#[derive(Debug)]
struct Shared {
    is_on: bool,
    refusal: Option<Refusal>,
    backoff: Backoff,
}

/// What the database refuses, and when that was said last.
#[derive(Debug)]
struct Refusal {
    cause: String,
    said: Instant,
}

impl Probation {
    /// A probation that begins. `status` is told what is refused.
    pub(crate) fn begin(status: watch::Sender<Status>) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { shared: Arc::new(Mutex::new(Shared { is_on: true, refusal: None, backoff })), status }
    }

    /// Whether nothing was recorded yet, or something was refused since.
    pub(crate) fn is_on(&self) -> bool {
        self.shared().is_on
    }

    /// How much of a batch may be read, and so be published, after so many records of which nothing is known yet.
    pub(crate) fn limit(&self, batch: Limit, untried: usize) -> Limit {
        let records = if self.is_on() { PROBE_RECORDS.saturating_sub(untried).max(1) } else { batch.records };
        Limit { records: batch.records.min(records), ..batch }
    }

    /// Something that was delivered is recorded.
    pub(crate) fn passed(&self) {
        self.shared().is_on = false;
        self.mended();
    }

    /// Nothing is refused any more.
    pub(crate) fn mended(&self) {
        let mut shared = self.shared();
        if shared.refusal.take().is_some() {
            shared.backoff.reset();
            tracing::info!("the database allows what it refused: going on");
            self.status.send_modify(|status| status.refusal = None);
        }
    }

    /// The database refuses something. Says so if it was not said, and returns how long to wait before trying again.
    pub(crate) fn refused(&self, error: &StoreError) -> Duration {
        let (cause, now) = (chain(error), Instant::now());
        let mut shared = self.shared();
        shared.is_on = true;
        let is_known = |refusal: &Refusal| refusal.cause == cause && now - refusal.said < REMINDER_INTERVAL;
        if !shared.refusal.as_ref().is_some_and(is_known) {
            tracing::error!(error = %cause, "the database refuses what the relay needs: it waits for an operator, and goes on by itself then");
            self.status.send_modify(|status| status.refusal = Some(cause.clone()));
            shared.refusal = Some(Refusal { cause, said: now });
        }
        shared.backoff.next_wait()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(problem: &str) -> StoreError {
        StoreError::Unusable { problem: problem.to_owned(), repair: "grant it".to_owned(), source: None }
    }

    #[tokio::test(start_paused = true)]
    async fn little_is_read_until_something_was_recorded_and_again_after_a_refusal() {
        let probation = Probation::begin(watch::Sender::new(Status::new()));
        let batch = Limit { records: 10_000, bytes: 1 << 20 };
        assert_eq!(probation.limit(batch, 0), Limit { records: PROBE_RECORDS, bytes: 1 << 20 });
        assert_eq!(probation.limit(batch, 70).records, PROBE_RECORDS - 70);
        probation.passed();
        assert_eq!(probation.limit(batch, 5_000), batch);
        probation.refused(&denied("no update"));
        probation.mended();
        assert_eq!(probation.limit(batch, 0).records, PROBE_RECORDS, "nothing was recorded since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_shown_until_it_is_mended_and_waited_for_longer_and_longer() {
        let status = watch::Sender::new(Status::new());
        let probation = Probation::begin(status.clone());
        let first = probation.refused(&denied("no update"));
        assert_eq!(status.borrow().refusal.as_deref(), Some("no update; grant it"));
        let waits: Vec<_> = (0..20).map(|_| probation.refused(&denied("no insert"))).collect();
        assert!(first <= FIRST_PAUSE && waits.iter().all(|wait| *wait <= LONGEST_PAUSE), "{first:?} {waits:?}");
        assert!(*waits.last().expect("some") > LONGEST_PAUSE / 2, "{waits:?}");
        assert_eq!(status.borrow().refusal.as_deref(), Some("no insert; grant it"));
        probation.mended();
        assert_eq!(status.borrow().refusal, None);
        assert!(probation.refused(&denied("no update")) <= FIRST_PAUSE);
    }
}
