//! Reading a topic back, for audits, tests and the demo: from the beginning, without a group, changing nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka::client_log::ClientLog;
use crate::kafka::properties;

/// How long one question about a topic may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one look for a record takes at most, so that the end of waiting is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Which records of transactions are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Only those of committed transactions, and those of none.
    #[default]
    ReadCommitted,
    /// All, aborted ones too.
    ReadUncommitted,
}

impl Isolation {
    /// The client's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// A record as the broker holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers in their order: a name, and a value or null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Consumed {
    /// The last header of this name that has a value of UTF-8 text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// Why a topic could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The client or the broker said no.
    #[error("reading from Kafka failed while {doing}")]
    Client {
        /// What was being done.
        doing: &'static str,
        /// What was said.
        #[source]
        source: KafkaError,
    },
    /// The thread that read has panicked, or the runtime is shutting down.
    #[error("reading from Kafka was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

/// Reads one topic from its beginning. Its methods block: call them from a thread that may.
pub struct Consumer {
    inner: BaseConsumer<ClientLog>,
    /// Partitions whose end was seen, and nothing after it.
    at_end: HashSet<i32>,
    partitions: usize,
    /// Where the only partition ended when it was opened, if what comes after is not wanted.
    end: Option<i64>,
}

impl Consumer {
    /// Opens all partitions that the topic has by now. Of the properties only those count that say how to reach
    /// the broker, so that a relay's own can be given.
    ///
    /// # Errors
    /// When the client cannot be created, or the broker does not tell the topic's partitions in time.
    pub fn open(
        properties: &BTreeMap<String, String>,
        topic: &str,
        isolation: Isolation,
    ) -> Result<Self, ConsumerError> {
        let inner = client(properties, isolation)?;
        let mut assignment = TopicPartitionList::new();
        for partition in partitions(&inner, topic)? {
            assignment
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(failed("choosing where to begin"))?;
        }
        inner.assign(&assignment).map_err(failed("assigning partitions"))?;
        Ok(Self { inner, at_end: HashSet::new(), partitions: assignment.count(), end: None })
    }

    /// Opens one partition, from the first record of this time (milliseconds since 1970) or a later one on, up to its
    /// present end. See [`open`](Self::open) for the rest.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_partition(
        properties: &BTreeMap<String, String>,
        (topic, partition): (&str, i32),
        since: Option<i64>,
        isolation: Isolation,
    ) -> Result<Self, ConsumerError> {
        let inner = client(properties, isolation)?;
        let mut assignment = TopicPartitionList::new();
        let from = since.map_or(Offset::Beginning, Offset::Offset);
        assignment.add_partition_offset(topic, partition, from).map_err(failed("choosing where to begin"))?;
        if since.is_some() {
            assignment = inner.offsets_for_times(assignment, PATIENCE).map_err(failed("looking for where to begin"))?;
        }
        let watermarks = inner.fetch_watermarks(topic, partition, PATIENCE);
        let (_, end) = watermarks.map_err(failed("asking for the end of a partition"))?;
        inner.assign(&assignment).map_err(failed("assigning a partition"))?;
        Ok(Self { inner, at_end: HashSet::new(), partitions: 1, end: Some(end) })
    }

    /// The next record, waiting for one at most this long, or until all partitions are at their end. Passing errors of the connection are waited out.
    ///
    /// # Errors
    /// When the client has failed for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Consumed>, ConsumerError> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inner.poll(left.min(LOOK)) {
                Some(Ok(message)) => {
                    let consumed = consumed(&message);
                    drop(message);
                    match self.end {
                        Some(end) if consumed.offset >= end => {
                            self.at_end.insert(consumed.partition);
                            return Ok(None);
                        }
                        Some(end) if consumed.offset + 1 == end => drop(self.at_end.insert(consumed.partition)),
                        _ => drop(self.at_end.remove(&consumed.partition)),
                    }
                    return Ok(Some(consumed));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.at_end.insert(partition);
                    if self.is_at_end() {
                        return Ok(None);
                    }
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    Err(failed("waiting for a record")(error))?
                }
                Some(Err(error)) => tracing::debug!(error = %error, "reading goes on"),
                None => {}
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Whether all partitions were read to what was their end.
    pub fn is_at_end(&self) -> bool {
        self.at_end.len() >= self.partitions
    }
}

/// Reads a topic from its beginning to its current end, in each partition's order.
///
/// # Errors
/// When the topic cannot be read.
pub async fn read_to_end(
    properties: &BTreeMap<String, String>,
    topic: &str,
    isolation: Isolation,
) -> Result<Vec<Consumed>, ConsumerError> {
    let (properties, topic) = (properties.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let mut consumer = Consumer::open(&properties, &topic, isolation)?;
        let mut records = Vec::new();
        while !consumer.is_at_end() {
            records.extend(consumer.next(LOOK)?);
        }
        Ok(records)
    });
    read.await?
}

fn client(
    properties: &BTreeMap<String, String>,
    isolation: Isolation,
) -> Result<BaseConsumer<ClientLog>, ConsumerError> {
    let mut config = properties::connection_config(properties);
    // No group is joined and nothing is committed; the client wants a name for it all the same.
    config
        .set("group.id", "outboxd-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", isolation.as_str());
    config.create_with_context(ClientLog::default()).map_err(failed("creating the client"))
}

/// The partitions that a topic has by now; none where the broker does not know it.
///
/// # Errors
/// When the client cannot be created, or the broker does not answer in time.
pub fn partitions_of(properties: &BTreeMap<String, String>, topic: &str) -> Result<Vec<i32>, ConsumerError> {
    let client = client(properties, Isolation::default())?;
    // Asking for all topics cannot make the broker create this one.
    let metadata = client.fetch_metadata(None, PATIENCE).map_err(failed("asking for topics"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    Ok(found.into_iter().flat_map(|found| found.partitions()).map(|partition| partition.id()).collect())
}

fn partitions(consumer: &BaseConsumer<ClientLog>, topic: &str) -> Result<Vec<i32>, ConsumerError> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(failed("asking for a topic"))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.and_then(|found| found.error()) {
        Some(error) => Err(failed("asking for a topic")(KafkaError::MetadataFetch(error.into()))),
        None => Ok(found.into_iter().flat_map(|found| found.partitions()).map(|partition| partition.id()).collect()),
    }
}

fn consumed(message: &BorrowedMessage<'_>) -> Consumed {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Consumed {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp: message.timestamp().to_millis(),
    }
}

fn failed(doing: &'static str) -> impl Fn(KafkaError) -> ConsumerError {
    move |source| ConsumerError::Client { doing, source }
}
