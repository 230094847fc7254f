//! Running the asynchronous part of a command.

use std::panic::AssertUnwindSafe;

use anyhow::Context;
use futures_util::FutureExt;
use tokio::runtime::Builder;

/// Runs the asynchronous part. Blocking calls of the broker's client that are still under way at the end are
/// left behind rather than waited for.
pub(super) fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    finish(Builder::new_multi_thread(), work)
}

/// The same for a relay, whose stages take turns: a second thread would only be woken in vain.
pub(super) fn block_on_one_thread<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    finish(builder, work)
}

fn finish<F: Future>(mut builder: Builder, work: F) -> anyhow::Result<F::Output> {
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    // A driver that panics over what a server sent ends the process as any other error does.
    let output = runtime.block_on(AssertUnwindSafe(work).catch_unwind());
    runtime.shutdown_background();
    output.map_err(|_panic| {
        anyhow::anyhow!("outboxd panicked, which is a bug: the message stands above; please report it")
    })
}
