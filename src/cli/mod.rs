//! The command line: commands, flags and their help. Decides nothing; `main` does.

mod generated;
mod letters;
mod operate;
mod settings;
mod steer;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use generated::{completions, man};
pub use letters::{Dead, Letters, Ls, Purge, ShowMessage, Skip, TraceMessage};
pub use operate::{AuditLog, Change, Held, LaneFilter, MessageFilter, Status, SupportBundle};
pub use settings::{DatabaseSettings, Settings};
pub use steer::{Operations, Pause, Replay, Resume, StepDown};

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
    /// List messages: where they are, and since when
    ///
    /// What waits (unsent, held) from the oldest on, anything else from the newest on. Looks at some 50,000 rows and says so
    /// where there are more.
    Ls(Ls),
    /// Show where one message is, and what happened to it
    Show(ShowMessage),
    /// Follow one message from its row to its records in Kafka
    ///
    /// As outboxd show, and then its topic is read from the time on at which it was written: partition, offset and time
    /// of each of its records that consumers see. A message whose row is gone is found by its event id and --topic.
    Trace(TraceMessage),
    /// List dead letters, put them back into the outbox, or delete them
    #[command(subcommand)]
    Dead(Dead),
    /// Give up messages that wait in a held lane: they become dead letters
    ///
    /// Never one that may be in flight: while a relay leads, only those of lanes that are held because a record was
    /// rejected. Without a relay any that wait. The lane flows again with outboxd held release.
    Skip(Skip),
    /// Remove sent rows before their retention is over, some at a time
    ///
    /// Never an unsent row, nor what is left of a held lane.
    Purge(Purge),
    /// List and release what is held: topics that wait for something, and lanes of which a record was rejected
    #[command(subcommand)]
    Held(Held),
    /// Stop publishing, everything or some topics, until resumed or for a while
    ///
    /// Whichever relay leads obeys, over restarts and takeovers. What waits is kept in the table, and published in order
    /// afterwards; what was handed to the Kafka client before is still delivered. Without --topic dead letters wait, too.
    Pause(Pause),
    /// Publish again what was paused
    Resume(Resume),
    /// Ask the relay that leads to hand over to another
    ///
    /// It finishes what is in flight, gives its lease up, and bids for none for 5 s, so that a standby takes over. Where no
    /// other relay runs, it leads again afterwards.
    StepDown(StepDown),
    /// Send again what was sent already
    ///
    /// The leader sends the rows that there are by now, in the order of their ids, with their id and a header outbox-replay,
    /// beside what is new, which goes first. Rows that were not sent yet are not concerned, and those that housekeeping has
    /// removed are gone. It goes on after a change of the leader; some rows may be sent more than once.
    Replay(Replay),
    /// List and cancel what runs for a while: replays
    #[command(subcommand)]
    Operations(Operations),
    /// List what operators changed, the last change first: when, what, how much, why, and who
    AuditLog(AuditLog),
    /// Gather what whoever helps you will ask for, in one archive
    ///
    /// How the outbox stands, what is held, what operators changed, the configuration, the metrics of the relay on this
    /// machine, versions, and the end of a log if you name one. No secret, no key, no payload. What cannot be had is left
    /// out, and the archive says why.
    SupportBundle(SupportBundle),
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
    /// Check all that a relay needs, from outside: a line a check, the worst first, with what to type
    ///
    /// Before a relay runs or beside one: database, tables, rights, brokers and topics, who leads, what moves, what is held,
    /// who holds back vacuum, the retention, clocks and certificates. Changes nothing. Exits 1 when a check failed, 2 when
    /// the configuration cannot be used; warnings and what is unknown exit 0.
    Doctor(Doctor),
    /// Print what a shell has to read to complete commands and flags
    ///
    /// For example: outboxd completions bash > /etc/bash_completion.d/outboxd
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print a man page
    ///
    /// For example: outboxd man > outboxd.1; outboxd man held release > outboxd-held-release.1
    Man {
        /// Of which command, word by word [default: of the whole]
        #[arg(value_name = "COMMAND")]
        words: Vec<String>,
    },
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
    #[arg(long, value_name = "TIME", value_parser = operate::time)]
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

/// `outboxd doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Only what a relay needs to begin: database, schema, rights and brokers, within 5 s; for an init container
    #[arg(long)]
    pub quick: bool,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What it is told about its configuration.
    #[command(flatten)]
    pub settings: Settings,
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
    fn grants_take_exactly_two_roles() {
        assert_eq!(roles("app, relay"), Ok(Roles { application: "app".to_owned(), relay: "relay".to_owned() }));
        for wrong in ["app", "app,", ",relay", "a,b,c"] {
            assert!(roles(wrong).is_err(), "{wrong}");
        }
    }
}
