//! The only place that knows which technologies there are: a database's URL becomes a store, and the
//! configuration of Kafka becomes a sink.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::config::Config;
use crate::contract::{Audit, Sink, SinkError, Store, StoreError};
use crate::kafka;
use crate::outbox::{Message, Table};
use crate::secret::Secret;
use crate::{postgres, sqlite};

/// Where a database's URL leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    Postgres,
    Sqlite,
}

/// The two roles that suffice: the application's, which inserts, and the relay's.
#[derive(Debug, Clone, Copy)]
pub struct Roles<'a> {
    /// Inserts.
    pub application: &'a str,
    /// Selects, updates and deletes.
    pub relay: &'a str,
}

/// A store, and what is asked of it before the relay gets it.
#[derive(Debug, Clone)]
pub enum Backend {
    /// PostgreSQL.
    Postgres(Arc<postgres::Store>),
    /// SQLite.
    Sqlite(Arc<sqlite::Store>),
}

impl Backend {
    /// The store that the configuration names; connects to nothing.
    ///
    /// # Errors
    /// When no store is to be had at this URL.
    pub fn of(config: &Config) -> Result<Self, StoreError> {
        let outbox = &config.outbox;
        let (table, settle) = (outbox.table.clone(), outbox.settle);
        Ok(match database(&outbox.url)? {
            Database::Postgres => {
                let (url, notify, may_prepare) = (outbox.url.clone(), outbox.notify, outbox.may_prepare);
                let settings = postgres::Settings { url, table, settle, notify, may_prepare };
                Backend::Postgres(Arc::new(postgres::Store::new(settings)?))
            }
            Database::Sqlite => {
                let settings = sqlite::Settings { url: outbox.url.expose().to_owned(), table, settle };
                Backend::Sqlite(Arc::new(sqlite::Store::new(settings)?))
            }
        })
    }

    /// The store, as the relay knows it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Backend::Postgres(store) => Arc::<postgres::Store>::clone(store),
            Backend::Sqlite(store) => Arc::<sqlite::Store>::clone(store),
        }
    }

    /// Opens an audit of the rows that were written since a time.
    ///
    /// # Errors
    /// When the database does not answer, or the tables are not what is needed.
    pub async fn audit(&self, since: Option<DateTime<Utc>>) -> Result<Box<dyn Audit>, StoreError> {
        match self {
            Backend::Postgres(store) => store.audit(since).await,
            Backend::Sqlite(store) => store.audit(since).await,
        }
    }

    /// Checks that the tables are what this version needs, and that the database lets the relay do what it has to.
    /// Returns what to be warned of.
    ///
    /// # Errors
    /// With the repair when they are not, or it does not.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Backend::Postgres(store) => store.check().await,
            Backend::Sqlite(store) => store.check().await.map(|()| Vec::new()),
        }
    }

    /// Checks that the relay can work on this database, and returns what to be warned of.
    ///
    /// # Errors
    /// With the repair for what cannot work; transient while the database is away.
    pub async fn preflight(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Backend::Postgres(store) => store.preflight().await,
            Backend::Sqlite(store) => store.preflight().await,
        }
    }

    /// What the outbox is called where the configuration does not say.
    ///
    /// # Errors
    /// While the database is away.
    pub async fn source(&self) -> Result<String, StoreError> {
        match self {
            Backend::Postgres(store) => store.source().await,
            Backend::Sqlite(store) => store.source().await,
        }
    }
}

/// An outbox to try things on, in the database that the configuration names. [Remove](Self::remove) it when done.
#[derive(Debug)]
pub enum Scratch {
    /// A schema of its own.
    Postgres(postgres::scratch::Scratch),
    /// A file of its own.
    Sqlite(sqlite::scratch::Scratch),
}

/// An application that writes to it.
#[derive(Debug)]
pub enum Writer {
    /// To PostgreSQL.
    Postgres(postgres::scratch::Writer),
    /// To SQLite.
    Sqlite(sqlite::scratch::Writer),
}

impl Scratch {
    /// Makes it, under a name that is a word and not in use yet.
    ///
    /// # Errors
    /// When the database is away, or does not allow it.
    pub async fn make(config: &Config, name: &str) -> Result<Self, StoreError> {
        let url = &config.outbox.url;
        Ok(match database(url)? {
            Database::Postgres => Self::Postgres(postgres::scratch::Scratch::make(url, name).await?),
            Database::Sqlite => Self::Sqlite(sqlite::scratch::Scratch::make(url.expose(), name).await?),
        })
    }

    /// Makes it anew, with nothing in it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn renew(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(scratch) => scratch.renew().await,
            Self::Sqlite(scratch) => scratch.renew().await,
        }
    }

    /// Makes a configuration one of this outbox.
    pub fn configure(&self, config: &mut Config) {
        match self {
            Self::Postgres(scratch) => config.outbox.table = scratch.table().clone(),
            Self::Sqlite(scratch) => {
                config.outbox.url = Secret::new(scratch.url());
                config.outbox.table = Table::default();
            }
        }
    }

    /// Opens a connection that writes to it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn writer(&self) -> Result<Writer, StoreError> {
        Ok(match self {
            Self::Postgres(scratch) => Writer::Postgres(scratch.writer().await?),
            Self::Sqlite(scratch) => Writer::Sqlite(scratch.writer().await?),
        })
    }

    /// Leaves the table as the database's own housekeeping would.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn settle_down(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(scratch) => scratch.settle_down().await,
            Self::Sqlite(_) => Ok(()),
        }
    }

    /// Removes it, with all that is in it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn remove(&self) -> anyhow::Result<()> {
        match self {
            Self::Postgres(scratch) => Ok(scratch.remove().await?),
            Self::Sqlite(scratch) => Ok(scratch.remove()?),
        }
    }
}

