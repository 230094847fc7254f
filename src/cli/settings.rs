//! Flags that stand for settings.

use std::path::PathBuf;

use clap::Args;

use crate::config::raw::Flag;

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
    /// Where the outbox is: postgres://USER:PASSWORD@HOST/DATABASE, mysql://USER:PASSWORD@HOST/DATABASE or sqlite:FILE [setting: database.url]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The outbox table, NAME or SCHEMA.NAME [setting: outbox.table]
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
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

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((property, value)) if !property.trim().is_empty() => Ok((property.trim().to_owned(), value.to_owned())),
        _ => Err("write PROPERTY=VALUE, for example linger.ms=5".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_may_hold_further_equals_signs() {
        assert_eq!(property("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert!(property("linger.ms").is_err());
        assert!(property("=5").is_err());
    }
}
