//! How a relay works, with the defaults.

use std::time::Duration;

use uuid::Uuid;

use crate::outbox::{DeadLetterTopic, Delivery, Limit, RejectPolicy};

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
    /// Whether the partition and the offset of each record are recorded with its row, for people who look. Only a store that
    /// [marks](crate::outbox::Settle::Mark) rows does it.
    pub record_position: bool,
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
    /// How often the sink is asked whether it accepts a held topic by now, and the store what operators ask for: a release,
    /// a pause, another leader.
    pub release_interval: Duration,
    /// What becomes of records that can never be published.
    pub on_reject: RejectPolicy,
    /// Where dead letters are published, besides being kept, given [`Relay::with_dead_letters`](crate::relay::Relay::with_dead_letters).
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
            record_position: false,
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
