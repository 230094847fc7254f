//! Whether brokers answer, and what they say of topics: asked from outside, beside a relay or before there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use crate::contract::{BrokersProbe, SinkError};
use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::errors::{self, ErrorClass, unavailable};
use crate::kafka::reading::client::{IsolationLevel, ask_until, config};
use crate::outbox::HoldCause;

/// How long to wait before a question is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How many things the client may have to say.
const THINGS_HEARD: u32 = 100;

/// Asks brokers from outside. Nothing connects before the first question.
pub struct Probe {
    client: Arc<BackgroundDrop<BaseConsumer<Heard>>>,
}

impl Probe {
    /// Of the properties only those count that say how to reach the brokers.
    ///
    /// # Errors
    /// When a client cannot be created like this.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<Self, SinkError> {
        let config = config(properties, IsolationLevel::ReadUncommitted);
        let created: Result<BaseConsumer<Heard>, KafkaError> = config.create_with_context(Heard::default());
        let failed =
            |error| errors::refused("the Kafka client cannot be created", "correct the kafka properties", error);
        Ok(Self { client: Arc::new(created.map_err(failed)?.into()) })
    }

    /// Asks on a thread of its own, since the client's calls block. What the client complained of meanwhile says more than
    /// that nobody answered.
    async fn ask<T: Send + 'static>(
        &self,
        doing: &'static str,
        patience: Duration,
        question: impl Fn(&BaseConsumer<Heard>, Duration) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let client = Arc::clone(&self.client);
        let asking = tokio::task::spawn_blocking(move || {
            let passes =
                |error: &KafkaError| errors::code(error).is_none_or(|code| errors::classify(code) == ErrorClass::Wait);
            let deadline = Instant::now() + patience;
            let answer = ask_until(deadline, RETRY_PAUSE, passes, |patience| question(&client, patience));
            answer.map_err(|error| (error, hear(&client)))
        });
        match asking.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err((_, Some(heard)))) => Err(unavailable(doing, heard)),
            Ok(Err((error, None))) => Err(unavailable(doing, error)),
            Err(cut_off) => Err(unavailable(doing, cut_off)),
        }
    }
}

#[async_trait]
impl BrokersProbe for Probe {
    async fn brokers(&self, patience: Duration) -> Result<usize, SinkError> {
        let count = |client: &BaseConsumer<Heard>, patience: Duration| {
            client.fetch_metadata(None, patience).map(|metadata| metadata.brokers().len())
        };
        self.ask("asking for brokers", patience, count).await
    }

    async fn topics(&self, topics: &[String], patience: Duration) -> Result<Vec<Option<HoldCause>>, SinkError> {
        let mut held = Vec::with_capacity(topics.len());
        for topic in topics {
            let topic = topic.clone();
            let look = move |client: &BaseConsumer<Heard>, patience: Duration| {
                let metadata = client.fetch_metadata(Some(&topic), patience)?;
                let error =
                    metadata.topics().iter().find(|found| found.name() == topic).and_then(|found| found.error());
                match error.map(RDKafkaErrorCode::from) {
                    None => Ok(None),
                    Some(code) => cause(code).map(Some).ok_or(KafkaError::MetadataFetch(code)),
                }
            };
            held.push(self.ask("asking for a topic", patience, look).await?);
        }
        Ok(held)
    }
}

/// What the client complained of last. It says so only while it is polled, a thing at a time.
fn hear(client: &BaseConsumer<Heard>) -> Option<String> {
    for _ in 0..THINGS_HEARD {
        let _nothing_is_read = client.poll(Duration::ZERO);
    }
    client.context().last()
}

/// Why records to a topic would be held of which a broker says this.
fn cause(code: RDKafkaErrorCode) -> Option<HoldCause> {
    match errors::classify(code) {
        ErrorClass::Hold(cause) => Some(cause),
        // No topic can be called so.
        ErrorClass::Reject(_) => Some(HoldCause::MissingTopic),
        ErrorClass::Wait | ErrorClass::Fatal => None,
    }
}

/// What the client complained of last: a question that nobody answers does not say why. It names brokers and mechanisms,
/// never a password.
#[derive(Debug, Default)]
struct Heard(Mutex<Option<String>>);

impl Heard {
    fn last(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

impl ClientContext for Heard {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if kind == "FAIL" {
            // The client begins with the name of its thread.
            let told = line.split_once("]: ").map_or(line, |(_thread, told)| told);
            *self.0.lock() = Some(told.to_owned());
        }
        tracing::debug!(?level, kind, "Kafka client: {line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "Kafka client");
    }
}

impl ConsumerContext for Heard {}
