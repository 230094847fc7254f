//! Questions to the broker about topics: does it exist, how many partitions, how large may a batch be.
//!
//! A question never creates a topic, whatever the broker's `auto.create.topics.enable` says: the client asks with
//! `allow.auto.create.topics=false`, always for one topic by name (asked for "the local ones" it would allow it).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::kafka::client_log::{ClientLog, Reach};
use crate::kafka::config::OnMissingTopic;
use crate::kafka::errors::{self, Verdict};
use crate::kafka::producer::Handle;
use crate::outbox::HoldCause;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a topic that was just created is asked for before it is held like a missing one.
const CREATED_ASKS: usize = 10;

/// What the broker says about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It exists.
    Known {
        /// Its number of partitions.
        partitions: i32,
        /// What its settings say about records, where we may know it.
        terms: Terms,
    },
    /// Its records must wait.
    Held(HoldCause),
    /// No topic can have this name.
    Impossible,
}

/// What a topic demands of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Its `max.message.bytes`, where the broker tells. Where not, the broker is the judge.
    pub(crate) limit: Option<usize>,
    /// Whether it is compacted, so that every record needs a key; where the broker tells.
    pub(crate) compacted: Option<bool>,
}

/// Asks about topics, through each of the producer's own clients, so that they know them too.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) clients: Vec<Handle>,
    pub(crate) admin: Arc<Admin>,
}

impl Asker {
    /// Asks once, and creates the topic if it is missing and that is wanted.
    ///
    /// # Errors
    /// When the broker cannot tell right now.
    pub(crate) async fn ask(&self, topic: &str) -> Result<Answer, KafkaError> {
        let answer = self.look(topic).await?;
        self.admin.reach.answered();
        match (answer, self.admin.on_missing_topic) {
            (Answer::Held(HoldCause::MissingTopic), OnMissingTopic::Create { partitions, replication }) => {
                if !self.admin.create(&NewTopic::new(topic, partitions, TopicReplication::Fixed(replication))).await? {
                    return Ok(answer);
                }
                self.look_again(topic).await
            }
            _ => Ok(answer),
        }
    }

    /// Asks until there is an answer, for as long as the producer lives.
    pub(crate) async fn ask_patiently(&self, topic: &str) -> Answer {
        let mut backoff = Backoff::default();
        loop {
            match self.ask(topic).await {
                Ok(answer) => return answer,
                Err(error) => self.admin.reach.unanswered(&error),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Brokers learn of a new topic one after the other.
    pub(crate) async fn look_again(&self, topic: &str) -> Result<Answer, KafkaError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 1..CREATED_ASKS {
            match self.look(topic).await {
                Ok(answer @ Answer::Known { .. }) => return Ok(answer),
                Ok(_) | Err(_) => sleep(backoff.next_wait()).await,
            }
        }
        self.look(topic).await
    }

    pub(crate) async fn look(&self, topic: &str) -> Result<Answer, KafkaError> {
        match self.partitions(topic).await {
            Ok(partitions) => Ok(Answer::Known { partitions, terms: self.admin.terms(topic).await }),
            Err(error) => match errors::code(&error).map(errors::verdict) {
                Some(Verdict::Hold(cause)) => Ok(Answer::Held(cause)),
                Some(Verdict::Reject(_)) => Ok(Answer::Impossible),
                _ => Err(error),
            },
        }
    }

    /// The number of partitions that all clients know of. Their calls block, so they have a thread to themselves.
    async fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let (clients, topic) = (self.clients.clone(), topic.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let mut known = i32::MAX;
            for client in &clients {
                known = known.min(partitions_by(client, &topic)?);
            }
            Ok(known)
        });
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// The number of partitions that a client is told of. Blocks.
fn partitions_by(client: &Handle, topic: &str) -> Result<i32, KafkaError> {
    let metadata = client.client().fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let found = found.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))?;
    match found.error() {
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        // A topic in the making.
        None if found.partitions().is_empty() => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)),
        None => Ok(i32::try_from(found.partitions().len()).expect("Kafka counts partitions in 32 bits")),
    }
}

/// What needs the admin client: a connection of its own, opened at the first question.
pub(crate) struct Admin {
    config: ClientConfig,
    on_missing_topic: OnMissingTopic,
    client: Mutex<Option<Arc<AdminClient<ClientLog>>>>,
    /// Topics of which it was said that they cannot be created.
    said: Mutex<HashSet<String>>,
    reach: Arc<Reach>,
}

impl Admin {
    /// An admin client with this configuration; nothing connects yet.
    pub(crate) fn new(config: ClientConfig, on_missing_topic: OnMissingTopic, reach: Arc<Reach>) -> Self {
        Self { config, on_missing_topic, client: Mutex::default(), said: Mutex::default(), reach }
    }

    fn client(&self) -> Result<Arc<AdminClient<ClientLog>>, KafkaError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(Arc::clone(client));
        }
        let mut config = self.config.clone();
        config.set("allow.auto.create.topics", "false");
        // Outages are the producer's to report.
        let made = Arc::new(config.create_with_context(ClientLog::default())?);
        Ok(Arc::clone(client.insert(made)))
    }

    /// What the topic demands of records, as far as the broker tells.
    async fn terms(&self, topic: &str) -> Terms {
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let Ok(client) = self.client() else { return Terms::default() };
        let described = client.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
        let described = described.map(|resources| resources.into_iter().next().and_then(Result::ok));
        let settings = match described {
            Ok(settings) => settings,
            Err(error) => {
                tracing::debug!(topic, error = %error, "the topic's settings are not readable");
                None
            }
        };
        let value = |name| settings.as_ref()?.get(name)?.value.as_deref();
        Terms {
            limit: value("max.message.bytes").and_then(|limit| limit.parse().ok()),
            compacted: value("cleanup.policy").map(|policy| policy.contains("compact")),
        }
    }

    /// Creates a topic; `false` when that is not possible, which is said once for each topic.
    pub(crate) async fn create(&self, new: &NewTopic<'_>) -> Result<bool, KafkaError> {
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE));
        let client = self.client()?;
        let created = client.create_topics([new], &options).await?;
        let (topic, partitions) = (new.name, new.num_partitions);
        let refused = created.into_iter().find_map(Result::err).map(|(_, code)| code);
        match refused {
            None => {
                tracing::info!(topic, partitions, "created the missing topic");
                Ok(true)
            }
            Some(RDKafkaErrorCode::TopicAlreadyExists) => Ok(true),
            Some(code) if is_passing(code) => Err(KafkaError::AdminOp(code)),
            Some(code) => {
                let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                if said.insert(topic.to_owned()) {
                    tracing::warn!(topic, partitions, error = %code, "the missing topic cannot be created; create it, or let the relay do so");
                }
                Ok(false)
            }
        }
    }
}

/// Whether creating a topic may succeed when it is tried again, with nothing changed by anybody.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NotController
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::ThrottlingQuotaExceeded
    )
}

impl Drop for Admin {
    /// The client's end waits for its threads: not on ours.
    fn drop(&mut self) {
        let client = self.client.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if client.is_some() {
            std::thread::spawn(move || drop(client));
        }
    }
}
