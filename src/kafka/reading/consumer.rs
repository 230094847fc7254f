//! Reading a topic back, for audits, tests and the demo: from the beginning, without a group, changing nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka::reading::client::{
    ConsumerError, IsolationLevel, Look, ReadingClient, ask, assignment, config, connect, failed, look,
};

/// How long one look for a record takes at most, so that the end of waiting is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

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

/// Records of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// Where they begin.
    pub start: Start,
    /// The offset below which they end, which the partition has reached.
    pub end: i64,
}

impl Consumer {
    /// A consumer of nothing yet, which connects to nothing yet. Of the properties only those count that say how to
    /// reach the broker, so that a relay's own can be given.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn new(properties: &BTreeMap<String, String>, isolation: IsolationLevel) -> Result<Self, ConsumerError> {
        let inner = connect(&config(properties, isolation)).map_err(failed("creating the client"))?;
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
        let partitions = partitions(&consumer.inner, topic)?;
        let all = assignment(topic, partitions, Offset::Beginning).map_err(failed("choosing where to begin"))?;
        consumer.assign(&all, None)?;
        Ok(consumer)
    }

    /// Turns to records of one partition, and away from all others: far cheaper than another consumer.
    ///
    /// # Errors
    /// When the broker does not tell in time which record is the first since a time.
    pub fn turn_to(&mut self, topic: &str, partition: i32, range: ReadRange) -> Result<(), ConsumerError> {
        let from = match range.start {
            Start::Beginning => Offset::Beginning,
            Start::Offset(offset) | Start::Time(offset) => Offset::Offset(offset),
        };
        let mut one = assignment(topic, [partition], from).map_err(failed("choosing where to begin"))?;
        if let Start::Time(_) = range.start {
            one = ask("looking for where to begin", |patience| {
                let found = self.inner.offsets_for_times(one.clone(), patience)?;
                found.elements().iter().try_for_each(|found| found.error())?;
                Ok(found)
            })?;
        }
        self.assign(&one, Some(range.end))
    }

    fn assign(&mut self, assignment: &TopicPartitionList, end: Option<i64>) -> Result<(), ConsumerError> {
        self.inner.assign(assignment).map_err(failed("assigning partitions"))?;
        self.partitions = assignment.count();
        self.end = end;
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
            let looked = look(&self.inner, left.min(POLL_TIMEOUT), |_passing| false);
            match looked.map_err(failed("waiting for a record"))? {
                Look::Record(message) => {
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
                Look::End(partition) => {
                    self.at_end.insert(partition);
                    if self.is_at_end() {
                        return Ok(None);
                    }
                }
                Look::Nothing => {}
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
    let properties = properties.clone();
    let topic = topic.to_owned();
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

fn partitions(consumer: &ReadingClient, topic: &str) -> Result<Vec<i32>, ConsumerError> {
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
