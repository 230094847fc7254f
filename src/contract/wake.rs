//! Wake-ups: there may be work, never how much.

use crate::contract::{BoxFuture, StoreError};

/// A source of wake-ups. The table is the truth: a wake-up carries no data and may be lost, and the relay
/// polls slowly even while one is armed.
pub trait WakeSource: Send {
    /// Tries to arrange for the next commit to wake [`wait`](Self::wait). On `true`, read once more before
    /// waiting: a commit in between may have gone unnoticed. `false` says that it is not possible right now,
    /// for example while a writer is still at work; poll and try again.
    fn arm(&mut self) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Waits for a commit since it was armed, or since it last returned, and says how many there were, as far as that is
    /// told. May return early; may be cancelled. Read after it, and wait again: it stays armed.
    fn wait(&mut self) -> BoxFuture<'_, Result<u32, StoreError>>;

    /// Stops asking writers for wake-ups, so that they pay nothing while the relay is busy.
    fn disarm(&mut self) -> BoxFuture<'_, Result<(), StoreError>>;
}
