//! Topics to try things on.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::contract::SinkError;
use crate::kafka::client_log::ClientLog;
use crate::kafka::errors::unavailable;
use crate::kafka::properties;
use crate::kafka::topics::admin::{create_topics, new_topic, options};

/// How long the brokers may take for one thing.
const SCRATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Topics that only their maker uses. [Remove](Self::remove) them when done.
pub struct Scratch {
    client: AdminClient<ClientLog>,
    topics: Vec<String>,
}

impl Scratch {
    /// Creates a topic of so many partitions; a negative replication factor asks for the broker's default. Of the
    /// properties only those count that say how to reach the broker. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When no broker answers, or none may create topics.
    pub async fn create(
        properties: &BTreeMap<String, String>,
        topic: &str,
        partitions: i32,
        replication: i32,
    ) -> Result<Self, SinkError> {
        let failed = |error| unavailable("creating a scratch topic", error);
        let config = properties::connection_config(properties);
        let client: AdminClient<ClientLog> = config.create_with_context(ClientLog::default()).map_err(failed)?;
        let new = [new_topic(topic, partitions, replication)];
        for created in create_topics(&client, &new, SCRATCH_TIMEOUT).await.map_err(failed)? {
            created.map_err(|(_, code)| failed(KafkaError::AdminOp(code)))?;
        }
        Ok(Self { client, topics: vec![topic.to_owned()] })
    }

    /// Takes another topic along when these are removed, should it be there by then.
    pub fn along(&mut self, topic: &str) {
        self.topics.push(topic.to_owned());
    }

    /// Deletes the topics.
    ///
    /// # Errors
    /// When no broker answers, or does not allow it.
    pub async fn remove(&self) -> Result<(), SinkError> {
        let failed = |error| unavailable("deleting the scratch topics", error);
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        for deleted in self.client.delete_topics(&topics, &options(SCRATCH_TIMEOUT)).await.map_err(failed)? {
            match deleted {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
            }
        }
        Ok(())
    }
}
