//! What the brokers are asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::checks::{self, Check, CheckName};
use crate::backends;
use crate::config::Config;
use crate::contract::{BrokersProbe, SinkError};
use crate::observe::chain;
use crate::outbox::{Held, HoldCause};

/// Topics that are asked for at most.
const TOPICS_ASKED: usize = 50;

/// How long one of them may take.
const TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// Whether they answered, and whom to ask further if they did.
pub(super) struct Asked {
    pub(super) check: Check,
    probe: Option<Box<dyn BrokersProbe>>,
}

/// Asks whether they answer.
pub(super) async fn ask(config: &Config, deadline: Instant) -> Asked {
    let asked = async {
        let probe = backends::brokers_probe(config)?;
        let brokers = probe.brokers(left(deadline)).await?;
        Ok::<_, SinkError>((probe, brokers))
    };
    match asked.await {
        Ok((probe, brokers)) => Asked { check: checks::brokers(Ok(brokers)), probe: Some(probe) },
        Err(error) => Asked { check: checks::brokers(Err(&error)), probe: None },
    }
}

/// Asks for the topics of which messages wait, the canary's, and those that the configuration names in full. To write to them was tried by
/// the relay alone: what it may not write to is held.
pub(super) async fn topics(
    config: &Config,
    asked: &Asked,
    held: Option<&[Held]>,
    waiting: &[String],
    deadline: Instant,
) -> Check {
    let held = held.unwrap_or_default();
    let named = config.outbox.topics.iter().filter_map(|pattern| pattern.topic().map(str::to_owned));
    let canary = config.canary.iter().map(|canary| canary.topic.clone());
    let mut topics: Vec<String> = named.chain(canary).chain(waiting.iter().cloned()).collect();
    topics.sort();
    topics.dedup();
    topics.truncate(TOPICS_ASKED);
    let Some(probe) = &asked.probe else {
        return match held.is_empty() {
            true => Check::unknown(CheckName::Topics, "the brokers do not answer"),
            false => checks::topics(held.iter(), &[]),
        };
    };
    match probe.topics(&topics, TOPIC_PATIENCE.min(left(deadline))).await {
        Ok(causes) => {
            // A relay that creates topics need not find them.
            let is_created = |cause: &HoldCause| *cause == HoldCause::MissingTopic && config.kafka.creates_topics();
            let causes = causes.into_iter().map(|cause| cause.filter(|cause| !is_created(cause)));
            let asked: Vec<(String, Option<HoldCause>)> = topics.into_iter().zip(causes).collect();
            checks::topics(held.iter(), &asked)
        }
        Err(error) => Check::unknown(CheckName::Topics, chain(&error)),
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
