//! What a database, and whatever brings records to the brokers, tell of themselves, for the named checks. Facts alone: what is
//! well and what is not is judged elsewhere.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use crate::contract::error::{SinkError, StoreError};
use crate::outbox::HoldCause;

/// What is asked of a database for the named checks, beside a relay at work or before there is one. Nothing here changes
/// anything, every statement is bounded, and none holds up a reader or a writer.
#[async_trait]
pub trait Examine: Send + Sync {
    /// Which server answers, such as "PostgreSQL 18.1".
    ///
    /// # Errors
    /// When none does, or it is not to be used.
    async fn server(&self) -> Result<String, StoreError>;

    /// Whether the tables are what this version needs.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with all that is missing, and the repair.
    async fn schema(&self) -> Result<(), StoreError>;

    /// Whether the database lets the relay do all that it has to, and what else its role may do.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with all that is missing, and the repair; as of [`schema`](Self::schema) where there are no
    /// tables.
    async fn rights(&self) -> Result<Rights, StoreError>;

    /// What speaks against the server as it is set up: what to be warned of.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for what cannot work.
    async fn setup(&self) -> Result<Vec<String>, StoreError>;

    /// How the database keeps the outbox.
    ///
    /// # Errors
    /// When it does not answer, or the tables are not what is needed.
    async fn vitals(&self, question: VitalsQuestion) -> Result<Vitals, StoreError>;
}

/// What the relay's role may do, where it may do all that it has to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// What to be warned of.
    pub warnings: Vec<String>,
    /// What it may do beyond what it needs, in words.
    pub excess: Vec<String>,
    /// The SQL that takes a part of that away, if any does.
    pub repair: Option<String>,
}

/// What is asked of the [`Vitals`].
#[derive(Debug, Clone, Copy)]
pub struct VitalsQuestion {
    /// How long published rows are kept.
    pub retention: Duration,
    /// Whether to tell what a session that holds a snapshot runs: it may name what applications keep secret.
    pub shows_queries: bool,
}

/// How a database keeps an outbox. What a database has no such thing as is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// How its clock stands to that of this host.
    pub clock: Option<ClockDifference>,
    /// Snapshots, which hold back vacuum.
    pub snapshots: Option<Snapshots>,
    /// Vacuum of the outbox's table.
    pub vacuum: Option<Vacuum>,
    /// For how much longer than the retention the longest kept row has been kept, of those that are looked at: the first
    /// thousand. Zero where none is due.
    pub overdue: Duration,
    /// How long ago the checkpoint was stored, by the database's clock; `None` before the first.
    pub checkpoint_age: Option<Duration>,
}

/// The clock of a database beside that of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// How far the database's is ahead; negative where it is behind.
    pub ahead: TimeDelta,
    /// By how much this can be wrong: half of what the question took.
    pub give_or_take: Duration,
}

/// Snapshots, as far as the role may see them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshots {
    /// The oldest.
    pub oldest: Option<Snapshot>,
    /// Sessions of which the role may not see whether they hold one.
    pub hidden: u64,
    /// The role.
    pub role: String,
}

/// A snapshot, and who holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// How old it is.
    pub age: Duration,
    /// Who holds it.
    pub holder: SnapshotHolder,
}

/// Who holds a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotHolder {
    /// A session.
    Session {
        /// Its process id at the server.
        pid: i32,
        /// What its application calls itself; empty where it does not.
        application: String,
        /// As whom it is logged in.
        user: String,
        /// What it is doing, in the server's words.
        state: String,
        /// What it runs, or ran last: a hundred characters at most, and only where that was asked for.
        query: Option<String>,
    },
    /// A transaction that was prepared and not ended.
    Prepared {
        /// By what name it is committed or rolled back.
        gid: String,
        /// Whose it is.
        owner: String,
    },
}

/// Vacuum of a table, by the server's statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vacuum {
    /// The table, as SQL names it.
    pub table: String,
    /// Dead rows, roughly.
    pub dead_rows: u64,
    /// Rows that are alive, roughly.
    pub live_rows: u64,
    /// How long ago it was vacuumed; `None`: never, as far as the statistics reach.
    pub since_last: Option<Duration>,
    /// Whether the server vacuums it by itself.
    pub is_automatic: bool,
}

/// What a sink's client came to know at its work, told without asking any broker.
pub trait Contact: Send + Sync {
    /// Whether the brokers answer, as far as that is known, and else what was said of it.
    fn answers(&self) -> Option<Result<(), String>>;

    /// How often the client was built anew after an error.
    fn rebuilds(&self) -> u64;
}

/// What is asked of brokers from outside. No question creates a topic.
#[async_trait]
pub trait BrokersProbe: Send + Sync {
    /// How many brokers there are, asked for as long as this at most.
    ///
    /// # Errors
    /// When none answers, with what the client said of it.
    async fn brokers(&self, patience: Duration) -> Result<usize, SinkError>;

    /// Why records to each of these topics would be held, as far as a question tells; `None` where they would not be. Asked
    /// for as long as this at most, each.
    ///
    /// # Errors
    /// When no broker answers.
    async fn topics(&self, topics: &[String], patience: Duration) -> Result<Vec<Option<HoldCause>>, SinkError>;
}
