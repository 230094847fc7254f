//! The machine the tests share: heavy tests and tests that measure time run alone, the others side by side.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::const_new(());

/// A test's share of the machine, given back when it is dropped.
pub(crate) enum Share {
    /// Other light tests run at the same time.
    Some { _guard: RwLockReadGuard<'static, ()> },
    /// Nothing else runs.
    All { _guard: RwLockWriteGuard<'static, ()> },
}

/// Waits for a share beside other light tests.
pub(crate) async fn shared() -> Share {
    Share::Some { _guard: MACHINE.read().await }
}

/// Waits until the machine is free, and keeps it.
pub(crate) async fn alone() -> Share {
    Share::All { _guard: MACHINE.write().await }
}
