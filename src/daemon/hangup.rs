//! SIGHUP: what may change while the relay works is read anew.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Does something at each SIGHUP, which ends the process no more, for as long as this is awaited.
///
/// # Errors
/// When the signal cannot be listened for.
pub async fn at_each_hangup(mut act: impl FnMut()) -> io::Result<Infallible> {
    let mut hangups = signal(SignalKind::hangup())?;
    loop {
        match hangups.recv().await {
            Some(()) => act(),
            // The runtime ends.
            None => std::future::pending().await,
        }
    }
}
