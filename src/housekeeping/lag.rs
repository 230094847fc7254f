//! Whether the lag is a fault, judged without a threshold: by whether what waits moves. After Burrow's rules for consumers of
//! Kafka (<https://github.com/linkedin/Burrow/wiki/Consumer-Lag-Evaluation-Rules>).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::contract::{Backlog, TopicBacklog};
use crate::observe::metrics::LagState;
use crate::relay::{Phase, Status};

/// How far the judgement looks back: beyond every pause between two measurements.
const LAG_WINDOW: Duration = Duration::from_secs(60);

/// By how much less than the time that passed the oldest message must have aged to be another one: clocks are not exact.
const AGE_TOLERANCE: Duration = Duration::from_secs(1);

/// The measurements of the last while.
#[derive(Debug, Default)]
pub(crate) struct LagWindow(VecDeque<Measured>);

#[derive(Debug)]
struct Measured {
    at: Instant,
    unsent: u64,
    capped: bool,
    oldest: Duration,
    /// What this relay had published by then.
    published: u64,
}

impl LagWindow {
    /// Adds a measurement and judges. `is_led`: whether any relay leads, by what the database said last.
    pub(crate) fn judge(&mut self, backlog: &Backlog, is_led: bool, status: &Status, now: Instant) -> LagState {
        let Backlog { unsent, capped, oldest, .. } = *backlog;
        self.0.push_back(Measured { at: now, unsent, capped, oldest, published: status.published });
        // The last one from before the window stays, so that the whole window is known.
        while self.0.get(1).is_some_and(|next| now - next.at >= LAG_WINDOW) {
            self.0.pop_front();
        }
        let is_served = match status.phase {
            Phase::Leading | Phase::Draining => true,
            Phase::Standby => status.connected && is_led,
            Phase::Starting | Phase::Stopped => false,
        };
        match (self.0.front(), self.0.back()) {
            _ if !is_served => LagState::Stopped,
            _ if status.is_paused() => LagState::Paused,
            _ if self.0.iter().any(|measured| measured.unsent == 0) => LagState::Ok,
            (Some(first), Some(last)) if now - first.at >= LAG_WINDOW && !has_moved(first, last, status.phase) => {
                if waits_only_for_pauses(backlog, status) {
                    LagState::Paused
                } else {
                    LagState::Stalled
                }
            }
            _ => LagState::Moving,
        }
    }
}

/// Whether all that waits is of topics that operators paused.
fn waits_only_for_pauses(backlog: &Backlog, status: &Status) -> bool {
    let is_paused = |topic: &&TopicBacklog| status.pauses.iter().any(|pause| pause.topics.matches(&topic.topic));
    let paused: u64 = backlog.topics.iter().filter(is_paused).map(|topic| topic.unsent).sum();
    !backlog.capped && paused == backlog.unsent
}

