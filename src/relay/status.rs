//! What the relay is doing: a snapshot for probes, the status page and housekeeping.

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::observe::metrics;
use crate::outbox::{Held, HoldCause, Pause, Term};

/// What the relay is doing right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not begun, or looking for the database.
    Starting,
    /// Another relay leads; this one waits.
    Standby,
    /// This relay leads.
    Leading,
    /// Told to stop; finishing what is in flight.
    Draining,
    /// Ended.
    Stopped,
}

impl Phase {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Standby => "standby",
            Phase::Leading => "leading",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
        }
    }
}

/// A snapshot of the relay.
#[derive(Debug, Clone)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// The term it leads, while it leads.
    pub term: Option<Term>,
    /// Until when the lease can be trusted, while it leads.
    pub trusted_until: Option<Instant>,
    /// Whether the database answered when it was last asked.
    pub connected: bool,
    /// Records read and not settled yet.
    pub in_flight: usize,
    /// Records published since the process started.
    pub published: u64,
    /// When it last settled something, or found nothing to do.
    pub last_progress: Instant,
    /// The same by the wall clock.
    pub last_progress_at: DateTime<Utc>,
    /// Held lanes.
    pub held: Vec<Held>,
    /// What operators paused.
    pub pauses: Vec<Pause>,
    /// What the database refuses, so that an operator has to change something, and what that is.
    pub refusal: Option<String>,
}

impl Status {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Starting,
            term: None,
            trusted_until: None,
            connected: false,
            in_flight: 0,
            published: 0,
            last_progress: Instant::now(),
            last_progress_at: Utc::now(),
            held: Vec::new(),
            pauses: Vec::new(),
            refusal: None,
        }
    }

    /// Whether operators paused everything.
    pub fn is_paused(&self) -> bool {
        self.pauses.iter().any(|pause| pause.topics.is_any())
    }

    pub(crate) fn progressed(&mut self) {
        self.last_progress = Instant::now();
        self.last_progress_at = Utc::now();
    }
}

/// Shows what is held.
pub(crate) fn tell_held(status: &watch::Sender<Status>, held: Vec<Held>) {
    count_held(&held);
    status.send_modify(|status| status.held = held);
}

/// Shows how many lanes are held, by cause.
pub(crate) fn count_held(held: &[Held]) {
    for cause in HoldCause::ALL {
        metrics::set_held(cause.as_str(), held.iter().filter(|held| held.cause == cause).count());
    }
}
