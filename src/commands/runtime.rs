//! Running the asynchronous part of a command.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use anyhow::{Context, anyhow};
use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};

/// The runtime of the process: a session with a database belongs to the one in which it was opened, and a command may work
/// with one in several steps. It ends with the process, which leaves blocking calls of the broker's client behind that are
/// still under way.
static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| Builder::new_multi_thread().enable_all().build());

/// Runs the asynchronous part.
pub(super) fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = RUNTIME.as_ref().map_err(|error| anyhow!("cannot start the runtime: {error}"))?;
    run(runtime, work)
}

/// The same for a relay, whose stages take turns: a second thread would only be woken in vain.
pub(super) fn block_on_one_thread<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let output = run(&runtime, work);
    runtime.shutdown_background();
    output
}

fn run<F: Future>(runtime: &Runtime, work: F) -> anyhow::Result<F::Output> {
    // A driver that panics over what a server sent ends the process as any other error does.
    let output = runtime.block_on(AssertUnwindSafe(work).catch_unwind());
    output.map_err(|_panic| anyhow!("outboxd panicked, which is a bug: the message stands above; please report it"))
}
