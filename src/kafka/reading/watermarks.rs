//! How far partitions reach: asked before they are read, so that what comes later is left out.

use std::collections::BTreeMap;

use rdkafka::consumer::Consumer as _;

use crate::kafka::reading::client::{ConsumerError, IsolationLevel, ReadingClient, ask, config, connect, failed};

/// The offsets between which a partition holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The lowest offset that is still there.
    pub low: i64,
    /// Below, every transaction is over: so far `read_committed` consumers see.
    pub last_stable: i64,
    /// One above the highest offset.
    pub high: i64,
}

/// Asks brokers how far partitions reach. Its methods block: call them from a thread that may.
pub struct WatermarkSource {
    committed: ReadingClient,
    uncommitted: ReadingClient,
}

impl WatermarkSource {
    /// Connects to nothing yet. Of the properties only those count that say how to reach the broker.
    ///
    /// # Errors
    /// When a client cannot be created.
    pub fn new(properties: &BTreeMap<String, String>) -> Result<Self, ConsumerError> {
        let client = |isolation| connect(&config(properties, isolation)).map_err(failed("creating the client"));
        Ok(Self {
            committed: client(IsolationLevel::ReadCommitted)?,
            uncommitted: client(IsolationLevel::ReadUncommitted)?,
        })
    }

    /// How far a partition reaches by now.
    ///
    /// # Errors
    /// When the broker does not answer in time.
    pub fn of(&self, topic: &str, partition: i32) -> Result<Watermarks, ConsumerError> {
        let reach = |client: &ReadingClient| {
            ask("asking how far a partition reaches", |patience| client.fetch_watermarks(topic, partition, patience))
        };
        // The end first: the other way round it could be behind what is stable by then.
        let (low, high) = reach(&self.uncommitted)?;
        let (_, last_stable) = reach(&self.committed)?;
        Ok(Watermarks { low, last_stable: last_stable.min(high), high })
    }

    /// The partitions that a topic has by now; none where the broker does not know it.
    ///
    /// # Errors
    /// When the broker does not answer in time.
    pub fn partitions(&self, topic: &str) -> Result<Vec<i32>, ConsumerError> {
        // Asking for all topics cannot make the broker create this one.
        let metadata = ask("asking for topics", |patience| self.uncommitted.fetch_metadata(None, patience))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        Ok(found.into_iter().flat_map(|found| found.partitions()).map(|partition| partition.id()).collect())
    }
}
