//! How the server is set up.

use std::collections::HashMap;

use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use crate::contract::StoreError;
use crate::mysql::errors::classify;
use crate::mysql::session::ask;

/// Settings of the server that matter here, as far as it has them.
pub(super) struct Settings(HashMap<String, String>);

impl Settings {
    /// Asks the server.
    pub(super) async fn of(conn: &mut MySqlConnection) -> Result<Self, StoreError> {
        let doing = "reading settings";
        let statement = "/* outboxd: settings */ show global variables where variable_name in (
            'auto_increment_increment', 'binlog_format', 'group_replication_single_primary_mode',
            'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'wsrep_on')";
        let rows = ask(doing, sqlx::raw_sql(statement).fetch_all(conn)).await?;
        let read = |row: &MySqlRow| -> Result<(String, String), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
        let settings: Result<_, sqlx::Error> = rows.iter().map(read).collect();
        settings.map(Self).map_err(|error| classify(doing, error))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// What says, if anything does, that others write to the same tables.
    pub(super) fn several_primaries(&self) -> Option<&'static str> {
        if self.is("wsrep_on", "ON") {
            Some("Galera (wsrep_on)")
        } else if self.is("group_replication_single_primary_mode", "OFF") {
            Some("Group Replication with several primaries")
        } else if self.get("auto_increment_increment").is_some_and(|value| value != "1") {
            Some("auto_increment_increment above 1")
        } else {
            None
        }
    }

    /// As a server would tell these.
    #[cfg(test)]
    pub(super) fn told(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_servers_are_told_by_their_settings() {
        let tells = |name: &str, value: &str| Settings::told(&[(name, value)]).several_primaries().is_some();
        assert!(tells("wsrep_on", "ON") && tells("group_replication_single_primary_mode", "OFF"));
        assert!(tells("auto_increment_increment", "2"));
        assert!(!tells("wsrep_on", "OFF") && !tells("group_replication_single_primary_mode", "ON"));
        assert!(!tells("auto_increment_increment", "1"));
    }
}
