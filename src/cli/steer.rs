//! Commands that steer the relay that leads, and the flags that they share.

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;

use crate::cli::{Change, DatabaseSettings};
use crate::outbox::TopicPattern;

/// `outboxd pause`.
#[derive(Debug, Args)]
#[command(mut_arg("reason", |reason| reason.required(true)))]
pub struct Pause {
    /// Only these topics; * stands for any characters or none [default: everything]
    #[arg(long, value_name = "PATTERN")]
    pub topic: Option<TopicPattern>,
    /// When it ends by itself: a time such as 2026-01-31T12:00:00Z, or after how long, such as 30m
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub until: Option<DateTime<Utc>>,
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// What was paused with this pattern [default: what was paused without one]
    #[arg(long, value_name = "PATTERN")]
    pub topic: Option<TopicPattern>,
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd step-down`.
#[derive(Debug, Args)]
pub struct StepDown {
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// A time that is to come, or after how long.
fn until(text: &str) -> Result<DateTime<Utc>, String> {
    let now = Utc::now();
    let after = || {
        humantime::parse_duration(text).ok().and_then(|after| now.checked_add_signed(TimeDelta::from_std(after).ok()?))
    };
    let Some(time) = text.parse::<DateTime<Utc>>().ok().or_else(after) else {
        return Err("write a time such as 2026-01-31T12:00:00Z, or after how long, such as 30m".to_owned());
    };
    if time > now { Ok(time) } else { Err("it is over already: write a time that is to come".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_a_time_to_come_or_after_a_while() {
        let now = Utc::now();
        assert!(
            until("30m").is_ok_and(|time| time > now + TimeDelta::minutes(29) && time < now + TimeDelta::minutes(31))
        );
        assert!(until("9999-01-31T12:00:00Z").is_ok());
        for wrong in ["2020-01-31T12:00:00Z", "0s", "soon", ""] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }
}
