//! The operator's commands, and the flags that they share.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::admin::change;
use crate::cli::{DatabaseSettings, Settings};
use crate::outbox;

/// `outboxd status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Say it again every 2 s, until ctrl-c
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd held`.
#[derive(Debug, Subcommand)]
pub enum Held {
    /// List what is held, longest held first
    Ls {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
        /// Which of them.
        #[command(flatten)]
        which: LaneFilter,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
    /// Let held lanes flow again: the leader publishes what waits, in order
    ///
    /// Mend the cause first (raise the topic's limit, correct or delete the row): a record that is still rejected has
    /// its lane held again.
    Release {
        /// All of them
        #[arg(long, conflicts_with_all = ["topic", "key", "partition"], required_unless_present = "topic")]
        all: bool,
        /// Which of them.
        #[command(flatten)]
        which: LaneFilter,
        /// How it changes something.
        #[command(flatten)]
        change: Change,
        /// What it is told about its configuration.
        #[command(flatten)]
        settings: DatabaseSettings,
    },
}

/// Which held lanes are meant.
#[derive(Debug, Args)]
pub struct LaneFilter {
    /// Those of this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Those of this key of the topic
    #[arg(long, requires = "topic", conflicts_with = "partition")]
    pub key: Option<String>,
    /// Those of rows that name this partition of the topic
    #[arg(long, requires = "topic")]
    pub partition: Option<i32>,
}

/// `outboxd audit-log`.
#[derive(Debug, Args)]
pub struct AuditLog {
    /// How many changes at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// `outboxd support-bundle`.
#[derive(Debug, Args)]
pub struct SupportBundle {
    /// Where the archive is written [default: outboxd-support-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A log of the relay, of which the last 2,000 lines are taken
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// What every command takes that changes something.
#[derive(Debug, Args)]
pub struct Change {
    /// Only say what would be changed
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask first; without a terminal nothing is asked
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

impl From<Change> for change::Change {
    fn from(Change { dry_run, yes, reason }: Change) -> Self {
        Self { dry_run, yes, reason }
    }
}

/// Which messages are meant: those that meet every condition.
#[derive(Debug, Args)]
pub struct MessageFilter {
    /// Those of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Those of this key
    #[arg(long, conflicts_with = "partition")]
    key: Option<String>,
    /// Those of rows that name this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Those written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Those written before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,
    /// The one with this id; may be given again and again
    #[arg(long, value_name = "ID")]
    id: Vec<i64>,
    /// The one with this event id; may be given again and again
    #[arg(long, value_name = "UUID")]
    event_id: Vec<Uuid>,
}

impl From<MessageFilter> for outbox::MessageFilter {
    fn from(MessageFilter { topic, key, partition, since, until, id, event_id }: MessageFilter) -> Self {
        Self { topic, key, partition, since, until, ids: id, event_ids: event_id }
    }
}

/// A time, or how long ago.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = text.parse::<DateTime<Utc>>() {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
    let time = ago.and_then(|ago| Utc::now().checked_sub_signed(ago)).filter(|time| *time >= DateTime::UNIX_EPOCH);
    time.ok_or_else(|| "write a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m".to_owned())
}
