//! `outboxd trace`: the way of one message, from its row to its records.

use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::admin::messages;
use crate::backends;
use crate::cli;
use crate::commands::configured::{gather, judge};
use crate::commands::letters;
use crate::commands::runtime::block_on;
use crate::config::{Config, Needs};
use crate::contract::{Database, FoundMessage};
use crate::verify::{self, Trace, Wanted};

/// Follows one message.
pub(super) fn trace(arguments: &cli::TraceMessage) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    print!("{}", block_on(follow(arguments, &config))??);
    Ok(ExitCode::SUCCESS)
}

async fn follow(arguments: &cli::TraceMessage, config: &Config) -> anyhow::Result<String> {
    let database = backends::database(&config.outbox.database)?;
    let (found, held) = letters::find(&*database, &arguments.which, arguments.since).await?;
    if found.is_empty() {
        return follow_without_row(arguments, config, &*database).await;
    }
    let mut told = String::new();
    for message in &found {
        let records = match Place::of(message) {
            Some(place) => look(arguments, config, &*database, place).await?,
            None => Trace::default(),
        };
        if arguments.json {
            let mut object = messages::described(message, &held);
            object["trace"] = records.described();
            told.push_str(&format!("{object}\n"));
        } else {
            told.push_str(&messages::story(message, &held));
            told.push_str(&records.to_text());
        }
    }
    Ok(told)
}

/// What was removed since is found in Kafka all the same, by whoever knows its topic and its event.
async fn follow_without_row(
    arguments: &cli::TraceMessage,
    config: &Config,
    database: &dyn Database,
) -> anyhow::Result<String> {
    let (Some(topic), Ok(event_id)) = (&arguments.topic, arguments.which.parse::<Uuid>()) else {
        bail!(
            "no row and no dead letter has that id: it was never committed, or was sent and removed since; \
             by its event id and --topic it is looked for in Kafka alone"
        );
    };
    let place = Place { topic: topic.clone(), partition: None, event_id, written: arguments.since };
    let records = look(arguments, config, database, place).await?;
    Ok(if arguments.json { format!("{}\n", records.described()) } else { records.to_text() })
}

/// Where a message's records may be.
struct Place {
    topic: String,
    partition: Option<i32>,
    event_id: Uuid,
    written: Option<DateTime<Utc>>,
}

impl Place {
    /// `None` for a row without an event id, of which there cannot be a record.
    fn of(message: &FoundMessage) -> Option<Self> {
        let event_id = message.name.event_id?;
        Some(Self { topic: message.topic.clone(), partition: message.partition, event_id, written: message.created_at })
    }
}

async fn look(
    arguments: &cli::TraceMessage,
    config: &Config,
    database: &dyn Database,
    Place { topic, partition, event_id, written }: Place,
) -> anyhow::Result<Trace> {
    let source = match &config.outbox.source {
        Some(source) => source.clone(),
        None => database.source().await?,
    };
    let properties = config.kafka.properties.clone();
    let wanted = Wanted { properties, source, topic, partition, event_id, written, most: arguments.records };
    Ok(verify::trace(wanted).await?)
}
