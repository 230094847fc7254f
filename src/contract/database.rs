//! A database as operators and tools meet it: what goes beyond the promises to the relay.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::audit::Audit;
use crate::contract::error::{BoxError, StoreError};
use crate::contract::examine::Examine;
use crate::contract::messages::Messages;
use crate::contract::operate::Operate;
use crate::contract::store::Store;
use crate::outbox::{Message, Notify, PreparedTransactions, Settle, Table};
use crate::secret::Secret;

/// A kind of database, such as PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseKind {
    /// The schemes of its URLs.
    pub schemes: &'static [&'static str],
    /// How its URLs are written, for those who wrote one that leads nowhere.
    pub url_form: &'static str,
    /// Opens an outbox; connects to nothing.
    pub open: fn(DatabaseSettings) -> Result<Arc<dyn Database>, StoreError>,
    /// The SQL that makes the tables, and the grants if roles are named, for people who run their own migrations.
    pub migration_sql: fn(&Table, Option<&Roles>) -> Result<String, StoreError>,
}

/// Where an outbox is and how it is used. What a database has no use for it leaves unread.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// The database's URL, as its kind writes it.
    pub url: Secret,
    /// The outbox table.
    pub table: Table,
    /// How a delivered record is recorded.
    pub settle: Settle,
    /// When writers notify the relay.
    pub notify: Notify,
    /// Whether applications prepare transactions that write to the outbox.
    pub prepared_transactions: PreparedTransactions,
    /// Whether the relay's role writes rows of its own, by [`Enqueue::writer`]. It is warned where it may not.
    pub inserts: bool,
}

impl DatabaseSettings {
    /// Settings for an outbox, the rest as it is by default.
    pub fn new(url: Secret, table: Table, settle: Settle) -> Self {
        let (notify, prepared_transactions) = (Notify::default(), PreparedTransactions::default());
        Self { url, table, settle, notify, prepared_transactions, inserts: false }
    }
}

/// The two roles that suffice.
#[derive(Debug, Clone)]
pub struct Roles {
    /// The application's, which inserts.
    pub application: String,
    /// The relay's, which selects, updates and deletes.
    pub relay: String,
    /// Whether the relay's inserts, too: see [`DatabaseSettings::inserts`].
    pub relay_inserts: bool,
}

/// What a migration did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Migrated {
    /// The names of the migrations that were applied now, in order; none when all had been before.
    pub applied: Vec<String>,
}

/// An outbox in a database: a store for the relay, and what is asked of it besides.
#[async_trait]
pub trait Database: Store + Operate + Messages + Examine + Enqueue + Debug {
    /// Creates or upgrades the tables, and grants the roles what they need if any are named. Safe to repeat, under
    /// several at once, and beside a relay at work.
    ///
    /// # Errors
    /// When the database is away, does not allow it, was migrated by a newer version, or has no roles.
    async fn migrate(&self, roles: Option<&Roles>) -> Result<Migrated, StoreError>;

    /// Judges whether the tables are what this version needs, and whether the database lets the relay do what it has to,
    /// with these settings. Changes nothing. Returns what to be warned of.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] with all that is missing, and the repair.
    async fn check(&self) -> Result<Vec<String>, StoreError>;

    /// Judges whether the relay can work on this database: all that [`check`](Self::check) judges, and what speaks
    /// against the server as it is set up. Returns what to be warned of.
    ///
    /// # Errors
    /// With the repair for what cannot work; transient while the database is away.
    async fn preflight(&self) -> Result<Vec<String>, StoreError>;

    /// The database and the table, as the settings name them: what is known while the database is away.
    fn name(&self) -> String;

    /// What the outbox is called where the configuration does not say.
    ///
    /// # Errors
    /// While the database is away.
    async fn source(&self) -> Result<String, StoreError>;

    /// Opens an audit of the rows that were written since a time.
    ///
    /// # Errors
    /// When the database does not answer, or the tables are not what is needed.
    async fn audit(&self, since: Option<DateTime<Utc>>) -> Result<Box<dyn Audit>, StoreError>;

    /// Makes an outbox to try things on, beside this one, under a name that is a word and not in use yet.
    ///
    /// # Errors
    /// When the database is away, or does not allow it.
    async fn scratch(&self, name: &str) -> Result<Box<dyn Scratch>, StoreError>;
}

/// Writing to an outbox, as an application does.
#[async_trait]
pub trait Enqueue: Send + Sync {
    /// Opens a connection that writes to it.
    ///
    /// # Errors
    /// When the database is away, or does not let the role write, with the repair.
    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError>;
}

/// An outbox that only its maker uses. [Remove](Self::remove) it when done.
#[async_trait]
pub trait Scratch: Debug + Send + Sync {
    /// Makes settings lead to this outbox.
    fn configure(&self, settings: &mut DatabaseSettings);

    /// Makes it anew, with nothing in it.
    ///
    /// # Errors
    /// When the database is away.
    async fn renew(&self) -> Result<(), StoreError>;

    /// Opens a connection that writes to it.
    ///
    /// # Errors
    /// When the database is away.
    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError>;

    /// Leaves the table as the database's own housekeeping would.
    ///
    /// # Errors
    /// When the database is away.
    async fn settle_down(&self) -> Result<(), StoreError>;

    /// Removes it, with all that is in it.
    ///
    /// # Errors
    /// When the database is away.
    async fn remove(&self) -> Result<(), StoreError>;
}

/// An application that writes to an outbox.
#[async_trait]
pub trait Writer: Send {
    /// Writes messages in one transaction, and commits.
    ///
    /// # Errors
    /// When the database refuses; nothing is committed then.
    async fn write(&mut self, messages: &[Message]) -> Result<(), BoxError>;
}