/// Whether something was published in between: this relay knows if it leads. A standby sees it by what waits, unless there is
/// more than it counts.
fn has_moved(first: &Measured, last: &Measured, phase: Phase) -> bool {
    if phase != Phase::Standby {
        return last.published > first.published;
    }
    let passed = last.at - first.at;
    last.capped || last.unsent < first.unsent || last.oldest + AGE_TOLERANCE < first.oldest + passed
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::Pause;

    const STEP: Duration = Duration::from_secs(5);

    /// What a relay in this phase says after each of these measurements: unsent, age in seconds, published.
    fn judged(phase: Phase, is_led: bool, measured: &[(u64, u64, u64)]) -> Vec<LagState> {
        let (mut window, begin) = (LagWindow::default(), Instant::now());
        let judge = |(at, &(unsent, age, published)): (u32, &(u64, u64, u64))| {
            let backlog = Backlog { unsent, oldest: Duration::from_secs(age), ..Backlog::default() };
            let status = Status { phase, connected: true, published, ..Status::new() };
            window.judge(&backlog, is_led, &status, begin + at * STEP)
        };
        (0..).zip(measured).map(judge).collect()
    }

    /// So many measurements of the same backlog, which grows older.
    fn still(count: u64) -> Vec<(u64, u64, u64)> {
        (0..count).map(|n| (7, 5 * n, 3)).collect()
    }

    #[test]
    fn what_does_not_move_is_stalled_once_that_is_known_of_the_whole_window() {
        for phase in [Phase::Leading, Phase::Draining, Phase::Standby] {
            let judged = judged(phase, true, &still(16));
            let first = judged.iter().position(|state| *state == LagState::Stalled);
            assert_eq!(first, Some(12), "{phase:?}: {judged:?}");
            assert!(judged[..12].iter().all(|state| *state == LagState::Moving), "{phase:?}: {judged:?}");
        }
    }

    #[test]
    fn an_outbox_that_was_empty_in_the_window_is_ok() {
        let mut measured = vec![(0, 0, 3)];
        measured.extend(still(14));
        let judged = judged(Phase::Leading, true, &measured);
        assert!(judged[..13].iter().all(|state| *state == LagState::Ok), "{judged:?}");
        assert_eq!(judged[14], LagState::Stalled, "{judged:?}");
    }

    #[test]
    fn a_leader_moves_while_it_publishes_however_much_waits_and_for_however_long() {
        let measured: Vec<_> = (0..30).map(|n| (100_000, 5 * n, n)).collect();
        assert!(judged(Phase::Leading, true, &measured).iter().all(|state| *state == LagState::Moving));
    }

    #[test]
    fn a_standby_sees_movement_by_what_waits() {
        let fewer: Vec<_> = (0..30).map(|n| (1_000 - n, 5 * n, 0)).collect();
        let younger: Vec<_> = (0..30).map(|_| (1_000, 20, 0)).collect();
        for measured in [fewer, younger] {
            assert!(judged(Phase::Standby, true, &measured).iter().all(|state| *state == LagState::Moving));
        }
    }

    #[test]
    fn what_operators_paused_is_not_stalled_and_what_else_waits_is() {
        let pause = |topics: &str| Pause {
            topics: topics.parse().expect("a pattern"),
            since: DateTime::UNIX_EPOCH,
            until: None,
            reason: None,
            actor: "anna@relay-1".to_owned(),
        };
        let topic = |topic: &str, unsent| TopicBacklog { topic: topic.to_owned(), unsent, oldest: LAG_WINDOW };
        let judged = |pauses: Vec<Pause>, topics: Vec<TopicBacklog>| {
            let (mut window, begin) = (LagWindow::default(), Instant::now());
            let unsent = topics.iter().map(|topic| topic.unsent).sum();
            let backlog = Backlog { unsent, oldest: LAG_WINDOW, topics, ..Backlog::default() };
            let status = Status { phase: Phase::Leading, connected: true, pauses, ..Status::new() };
            (0..=13).map(|at| window.judge(&backlog, true, &status, begin + at * STEP)).last()
        };
        assert_eq!(judged(vec![pause("*")], Vec::new()), Some(LagState::Paused), "also where nothing waits");
        let both = || vec![topic("orders", 2), topic("users", 1)];
        assert_eq!(judged(vec![pause("orders"), pause("us*")], both()), Some(LagState::Paused));
        assert_eq!(judged(vec![pause("orders")], both()), Some(LagState::Stalled), "users do not move");
        assert_eq!(judged(vec![pause("orders")], Vec::new()), Some(LagState::Ok));
    }

    #[test]
    fn where_nobody_leads_it_is_stopped() {
        for (phase, is_led) in [(Phase::Starting, true), (Phase::Stopped, true), (Phase::Standby, false)] {
            assert_eq!(judged(phase, is_led, &[(0, 0, 0)]), [LagState::Stopped], "{phase:?}");
        }
        let cut_off = Status { phase: Phase::Standby, connected: false, ..Status::new() };
        let judged = LagWindow::default().judge(&Backlog::default(), true, &cut_off, Instant::now());
        assert_eq!(judged, LagState::Stopped);
    }
}
