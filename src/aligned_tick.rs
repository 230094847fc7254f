//! Timers that fire together.
//!
//! To wake a process costs more than most of what it then does. One that has nothing to do but to look around every
//! now and then wakes once for everything that is due.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Waits for the next beat: never longer than the period, and for less after work in between. The beats of all periods
/// are counted from one moment, so that those of one second and of three fall together.
pub async fn aligned_tick(period: Duration) {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    sleep_until(next(start, Instant::now(), period)).await;
}

/// The first whole number of periods after `start` that is later than `now`.
fn next(start: Instant, now: Instant, period: Duration) -> Instant {
    let since = now.saturating_duration_since(start).as_nanos();
    let left = period.as_nanos() - since.checked_rem(period.as_nanos()).unwrap_or(0);
    now + Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn those_who_came_at_different_times_wake_at_the_same() {
        let start = Instant::now();
        let (early, late) = (start + SECOND / 5, start + SECOND / 3);
        assert_eq!(next(start, early, SECOND), start + SECOND);
        assert_eq!(next(start, late, SECOND), start + SECOND);
        assert_eq!(next(start, late, 3 * SECOND), start + 3 * SECOND);
    }

    #[test]
    fn a_beat_is_never_missed_and_never_heard_twice() {
        let start = Instant::now();
        let mut now = start;
        for beats in 1..=5 {
            now = next(start, now, SECOND);
            assert_eq!(now, start + beats * SECOND);
        }
        let tardy = now + SECOND * 7 / 2;
        assert_eq!(next(start, tardy, SECOND), start + 9 * SECOND);
    }

    #[test]
    fn no_period_is_too_short_and_no_clock_too_early() {
        let start = Instant::now() + SECOND;
        assert_eq!(next(start, start - SECOND / 2, SECOND), start + SECOND / 2);
        assert_eq!(next(start, start, Duration::ZERO), start);
    }
}
