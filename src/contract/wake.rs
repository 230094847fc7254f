//! Wake-ups: there may be work, never how much.

use async_trait::async_trait;

use crate::contract::error::StoreError;

/// What came of arming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arming {
    /// The next commit wakes. Read once more before waiting: a commit in between may have gone unnoticed.
    Armed,
    /// It is not possible right now, for example while a writer is still at work; poll and try again.
    NotNow,
}

/// A source of wake-ups. The table is the truth: a wake-up carries no data and may be lost, and the relay
/// polls slowly even while one is armed.
#[async_trait]
pub trait WakeSource: Send {
    /// Tries to arrange for the next commit to wake [`wait`](Self::wait).
    async fn arm(&mut self) -> Result<Arming, StoreError>;

    /// Waits for a commit since it was armed, or since it last returned, and says how many there were, as far as that is
    /// told. May return early; may be cancelled. Read after it, and wait again: it stays armed.
    async fn wait(&mut self) -> Result<u32, StoreError>;

    /// Stops asking writers for wake-ups, so that they pay nothing while the relay is busy.
    async fn disarm(&mut self) -> Result<(), StoreError>;
}
