//! Commands that steer the relay that leads, and the flags that they share.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};

use crate::admin::operations::{DEFAULT_RATE, HIGHEST_RATE};
use crate::cli::operate::time;
use crate::cli::{Change, DatabaseSettings};
use crate::outbox::{TopicPattern, is_topic_name};

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

/// `outboxd replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Those of this topic
    #[arg(long)]
    pub topic: String,
    /// Those of this key
    #[arg(long)]
    pub key: Option<String>,
    /// Those written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// Those written before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
    /// Send them to this topic [default: that of the rows]
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    pub to_topic: Option<String>,
    /// How many rows a second at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(HIGHEST_RATE)))]
    pub rate: u32,
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd operations`.
#[derive(Debug, Subcommand)]
pub enum Operations {
    /// List operations, the last one first: who asked for them, and how far they are
    Ls {
        /// How many operations at most
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
    /// End one that runs; what was done of it stays done
    Cancel {
        /// Its number
        id: i64,
        /// How it changes something.
        #[command(flatten)]
        change: Change,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
}

fn topic(text: &str) -> Result<String, String> {
    match is_topic_name(text) {
        true => Ok(text.to_owned()),
        false => Err("no topic of Kafka's is called so: use the letters a-z, A-Z, 0-9, '.', '_' and '-'".to_owned()),
    }
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
