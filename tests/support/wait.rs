//! Waiting: always for a condition, always with a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take that takes seconds when all is well. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long moving hundreds of thousands of rows may take.
pub(crate) const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// What a busy machine may add to a time that is promised: more than its pauses, and less than the timeouts for which
/// nothing may wait that keeps the promise.
pub(crate) const SLACK: Duration = Duration::from_secs(10);

const PACE: Duration = Duration::from_millis(20);

/// Asks until there is an answer. Panics, saying what was waited for, when the deadline passes without one.
pub(crate) async fn until<T>(what: &str, deadline: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain until {what}");
        sleep(PACE).await;
    }
}

/// Waits until the condition holds.
pub(crate) async fn until_true(what: &str, deadline: Duration, mut ask: impl AsyncFnMut() -> bool) {
    until(what, deadline, async || ask().await.then_some(())).await;
}
