//! The commands about single messages: looking for them, and moving them.

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, Subcommand};

use crate::admin::skipping;
use crate::cli::operate::time;
use crate::cli::{Change, DatabaseSettings, MessageFilter, Settings};
use crate::outbox::MessageState;

/// `outboxd ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Only those that are there: unsent, in-flight, sent, held or dead [default: anywhere]
    #[arg(long, value_name = "STATE")]
    pub state: Option<MessageState>,
    /// Which of them.
    #[command(flatten)]
    pub filter: MessageFilter,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd show` and `outboxd dead show`.
#[derive(Debug, Args)]
pub struct ShowMessage {
    /// Its id, or its event id
    #[arg(value_name = "ID|EVENT-ID")]
    pub which: String,
    /// Look for an event id among what was written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// Look for an event id among what was written before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
    /// Show its payload and headers, too
    #[arg(long)]
    pub payload: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd trace`.
#[derive(Debug, Args)]
pub struct TraceMessage {
    /// Its id, or its event id
    #[arg(value_name = "ID|EVENT-ID")]
    pub which: String,
    /// Look for an event id among what was written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,
    /// Its topic, for a message whose row is gone
    #[arg(long)]
    pub topic: Option<String>,
    /// How many records of each partition are looked at, at most
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub records: u64,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// `outboxd dead`.
#[derive(Debug, Subcommand)]
pub enum Dead {
    /// List dead letters, the highest ids first
    Ls {
        /// Those of this cause, such as message_too_large or skipped
        #[arg(long, value_name = "CODE")]
        cause: Option<String>,
        /// Which of them.
        #[command(flatten)]
        filter: MessageFilter,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
    /// Show one dead letter: what it is, and why it was given up
    Show(ShowMessage),
    /// Put dead letters back into the outbox, from where the relay publishes them in the order of their ids
    ///
    /// Mend the cause first. Each keeps its event id, its time and what the application wrote, and tells in the header
    /// outbox-requeued its first id and what was wrong. What was sent of its lane since then precedes it: that is
    /// counted and said before anything is changed.
    Requeue {
        /// Which of them.
        #[command(flatten)]
        which: Letters,
        /// How it changes something.
        #[command(flatten)]
        change: Change,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
    /// Delete dead letters for good
    #[command(group = ArgGroup::new("why").args(["reason"]).required(true))]
    Discard {
        /// Which of them.
        #[command(flatten)]
        which: Letters,
        /// How it changes something.
        #[command(flatten)]
        change: Change,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
}

/// Which dead letters are meant: the oldest of those that meet every condition.
#[derive(Debug, Args)]
pub struct Letters {
    /// All of them
    #[arg(long, conflicts_with_all = ["cause", "topic", "key", "partition", "since", "until", "id", "event_id"])]
    pub all: bool,
    /// Those of this cause, such as message_too_large or skipped
    #[arg(long, value_name = "CODE")]
    pub cause: Option<String>,
    /// The conditions.
    #[command(flatten)]
    pub filter: MessageFilter,
    /// How many at most, the lowest ids first
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
}

/// `outboxd skip`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("why").args(["reason"]).required(true))]
pub struct Skip {
    /// Ids of messages
    #[arg(value_name = "ID", conflicts_with = "id")]
    pub ids: Vec<i64>,
    /// Which of those that wait in held lanes.
    #[command(flatten)]
    pub filter: MessageFilter,
    /// How many at most, the lowest ids first, where no id is given
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(skipping::MOST)))]
    pub limit: u32,
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd purge`.
#[derive(Debug, Args)]
pub struct Purge {
    /// What was sent longer ago than this, such as 7d, or before a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub older_than: DateTime<Utc>,
    /// How it changes something.
    #[command(flatten)]
    pub change: Change,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}
