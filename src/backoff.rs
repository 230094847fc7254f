//! How long to wait before trying again.

use std::time::Duration;

use uuid::Uuid;

/// Waits that double from a first to a longest one, each shortened at random by up to a quarter, so that
/// many relays that lost one database do not come back to it at the same instant.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first`, doubling, up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        let random = u32::from(Uuid::new_v4().as_bytes()[0]);
        wait - wait * random / 1024
    }

    /// Begins anew, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_anew_after_a_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(350));
        let mut backoff = Backoff::new(first, longest);
        for expected in [100, 200, 350, 350] {
            let wait = backoff.next_wait();
            let most = Duration::from_millis(expected);
            assert!(wait <= most && wait >= most * 3 / 4, "{wait:?} of {most:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }
}
