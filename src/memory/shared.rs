//! What the handles on one outbox share.

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::memory::state::State;

/// What the clones, the sessions and the transactions of one outbox share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Ticks at every change of the state, for those who wait for a condition.
    pub(super) changes: watch::Sender<()>,
    /// Ticks at every commit of a writer.
    pub(super) commits: watch::Sender<()>,
}

impl Shared {
    /// Of an outbox that holds this.
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changes: watch::Sender::new(()), commits: watch::Sender::new(()) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changes.send_replace(());
        result
    }

    pub(super) fn committed(&self) {
        self.commits.send_replace(());
    }
}
