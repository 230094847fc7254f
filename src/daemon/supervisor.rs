//! The parts of the house: started from the ground up, stopped from the top down.
//!
//! The first part that ends by itself stops the house: a failure and a panic are its error, and so is an end
//! that no shutdown asked for.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::future::select_all;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::daemon::Shutdown;
use crate::relay::Ended;

/// Parts that run at once and stop one after the other.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<Ended>>,
}

impl Supervisor {
    /// A house without parts.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, parts: Vec::new() }
    }

    /// Starts a part. It is to end when its token is cancelled, which happens after all later parts have ended.
    pub fn start<F, W>(&mut self, name: &'static str, work: W)
    where
        W: FnOnce(CancellationToken) -> F,
        F: Future<Output = anyhow::Result<Ended>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(work(stop.clone()));
        self.parts.push(Part { name, stop, task });
    }

    /// Runs until told to stop or until a part ends, then stops all parts, the last one started first. Each is
    /// given `patience`; a hard stop takes it back.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(mut self, patience: Duration) -> anyhow::Result<Ended> {
        let first = tokio::select! {
            biased;
            () = self.shutdown.soft.cancelled() => None,
            first = first_end(&mut self.parts) => Some(first),
        };
        let mut outcome = Ok(Ended::Graceful);
        if let Some((ended, index)) = first {
            let part = self.parts.remove(index);
            outcome = joined(part.name, ended).and(Err(anyhow!("the {} ended by itself", part.name)));
        }
        while let Some(part) = self.parts.pop() {
            let end = part.end(patience, &self.shutdown.hard).await;
            outcome = match (outcome, end) {
                (Err(first), _) | (_, Err(first)) => Err(first),
                (Ok(Ended::CutOff), _) | (_, Ok(Ended::CutOff)) => Ok(Ended::CutOff),
                (Ok(Ended::Graceful), Ok(Ended::Graceful)) => Ok(Ended::Graceful),
            };
        }
        outcome
    }
}

impl Part {
    async fn end(mut self, patience: Duration, hard: &CancellationToken) -> anyhow::Result<Ended> {
        self.stop.cancel();
        let ended = tokio::select! {
            ended = timeout(patience, &mut self.task) => ended.ok(),
            () = hard.cancelled() => None,
        };
        match ended {
            Some(ended) => joined(self.name, ended),
            None => {
                tracing::warn!(part = self.name, "cut off before it had finished");
                self.task.abort();
                Ok(Ended::CutOff)
            }
        }
    }
}

async fn first_end(parts: &mut [Part]) -> (Result<anyhow::Result<Ended>, JoinError>, usize) {
    if parts.is_empty() {
        return std::future::pending().await;
    }
    let (ended, index, _others) = select_all(parts.iter_mut().map(|part| &mut part.task)).await;
    (ended, index)
}

fn joined(name: &str, ended: Result<anyhow::Result<Ended>, JoinError>) -> anyhow::Result<Ended> {
    ended.with_context(|| format!("the {name} panicked"))?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use parking_lot::Mutex;

    const TEST_DEADLINE: Duration = Duration::from_secs(10);

    /// Starts a part that notes when it stops.
    fn start_noting(house: &mut Supervisor, name: &'static str, notes: &Arc<Mutex<Vec<&'static str>>>) {
        let notes = Arc::clone(notes);
        house.start(name, |stop| async move {
            stop.cancelled().await;
            notes.lock().push(name);
            Ok(Ended::Graceful)
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_started_last_stops_first() {
        let shutdown = Shutdown::default();
        let mut house = Supervisor::new(shutdown.clone());
        let notes = Arc::default();
        for name in ["page", "chores", "relay"] {
            start_noting(&mut house, name, &notes);
        }
        shutdown.soft.cancel();
        assert_eq!(house.run(TEST_DEADLINE).await.expect("no failure"), Ended::Graceful);
        assert_eq!(*notes.lock(), ["relay", "chores", "page"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_stops_the_house_and_is_its_error() {
        let mut house = Supervisor::new(Shutdown::default());
        let notes = Arc::default();
        start_noting(&mut house, "page", &notes);
        house.start("relay", |_stop| async { Err(anyhow!("no table")) });
        let error = house.run(TEST_DEADLINE).await.expect_err("the relay failed");
        assert_eq!(error.to_string(), "no table");
        assert_eq!(*notes.lock(), ["page"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure_and_so_is_an_end_that_nobody_asked_for() {
        let mut house = Supervisor::new(Shutdown::default());
        house.start("relay", |_stop| async { panic!("a bug") });
        let error = house.run(TEST_DEADLINE).await.expect_err("it panicked");
        assert_eq!(error.to_string(), "the relay panicked");

        let mut house = Supervisor::new(Shutdown::default());
        house.start("relay", |_stop| async { Ok(Ended::Graceful) });
        let error = house.run(TEST_DEADLINE).await.expect_err("nobody asked");
        assert_eq!(error.to_string(), "the relay ended by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_takes_too_long_is_cut_off_and_a_hard_stop_does_not_wait() {
        for hard in [false, true] {
            let shutdown = Shutdown::default();
            let mut house = Supervisor::new(shutdown.clone());
            house.start("relay", |_stop| std::future::pending());
            shutdown.soft.cancel();
            if hard {
                shutdown.hard.cancel();
            }
            let began = tokio::time::Instant::now();
            assert_eq!(house.run(TEST_DEADLINE).await.expect("no failure"), Ended::CutOff);
            assert_eq!(began.elapsed() >= TEST_DEADLINE, !hard);
        }
    }
}
