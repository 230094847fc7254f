//! What only an admin client can ask and do: read the settings of topics, and create them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication, TopicResult};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::{Instant, sleep};

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client_log::{ClientLog, Connectivity};
use crate::kafka::config::OnMissingTopic;
use crate::kafka::topics::limits::{TopicLimits, named_limits};

/// How long one question may take, to this client or another.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Topics whose settings one question asks for.
const TOPICS_PER_QUESTION: usize = 100;

/// How long an admin client stays open for the next question: topics in use are asked for more often than that.
const ADMIN_IDLE_TIME: Duration = Duration::from_secs(60);

/// What came of asking for topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creation {
    /// All are there, or will be soon.
    Done,
    /// One of them at least cannot be created.
    Refused,
    /// Missing topics are waited for.
    Unwanted,
}

/// A topic that is to be created; -1 stands for the broker's default.
pub(crate) fn new_topic(name: &str, partitions: i32, replication: i32) -> NewTopic<'_> {
    NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
}

/// How a question is asked whose answer, and what it asks for, may take so long.
pub(crate) fn options(patience: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(patience)).operation_timeout(Some(patience))
}

/// Asks for topics, and says what became of each.
pub(crate) async fn create_topics(
    client: &AdminClient<ClientLog>,
    new: &[NewTopic<'_>],
    patience: Duration,
) -> Result<Vec<TopicResult>, KafkaError> {
    client.create_topics(new, &options(patience)).await
}

/// What needs the admin client: a connection of its own, open while there are questions.
pub(crate) struct Admin {
    config: ClientConfig,
    on_missing_topic: OnMissingTopic,
    connectivity: Arc<Connectivity>,
    client: Arc<Mutex<Option<Open>>>,
    /// Topics of which it was said that they cannot be created.
    said: Mutex<HashSet<String>>,
}

type Client = Arc<BackgroundDrop<AdminClient<ClientLog>>>;

/// An admin client, and when it was last needed.
struct Open {
    client: Client,
    needed: Instant,
}

impl Admin {
    /// An admin client with this configuration; nothing connects yet.
    pub(crate) fn new(config: ClientConfig, on_missing_topic: OnMissingTopic, connectivity: Arc<Connectivity>) -> Self {
        Self { config, on_missing_topic, connectivity, client: Arc::default(), said: Mutex::default() }
    }

    /// Where to note whether Kafka answers.
    pub(crate) fn connectivity(&self) -> &Connectivity {
        &self.connectivity
    }

    fn client(&self) -> Result<Client, KafkaError> {
        let mut open = self.client.lock();
        if let Some(open) = &mut *open {
            open.needed = Instant::now();
            return Ok(Arc::clone(&open.client));
        }
        let mut config = self.config.clone();
        config.set("allow.auto.create.topics", "false");
        // Outages are the producer's to report.
        let client: AdminClient<ClientLog> = config.create_with_context(ClientLog::default())?;
        let client = Arc::new(BackgroundDrop::from(client));
        *open = Some(Open { client: Arc::clone(&client), needed: Instant::now() });
        tokio::spawn(close_unneeded(Arc::downgrade(&self.client)));
        Ok(client)
    }

    /// What topics demand of records, as far as the broker tells.
    pub(crate) async fn topic_limits(&self, topics: &[impl AsRef<str>]) -> HashMap<String, TopicLimits> {
        let options = AdminOptions::new().request_timeout(Some(QUESTION_TIMEOUT));
        let Ok(client) = self.client() else { return HashMap::new() };
        let mut limits = HashMap::with_capacity(topics.len());
        for some in topics.chunks(TOPICS_PER_QUESTION) {
            let asked: Vec<_> = some.iter().map(|topic| ResourceSpecifier::Topic(topic.as_ref())).collect();
            let described = client.describe_configs(&asked, &options).await.unwrap_or_else(|error| {
                tracing::debug!(topics = some.len(), error = %error, "the topics' settings are not readable");
                Vec::new()
            });
            limits.extend(described.into_iter().filter_map(|resource| named_limits(&resource.ok()?)));
        }
        limits
    }

    /// Creates topics that are missing, if that is wanted.
    pub(crate) async fn create_missing(&self, topics: &[impl AsRef<str>]) -> Result<Creation, KafkaError> {
        let OnMissingTopic::Create { partitions, replication } = self.on_missing_topic else {
            return Ok(Creation::Unwanted);
        };
        let new: Vec<_> = topics.iter().map(|topic| new_topic(topic.as_ref(), partitions, replication)).collect();
        self.create(&new).await
    }

    /// Creates topics. Of each that cannot be created it is said once.
    pub(crate) async fn create(&self, new: &[NewTopic<'_>]) -> Result<Creation, KafkaError> {
        let Some(partitions) = new.first().map(|new| new.num_partitions) else { return Ok(Creation::Done) };
        let client = self.client()?;
        let mut creation = Creation::Done;
        for result in create_topics(&client, new, QUESTION_TIMEOUT).await? {
            match result {
                Ok(topic) => tracing::info!(topic, partitions, "created the missing topic"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) if is_passing(code) => return Err(KafkaError::AdminOp(code)),
                Err((topic, code)) => {
                    creation = Creation::Refused;
                    let mut said = self.said.lock();
                    if said.insert(topic.clone()) {
                        tracing::warn!(topic, partitions, error = %code, "the missing topic cannot be created; create it, or let the relay do so");
                    }
                }
            }
        }
        Ok(creation)
    }
}

/// Whether creating a topic may succeed when it is tried again, with nothing changed by an operator.
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

/// Closes an admin client that was not needed for a while: its threads are a fifth of what an idle relay costs.
async fn close_unneeded(client: Weak<Mutex<Option<Open>>>) {
    loop {
        sleep(ADMIN_IDLE_TIME).await;
        let Some(client) = client.upgrade() else { return };
        let is_needed = |open: &Open| open.needed.elapsed() < ADMIN_IDLE_TIME;
        let mut open = client.lock();
        if !open.as_ref().is_some_and(is_needed) {
            *open = None;
            return;
        }
    }
}
