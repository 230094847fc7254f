//! The machine that the tests share: how many run side by side depends on what they ask of it, not only on how many threads
//! there are.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The parts that the machine has.
const PARTS: u32 = 10;

/// The parts that a load, or servers of a test's own, take.
const LOAD: u32 = 3;

static MACHINE: Semaphore = Semaphore::const_new(PARTS as usize);

/// A test's share of the machine, given back when it is dropped.
pub(crate) struct Share {
    _permit: SemaphorePermit<'static>,
}

async fn parts(parts: u32) -> Share {
    Share { _permit: MACHINE.acquire_many(parts).await.expect("the semaphore is never closed") }
}

/// Waits for a share beside other tests: for those that mostly wait.
pub(crate) async fn shared() -> Share {
    parts(1).await
}

/// Waits for the share of a load: for those with one, or with servers of their own.
pub(crate) async fn loaded() -> Share {
    parts(LOAD).await
}

/// Waits until nothing else runs, and keeps the machine: for those that measure time, or need all of it.
pub(crate) async fn alone() -> Share {
    parts(PARTS).await
}
