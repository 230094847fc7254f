//! The only place that knows which technologies there are: a database's URL becomes a store, and the
//! configuration of Kafka becomes a sink.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::contract::{
    BoxFuture, BrokersProbe, Contact, Database, DatabaseKind, DatabaseSettings, Roles, Sink, SinkError, StoreError,
    Tail,
};
use crate::kafka;
#[cfg(feature = "otel")]
use crate::otel;
use crate::secret::Secret;
use crate::{mysql, postgres, sqlite};

/// Every kind of database; the first where no URL tells.
const DATABASES: [&DatabaseKind; 3] = [&postgres::DATABASE, &mysql::DATABASE, &sqlite::DATABASE];

/// The outbox to which these settings lead; connects to nothing.
///
/// # Errors
/// When no outbox is to be had at this URL.
pub fn database(settings: &DatabaseSettings) -> Result<Arc<dyn Database>, StoreError> {
    (kind(&settings.url)?.open)(settings.clone())
}

/// The SQL that makes the tables, and the grants if roles are named. An empty URL asks for PostgreSQL's.
///
/// # Errors
/// When the URL leads nowhere, or roles are named for a database that has none.
pub fn migration_sql(settings: &DatabaseSettings, roles: Option<&Roles>) -> Result<String, StoreError> {
    let kind = if settings.url.expose().is_empty() { DATABASES[0] } else { kind(&settings.url)? };
    (kind.migration_sql)(&settings.table, roles)
}

fn kind(url: &Secret) -> Result<&'static DatabaseKind, StoreError> {
    let scheme = url.expose().split_once(':').map_or("", |(scheme, _)| scheme);
    if let Some(kind) = DATABASES.into_iter().find(|kind| kind.schemes.contains(&scheme)) {
        return Ok(kind);
    }
    let problem = "database.url names no database that outboxd knows".to_owned();
    let repair = format!("use {}", DATABASES.map(|kind| kind.url_form).join(" or "));
    Err(StoreError::Unusable { problem, repair, source: None })
}

/// The sink that the configuration names; connects to nothing. `source` is what its records say they are from, and
/// what a sink that fences is called by, so that there is one of them.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn sink(config: &Config, source: String) -> Result<Box<dyn Sink>, SinkError> {
    sink_and_contact(config, source).map(|(sink, _contact)| sink)
}

/// A sink, and what its client comes to know at its work.
pub type SinkAndContact = (Box<dyn Sink>, Arc<dyn Contact>);

/// As [`sink`], with what its client comes to know at its work.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn sink_and_contact(config: &Config, source: String) -> Result<SinkAndContact, SinkError> {
    let (delivery, topics) = (config.relay.delivery, config.outbox.topics.clone());
    let sink = kafka::Sink::new(kafka::Settings { delivery, topics, ..plain(config, source) })?;
    let contact = sink.contact();
    Ok((Box::new(sink), contact))
}

/// What asks the brokers from outside; connects to nothing yet.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn brokers_probe(config: &Config) -> Result<Box<dyn BrokersProbe>, SinkError> {
    Ok(Box::new(kafka::Probe::new(&config.kafka.properties)?))
}

/// What hears a topic from its end on, as soon as a broker answers.
pub fn tail(config: &Config, topic: &str) -> Box<dyn Tail> {
    Box::new(kafka::Tail::open(&config.kafka.properties, topic))
}

/// The sink of dead letters, which may be published again and need no fence. The operator has named their topic.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn dead_letter_sink(config: &Config, source: String) -> Result<Box<dyn Sink>, SinkError> {
    Ok(Box::new(kafka::Sink::new(plain(config, source))?))
}

/// The sink of rows that are sent again, which may be published again and need no fence.
///
/// # Errors
/// When the client cannot be set up like this.
pub fn replay_sink(config: &Config, source: String) -> Result<Box<dyn Sink>, SinkError> {
    let topics = config.outbox.topics.clone();
    Ok(Box::new(kafka::Sink::new(kafka::Settings { replays: true, topics, ..plain(config, source) })?))
}

/// What puts something around a sink.
pub type Around = Box<dyn Fn(Box<dyn Sink>) -> Box<dyn Sink> + Send>;

/// Traces of what is published.
pub struct Traces {
    /// Puts spans around what a sink is given.
    pub around: Around,
    /// Sends the spans until it is told to stop, and what is left for a moment more.
    pub send: Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send>,
}

/// The traces that are wanted, if any are; connects to nothing. `outbox` is what they call the outbox.
///
/// # Errors
/// When they cannot be sent as the configuration, or a variable of OpenTelemetry, has it.
#[cfg(feature = "otel")]
pub fn traces(config: &Config, outbox: &str) -> Result<Option<Traces>, SinkError> {
    let Some(settings) = otel::Settings::read(&config.otel.endpoint, &|name| std::env::var(name).ok())? else {
        return Ok(None);
    };
    let (traces, export) = otel::Traces::new(&settings, outbox, &config.relay.holder)?;
    Ok(Some(Traces {
        around: Box::new(move |sink| traces.around(sink, "kafka")),
        send: Box::new(|stop| Box::pin(export.run(stop))),
    }))
}

/// None: this is built without them.
///
/// # Errors
/// Never.
#[cfg(not(feature = "otel"))]
pub fn traces(_config: &Config, _outbox: &str) -> Result<Option<Traces>, SinkError> {
    Ok(None)
}

fn plain(config: &Config, source: String) -> kafka::Settings {
    kafka::Settings {
        on_missing_topic: config.kafka.on_missing_topic,
        oldest: config.kafka.oldest,
        progress_topic: config.kafka.progress_topic.clone(),
        ..kafka::Settings::new(config.kafka.properties.clone(), source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_database_by_its_scheme_and_is_never_in_the_error() {
        let schemes = |url| match kind(&Secret::new(url)) {
            Ok(kind) => Ok(kind.schemes),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(schemes("postgres://a:hunter2@b/c"), Ok(postgres::DATABASE.schemes));
        assert_eq!(schemes("postgresql://b/c"), Ok(postgres::DATABASE.schemes));
        assert_eq!(schemes("sqlite:a.db"), Ok(sqlite::DATABASE.schemes));
        assert_eq!(schemes("mysql://a:hunter2@b/c"), Ok(mysql::DATABASE.schemes));
        assert_eq!(schemes("mariadb://b/c"), Ok(mysql::DATABASE.schemes));
        for url in ["oracle://a:hunter2@b", "hunter2", "hunter2:b"] {
            let unknown = schemes(url).expect_err("unknown");
            assert!(!unknown.contains("hunter2"), "{unknown}");
            let forms =
                "use postgres://USER:PASSWORD@HOST/DATABASE or mysql://USER:PASSWORD@HOST/DATABASE or sqlite:FILE";
            assert!(unknown.ends_with(forms), "{unknown}");
        }
    }
}
