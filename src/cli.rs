//! The command line: commands, flags and their help. Decides nothing; `main` does.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Parser, Subcommand};

use crate::config::raw::Flag;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for run: stopped gracefully, everything published is recorded
  1  something failed; the message says what, and what would do
  2  wrong usage or configuration
  3  run was cut off: some published records are not recorded and will come again";

/// Publishes the committed rows of an outbox table to Kafka: in order, and never loses one.
#[derive(Debug, Parser)]
#[command(name = "outboxd", version, after_help = EXIT_CODES, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What the process was called with. Wrong usage and `--help` end the process here.
    pub fn from_arguments() -> Self {
        Self::parse()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Relay until SIGTERM or ctrl-c
    ///
    /// Reads the outbox table, publishes to Kafka, and records what was published. Waits for a database or a broker
    /// that is away. A second relay on the same outbox waits as standby. The first SIGTERM or ctrl-c lets
    /// what is in flight finish, within relay.shutdown.deadline; a second one stops at once.
    #[command(after_help = EXIT_CODES)]
    Run(Run),
    /// Create or upgrade the outbox tables
    ///
    /// Safe to run again, and by two at once.
    Migrate(Migrate),
    /// Say in one sentence whether all is well, and what to do if not
    ///
    /// As the database tells it: who leads, what waits and for how long, by topic, what is held, and dead letters. Changes
    /// nothing. Exits 1 when something is wrong.
    Status(Status),
    /// List and release what is held: topics that wait for something, and lanes of which a record was rejected
    #[command(subcommand)]
    Held(Held),
    /// Audit a live system: what committed against what Kafka holds
    ///
    /// Reports what was lost, duplicated, published out of its lane's order, or published without a commit. Exits 1 on
    /// loss, disorder or anything unexpected.
    Verify(Verify),
    /// Measure whether it holds a load here, on this database and these brokers
    ///
    /// Makes an outbox and a topic of its own, which are removed at the end, and relays through them with the settings
    /// that outboxd run would have: each stage alone, a backlog, and a steady rate. Says which stage limits, and which
    /// settings make it faster. Exits 1 when the steady rate is not held.
    Bench(Bench),
    /// Show the effective configuration, with where each value came from and secrets hidden
    ///
    /// Exits 2 when outboxd run would refuse it, after one line for each complaint.
    Config(Show),
    /// See it work on this machine, with nothing installed
    ///
    /// An outbox in a SQLite file, a Kafka broker inside this process, a writer that commits orders and rolls some
    /// back, the relay, and a consumer that checks what arrives. Exits 0 only if nothing was lost or reordered.
    Demo(Demo),
}

/// `outboxd run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// `outboxd verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Only this topic; may be given again and again [default: those that rows name]
    #[arg(long, value_name = "TOPIC")]
    pub topic: Vec<String>,
    /// Only what was written since then: a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<DateTime<Utc>>,
    /// Which records of transactions count: read_committed or read_uncommitted
    #[arg(long, value_name = "LEVEL", default_value = "read_committed", value_parser = ["read_committed", "read_uncommitted"])]
    pub isolation: String,
    /// Exit 1 on duplicates, too, and on lanes that end with a stale record: for exactly-once delivery
    #[arg(long)]
    pub no_duplicates: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// `outboxd bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// Rows of the backlog
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub rows: u64,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    pub payload_bytes: u32,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Partitions of the topic
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,
    /// On how many brokers the topic is kept [default: as the brokers say]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub replication: Option<i32>,
    /// Rows a second of the steady rate, each in a transaction of its own
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
    /// How many seconds the steady rate lasts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

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

/// `outboxd config`.
#[derive(Debug, Args)]
pub struct Show {
    /// Only judge it: print nothing unless something is wrong
    #[arg(long)]
    pub check: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
}

