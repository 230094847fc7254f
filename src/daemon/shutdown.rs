//! Being told to stop: softly first, then hard.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// When to stop, and how.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop taking up work; finish what is in flight.
    pub soft: CancellationToken,
    /// Finish nothing; leave.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and ctrl-c from now on: the first one is a soft stop, a second one a hard stop.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            for (stop, how) in [(told.soft, "stopping: finishing what is in flight"), (told.hard, "stopping at once")] {
                let signal = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                tracing::info!(signal, "{how}");
                stop.cancel();
            }
        });
        Ok(shutdown)
    }

    /// Stops softly when the standard input ends: for a process whose parent holds the other end, and which is
    /// not to outlive it.
    pub fn on_end_of_input() -> Self {
        let shutdown = Self::default();
        let soft = shutdown.soft.clone();
        // A thread of its own: the runtime would wait for a read that is still under way when it ends.
        std::thread::spawn(move || {
            let _ended_or_broken = io::copy(&mut io::stdin(), &mut io::sink());
            soft.cancel();
        });
        shutdown
    }
}
