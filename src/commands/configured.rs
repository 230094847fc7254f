//! From what a command was told to what it works on.

use std::sync::Arc;

use crate::backends;
use crate::cli::{DatabaseSettings, Settings};
use crate::config::raw::Raw;
use crate::config::{self, Config, Needs};
use crate::contract::Database;
use crate::observe::chain;

/// The database that a command works on, besides a relay.
pub(super) fn database(settings: &DatabaseSettings) -> anyhow::Result<Arc<dyn Database>> {
    let config = judge(&gather_database(settings), Needs::Database)?;
    Ok(backends::database(&config.outbox.database)?)
}

/// Judges the configuration, and whether its URL leads to a database.
pub(super) fn judge(raw: &Raw, needs: Needs) -> anyhow::Result<Config> {
    let config = Config::judge(raw, needs)?;
    if !config.outbox.database.url.expose().is_empty() {
        backends::database(&config.outbox.database).map_err(|error| raw.complaint("database.url", chain(&error)))?;
    }
    Ok(config)
}

/// The layers of the configuration, for a command that needs all of it.
pub(super) fn gather(settings: &Settings) -> Raw {
    config::gather(settings.database.config.clone(), settings.flags())
}

/// The same for a command that needs a database only.
pub(super) fn gather_database(settings: &DatabaseSettings) -> Raw {
    config::gather(settings.config.clone(), settings.flags())
}
