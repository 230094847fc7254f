//! Reading a topic back, for audits, tests and the demo: from the beginning, without a group, changing nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client_log::ClientLog;
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::properties;

/// How long one question about a topic may take, elections and all.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long one look for a record takes at most, so that the end of waiting is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Which records of transactions are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Only those of committed transactions, and those of none.
    #[default]
    ReadCommitted,
    /// All, aborted ones too.
    ReadUncommitted,
}

impl IsolationLevel {
    /// The client's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            IsolationLevel::ReadCommitted => "read_committed",
            IsolationLevel::ReadUncommitted => "read_uncommitted",
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

/// Reads one topic from its beginning, or one partition of many after the other. Its methods block: call them from a
/// thread that may.
pub struct Consumer {
    inner: ReadingClient,
    /// Partitions whose end was seen, and nothing after it.
    at_end: HashSet<i32>,
    partitions: usize,
    /// Where reading the only partition ends, if what comes after is not wanted.
    end: Option<i64>,
}

/// Where reading a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Beginning,
    /// At this offset.
    Offset(i64),
    /// At the first record of this time (milliseconds since 1970) or a later one.
    Time(i64),
}

impl Consumer {
    /// A consumer of nothing yet, which connects to nothing yet. Of the properties only those count that say how to
    /// reach the broker, so that a relay's own can be given.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn new(properties: &BTreeMap<String, String>, isolation: IsolationLevel) -> Result<Self, ConsumerError> {
        let inner = client(properties, isolation)?;
        Ok(Self { inner, at_end: HashSet::new(), partitions: 0, end: None })
    }

    /// Opens all partitions that the topic has by now, from their beginning. See [`new`](Self::new) for the properties.
    ///
    /// # Errors
    /// When the client cannot be created, or the broker does not tell the topic's partitions in time.
    pub fn open(
        properties: &BTreeMap<String, String>,
        topic: &str,
        isolation: IsolationLevel,
    ) -> Result<Self, ConsumerError> {
        let mut consumer = Self::new(properties, isolation)?;
        let mut assignment = TopicPartitionList::new();
        for partition in partitions(&consumer.inner, topic)? {
            assignment
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(failed("choosing where to begin"))?;
        }
        consumer.assign(&assignment, None)?;
        Ok(consumer)
    }

    /// Turns to one partition, up to below an offset that it has reached, and away from all others: far cheaper than
    /// another consumer.
    ///
    /// # Errors
    /// When the broker does not tell in time which record is the first since a time.
    pub fn turn_to(
        &mut self,
        (topic, partition): (&str, i32),
        (start, end): (Start, i64),
    ) -> Result<(), ConsumerError> {
        let mut assignment = TopicPartitionList::new();
        let from = match start {
            Start::Beginning => Offset::Beginning,
            Start::Offset(offset) | Start::Time(offset) => Offset::Offset(offset),
        };
        assignment.add_partition_offset(topic, partition, from).map_err(failed("choosing where to begin"))?;
        if let Start::Time(_) = start {
            assignment = ask("looking for where to begin", |patience| {
                let found = self.inner.offsets_for_times(assignment.clone(), patience)?;
                found.elements().iter().try_for_each(|found| found.error())?;
                Ok(found)
            })?;
        }
        self.assign(&assignment, Some(end))
    }

    fn assign(&mut self, assignment: &TopicPartitionList, end: Option<i64>) -> Result<(), ConsumerError> {
        self.inner.assign(assignment).map_err(failed("assigning partitions"))?;
        (self.partitions, self.end) = (assignment.count(), end);
        self.at_end.clear();
        Ok(())
    }

    /// The next record, waiting for one at most this long, or until all partitions are at their end. Passing errors of
    /// the connection are waited out.
    ///
    /// # Errors
    /// When the client has failed for good.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Consumed>, ConsumerError> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inner.poll(left.min(POLL_TIMEOUT)) {
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
    isolation: IsolationLevel,
) -> Result<Vec<Consumed>, ConsumerError> {
    let (properties, topic) = (properties.clone(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let mut consumer = Consumer::open(&properties, &topic, isolation)?;
        let mut records = Vec::new();
        while !consumer.is_at_end() {
            records.extend(consumer.next(POLL_TIMEOUT)?);
        }
        Ok(records)
    });
    read.await?
}

/// A client that reads.
pub(super) type ReadingClient = BackgroundDrop<BaseConsumer<ClientLog>>;

pub(super) fn client(
    properties: &BTreeMap<String, String>,
    isolation: IsolationLevel,
) -> Result<ReadingClient, ConsumerError> {
    let config = reading(properties, isolation);
    let client: BaseConsumer<ClientLog> =
        config.create_with_context(ClientLog::default()).map_err(failed("creating the client"))?;
    Ok(client.into())
}

/// The configuration of a client that reads what it is told to.
pub(super) fn reading(properties: &BTreeMap<String, String>, isolation: IsolationLevel) -> ClientConfig {
    let mut config = properties::connection_config(properties);
    // No group is joined and nothing is committed; the client wants a name for it all the same.
    config
        .set("group.id", "outboxd-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        // A broker that has nothing new yet answers after this many milliseconds: the end is near then.
        .set("fetch.wait.max.ms", "10")
        // So long does the client wait before it asks for a topic that it meets for the first time.
        .set("topic.metadata.refresh.fast.interval.ms", "10")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", isolation.as_str());
    config
}

fn partitions(consumer: &BaseConsumer<ClientLog>, topic: &str) -> Result<Vec<i32>, ConsumerError> {
    ask("asking for a topic", |patience| {
        let metadata = consumer.fetch_metadata(Some(topic), patience)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.and_then(|found| found.error()) {
            Some(error) => Err(KafkaError::MetadataFetch(error.into())),
            None => Ok(found.into_iter().flat_map(|found| found.partitions()).map(|found| found.id()).collect()),
        }
    })
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

/// Asks brokers until one answers: a partition may be without a leader for a moment, or the one that is asked may have
/// ceased to lead. Blocks. The question is told how long it may take.
pub(super) fn ask<T>(
    doing: &'static str,
    question: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, ConsumerError> {
    let end = Instant::now() + CONSUMER_TIMEOUT;
    loop {
        let error = match question(end.saturating_duration_since(Instant::now())) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let passes = errors::code(&error).is_none_or(|code| errors::classify(code) == ErrorClass::Wait);
        if !passes || Instant::now() + RETRY_PAUSE >= end {
            return Err(failed(doing)(error));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

fn failed(doing: &'static str) -> impl Fn(KafkaError) -> ConsumerError {
    move |source| ConsumerError::Client { doing, source }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn asked_in_vain(times: u32, code: Code) -> (Result<(), ConsumerError>, u32) {
        let asked = Cell::new(0);
        let answer = ask("asking", |_| {
            asked.set(asked.get() + 1);
            if asked.get() > times { Ok(()) } else { Err(KafkaError::MetadataFetch(code)) }
        });
        (answer, asked.get())
    }

    #[test]
    fn an_election_is_waited_out_and_a_refusal_is_told_at_once() {
        let (answer, asked) = asked_in_vain(2, Code::NotLeaderForPartition);
        assert!(answer.is_ok() && asked == 3, "{answer:?} after {asked} questions");
        let (answer, asked) = asked_in_vain(2, Code::TopicAuthorizationFailed);
        assert!(answer.is_err() && asked == 1, "{answer:?} after {asked} questions");
    }
}