/// Flags that stand for settings, of the commands that need all of them.
#[derive(Debug, Args)]
pub struct Settings {
    /// The file and the database.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Brokers to begin with, HOST:PORT, separated by commas [setting: kafka.bootstrap.servers]
    #[arg(long, value_name = "BROKERS")]
    brokers: Option<String>,
    /// A property of librdkafka; may be given again and again [setting: kafka.PROPERTY]
    #[arg(short = 'X', value_name = "PROPERTY=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Where /metrics, /livez, /readyz and /status are served; empty: nowhere [setting: http.listen]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// How log lines look, text or json [setting: log.format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// Flags that stand for settings, of the commands that need a database only.
#[derive(Debug, Args)]
pub struct DatabaseSettings {
    /// A TOML file with settings that differ from the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the outbox is: postgres://USER:PASSWORD@HOST/DATABASE or sqlite:FILE [setting: database.url]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The outbox table, NAME or SCHEMA.NAME [setting: outbox.table]
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
}

/// `outboxd migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    /// Print the SQL instead of running it; connects to nothing
    #[arg(long, conflicts_with = "check")]
    pub print: bool,
    /// Change nothing; exit 1 with the repair if the tables are not what this version needs, or the role of the URL, which
    /// should be the relay's, lacks a right
    #[arg(long)]
    pub check: bool,
    /// Also grant two roles what they need and no more: the application's, and the relay's (PostgreSQL)
    #[arg(long, value_name = "APP,RELAY", value_parser = roles, conflicts_with = "check")]
    pub grants: Option<Roles>,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: DatabaseSettings,
}

/// The two roles that suffice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles {
    /// Inserts.
    pub application: String,
    /// Selects, updates and deletes.
    pub relay: String,
}

/// `outboxd demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How many messages are committed
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: u64,
    /// Go on writing until ctrl-c
    #[arg(long, conflicts_with = "messages")]
    pub keep_running: bool,
    /// What the writer's choices grow from: the same seed writes the same messages [default: at random]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Kill the relay in the middle, without warning, and start another
    #[arg(long)]
    pub kill: bool,
    /// Where /metrics, /livez, /readyz and /status are served; empty: nowhere [default: 127.0.0.1:9187, or a free
    /// port where that is taken]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// For tests only: break the relay on purpose (lose or reorder), so that the check has something to find
    #[arg(long, value_name = "HOW", hide = true)]
    pub sabotage: Option<String>,
    /// Be the demo's relay, from this outbox to these brokers, until the standard input ends
    #[arg(long, num_args = 2, hide = true)]
    pub relay_part: Option<Vec<String>>,
}

impl Settings {
    /// The settings that the flags stand for.
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags = self.database.flags();
        flags.extend(flag("--brokers", "kafka.bootstrap.servers", self.brokers.as_ref()));
        flags.extend(flag("--http", "http.listen", self.http.as_ref()));
        flags.extend(flag("--log-format", "log.format", self.log_format.as_ref()));
        flags.extend(self.properties.iter().map(|(property, value)| Flag {
            name: "-X",
            key: format!("kafka.{property}"),
            value: value.clone(),
        }));
        flags
    }
}

impl DatabaseSettings {
    /// The settings that the flags stand for.
    pub fn flags(&self) -> Vec<Flag> {
        let url = flag("--database-url", "database.url", self.database_url.as_ref());
        url.into_iter().chain(flag("--table", "outbox.table", self.table.as_ref())).collect()
    }
}

fn flag(name: &'static str, key: &str, value: Option<&String>) -> Option<Flag> {
    value.map(|value| Flag { name, key: key.to_owned(), value: value.clone() })
}

fn since(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = text.parse::<DateTime<Utc>>() {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
    let since = ago.and_then(|ago| Utc::now().checked_sub_signed(ago)).filter(|since| *since >= DateTime::UNIX_EPOCH);
    since.ok_or_else(|| "write a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m".to_owned())
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((property, value)) if !property.trim().is_empty() => Ok((property.trim().to_owned(), value.to_owned())),
        _ => Err("write PROPERTY=VALUE, for example linger.ms=5".to_owned()),
    }
}

fn roles(text: &str) -> Result<Roles, String> {
    match text.split_once(',').map(|(application, relay)| (application.trim(), relay.trim())) {
        Some((application, relay)) if !application.is_empty() && !relay.is_empty() && !relay.contains(',') => {
            Ok(Roles { application: application.to_owned(), relay: relay.to_owned() })
        }
        _ => Err("write two roles and a comma, for example app,outboxd".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_property_may_hold_further_equals_signs() {
        assert_eq!(property("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert!(property("linger.ms").is_err());
        assert!(property("=5").is_err());
    }

    #[test]
    fn grants_take_exactly_two_roles() {
        assert_eq!(roles("app, relay"), Ok(Roles { application: "app".to_owned(), relay: "relay".to_owned() }));
        for wrong in ["app", "app,", ",relay", "a,b,c"] {
            assert!(roles(wrong).is_err(), "{wrong}");
        }
    }
}
