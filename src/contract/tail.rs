//! A topic as it grows, for whoever waits for records of its own.

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

/// What a [`Tail`] hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// From here on it hears everything: what was in the topic by now was told. Said at the beginning, and after each time that
    /// it heard nothing. A topic that does not exist is heard from its first record on.
    Reads,
    /// A record with an event id is in the topic, and every consumer may see it.
    Record {
        /// The header `id`.
        event_id: Uuid,
        /// When it was read.
        at: Instant,
    },
    /// It can hear nothing, for this reason, until it [reads](Self::Reads) again: then it goes on where it stood. Once it reads,
    /// that no broker answers is no such reason, since no consumer reads anything then.
    Deaf(String),
}

/// Reads a topic from what is its end at the beginning, as a consumer with `read_committed` and of no group: nothing is stored
/// at the brokers, and nobody else's reading is touched. It never ends: what fails is tried again, and no record is left out
/// meanwhile.
#[async_trait]
pub trait Tail: Send {
    /// Waits for what is heard next. To stop waiting loses nothing.
    async fn hear(&mut self) -> Heard;
}
