//! Whether the relay is ready, and why not. Pure: it judges a status.

use std::time::Duration;

use tokio::time::Instant;

use crate::relay::{Phase, Status};

/// A leader that has work and moved nothing for this long is not ready. Longer than a broker takes to elect a
/// new partition leader, so that a rolling restart of Kafka makes no noise.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Judges whether the relay is ready.
///
/// A leader is judged by movement, not by how much waits: a large backlog that drains is fine, a single message
/// that does not move is not. A standby is ready while it reaches the database. What operators paused is ready, and
/// says that it is paused: to restart it or to route around it would change nothing.
///
/// # Errors
/// Why it is not, in one line.
pub fn ready(status: &Status, now: Instant) -> Result<&'static str, String> {
    match status.phase {
        Phase::Leading => {
            if let Some(refusal) = &status.refusal {
                return Err(format!("waiting for an operator: {refusal}"));
            }
            if status.trusted_until.is_some_and(|until| until <= now) {
                return Err("the lease has run out: another relay may lead".to_owned());
            }
            if status.is_paused() {
                return Ok("leading; everything is paused");
            }
            let still = now.saturating_duration_since(status.last_progress);
            if still < STALLED_AFTER {
                return Ok(if status.pauses.is_empty() { "leading" } else { "leading; some topics are paused" });
            }
            Err(format!("no progress for {} s with {} messages in flight", still.as_secs(), status.in_flight))
        }
        Phase::Standby if status.connected && status.is_paused() => Ok("standby; everything is paused"),
        Phase::Standby if status.connected => Ok("standby"),
        Phase::Standby => Err("standby without a connection to the database".to_owned()),
        Phase::Starting => Err("starting".to_owned()),
        Phase::Draining => Err("stopping: draining what is in flight".to_owned()),
        Phase::Stopped => Err("stopped".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::Pause;

    fn status(phase: Phase) -> Status {
        Status { phase, ..Status::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_judged_by_movement_and_not_by_how_much_waits() {
        let mut leading = status(Phase::Leading);
        leading.in_flight = 1_000_000;
        assert_eq!(ready(&leading, Instant::now()), Ok("leading"));
        tokio::time::advance(STALLED_AFTER).await;
        let reason = ready(&leading, Instant::now()).expect_err("nothing moved");
        assert_eq!(reason, "no progress for 30 s with 1000000 messages in flight");
        leading.progressed();
        assert_eq!(ready(&leading, Instant::now()), Ok("leading"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_lease_has_run_out_is_not_ready_whatever_it_believes() {
        let mut leading = status(Phase::Leading);
        leading.trusted_until = Some(Instant::now() + Duration::from_secs(2));
        assert_eq!(ready(&leading, Instant::now()), Ok("leading"));
        tokio::time::advance(Duration::from_secs(2)).await;
        let reason = ready(&leading, Instant::now()).expect_err("another may lead");
        assert_eq!(reason, "the lease has run out: another relay may lead");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_database_refuses_something_is_not_ready_and_says_what() {
        let refusal = Some("permission denied; grant it".to_owned());
        let leading = Status { refusal, ..status(Phase::Leading) };
        let reason = ready(&leading, Instant::now()).expect_err("an operator has to grant it");
        assert_eq!(reason, "waiting for an operator: permission denied; grant it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_is_ready_while_it_reaches_the_database() {
        let mut standby = status(Phase::Standby);
        assert!(ready(&standby, Instant::now()).is_err());
        standby.connected = true;
        tokio::time::advance(10 * STALLED_AFTER).await;
        assert_eq!(ready(&standby, Instant::now()), Ok("standby"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_operators_paused_is_ready_and_says_so() {
        let pause = |topics: &str| Pause {
            topics: topics.parse().expect("a pattern"),
            since: DateTime::UNIX_EPOCH,
            until: None,
            reason: None,
            actor: "anna@relay-1".to_owned(),
        };
        let leading = Status { pauses: vec![pause("*")], ..status(Phase::Leading) };
        let standby = Status { connected: true, pauses: vec![pause("*")], ..status(Phase::Standby) };
        let some = Status { pauses: vec![pause("orders.*")], ..status(Phase::Leading) };
        assert_eq!(ready(&some, Instant::now()), Ok("leading; some topics are paused"));
        tokio::time::advance(10 * STALLED_AFTER).await;
        assert_eq!(ready(&leading, Instant::now()), Ok("leading; everything is paused"));
        assert_eq!(ready(&standby, Instant::now()), Ok("standby; everything is paused"));
        assert!(ready(&some, Instant::now()).is_err(), "other topics do not move");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_starting_or_stopping_is_not_ready() {
        for phase in [Phase::Starting, Phase::Draining, Phase::Stopped] {
            assert!(ready(&status(phase), Instant::now()).is_err(), "{phase:?}");
        }
    }
}