impl Writer {
    /// Writes messages in one transaction, and commits.
    ///
    /// # Errors
    /// When the database refuses; nothing is committed then.
    pub async fn write(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        match self {
            Self::Postgres(writer) => Ok(writer.write(messages).await?),
            Self::Sqlite(writer) => Ok(writer.write(messages).await?),
        }
    }
}

/// The sink that the configuration names; connects to nothing. `source` is what its records say they are from, and
/// what a sink that fences is called by, so that there is one of them.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn sink(config: &Config, source: String) -> Result<Box<dyn Sink>, SinkError> {
    let (delivery, topics) = (config.relay.delivery, config.outbox.topics.clone());
    Ok(Box::new(kafka::Sink::new(kafka::Settings { delivery, topics, ..plain(config, source) })?))
}

/// The sink of dead letters, which may be published again and need no fence. The operator has named their topic.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn dead_letter_sink(config: &Config, source: String) -> Result<Box<dyn Sink>, SinkError> {
    Ok(Box::new(kafka::Sink::new(plain(config, source))?))
}

fn plain(config: &Config, source: String) -> kafka::Settings {
    kafka::Settings {
        on_missing_topic: config.kafka.on_missing_topic,
        oldest: config.kafka.oldest,
        progress_topic: config.kafka.progress_topic.clone(),
        ..kafka::Settings::new(config.kafka.properties.clone(), source)
    }
}

/// The SQL that makes the tables, and the grants if roles are named. An empty URL asks for PostgreSQL's.
///
/// # Errors
/// When the URL leads nowhere, or roles are named for a database that has none.
pub fn migration_sql(url: &Secret, table: &Table, roles: Option<Roles<'_>>) -> anyhow::Result<String> {
    let database = if url.expose().is_empty() { Database::Postgres } else { database(url)? };
    match (database, roles) {
        (Database::Postgres, None) => Ok(postgres::migration_sql(table)),
        (Database::Postgres, Some(Roles { application, relay })) => {
            Ok(postgres::migration_sql(table) + "\n" + &postgres::grants_sql(table, application, relay)?)
        }
        (Database::Sqlite, None) => Ok(sqlite::migration_sql(table)),
        (Database::Sqlite, Some(_)) => Err(no_roles().into()),
    }
}

/// Creates or upgrades the tables, grants the roles what they need if any are named, and says what was done.
///
/// # Errors
/// When the database is away, does not allow it, or has no roles.
pub async fn migrate(url: &Secret, table: &Table, roles: Option<Roles<'_>>) -> anyhow::Result<String> {
    let applied = match (database(url)?, roles) {
        (Database::Postgres, None) => postgres::migrate(url, table).await?.applied,
        (Database::Postgres, Some(Roles { application, relay })) => {
            let migrated = postgres::migrate(url, table).await?;
            postgres::grant(url, table, application, relay).await?;
            migrated.applied
        }
        (Database::Sqlite, None) => sqlite::migrate(url.expose(), table).await?.applied,
        (Database::Sqlite, Some(_)) => return Err(no_roles().into()),
    };
    let granted = roles.map_or_else(String::new, |Roles { application, relay }| {
        format!("\ngranted {application} and {relay} what they need")
    });
    Ok(match applied.is_empty() {
        true => format!("the tables of {table} were up to date{granted}"),
        false => format!("the tables of {table} are up to date; applied {}{granted}", applied.join(", ")),
    })
}

fn database(url: &Secret) -> Result<Database, StoreError> {
    let scheme = url.expose().split_once(':').map_or("", |(scheme, _)| scheme);
    let problem = match scheme {
        "postgres" | "postgresql" => return Ok(Database::Postgres),
        "sqlite" => return Ok(Database::Sqlite),
        "mysql" | "mariadb" => format!("{scheme}: comes with a later release"),
        _ => "database.url names no database that outboxd knows".to_owned(),
    };
    let repair = "use postgres://USER:PASSWORD@HOST/DATABASE or sqlite:FILE".to_owned();
    Err(StoreError::Unusable { problem, repair, source: None })
}

fn no_roles() -> StoreError {
    StoreError::Unusable {
        problem: "SQLite has no roles to grant anything to".to_owned(),
        repair: "leave --grants out".to_owned(),
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_database_by_its_scheme_and_is_never_in_the_error() {
        let of = |url| database(&Secret::new(url)).map_err(|error| error.to_string());
        assert_eq!(of("postgres://a:hunter2@b/c"), Ok(Database::Postgres));
        assert_eq!(of("postgresql://b/c"), Ok(Database::Postgres));
        assert_eq!(of("sqlite:a.db"), Ok(Database::Sqlite));
        assert!(of("mysql://a:hunter2@b/c").expect_err("not yet").starts_with("mysql: comes with a later release"));
        for url in ["oracle://a:hunter2@b", "hunter2", "hunter2:b"] {
            assert!(!of(url).expect_err("unknown").contains("hunter2"), "{url}");
        }
    }
}
