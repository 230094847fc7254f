//! What the sink is set up with, and the shape of the producer that follows from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::kafka::properties;

/// The client's own default of `batch.size` and `message.max.bytes`.
const MEGABYTE: usize = 1_000_000;

/// The most that the client takes for `message.max.bytes`.
const MESSAGE_LIMIT: usize = 1_000_000_000;

/// What a Kafka sink is set up with.
#[derive(Clone)]
pub struct Settings {
    /// librdkafka's properties, among them `bootstrap.servers`. Those that the promises rest on are forced, see
    /// [`check_properties`](crate::kafka::check_properties).
    pub properties: BTreeMap<String, String>,
    /// What the header `outbox-source` says on every record.
    pub source: String,
    /// What to do about a topic that the broker does not know.
    pub on_missing_topic: OnMissingTopic,
    /// Records that the client holds at most, sent ones included; more wait.
    pub buffer_records: usize,
    /// Bytes of records that the client holds at most; more wait.
    pub buffer_bytes: usize,
    /// How long the oldest unacknowledged submission may be under way before more wait.
    pub oldest: Duration,
}

impl Settings {
    /// Settings with defaults: missing topics are waited for, 100,000 records, 64 MiB or 500 ms of work in the client.
    pub fn new(properties: BTreeMap<String, String>, source: impl Into<String>) -> Self {
        Self {
            properties,
            source: source.into(),
            on_missing_topic: OnMissingTopic::Wait,
            buffer_records: 100_000,
            buffer_bytes: 64 << 20,
            oldest: Duration::from_millis(500),
        }
    }

    /// The client's limit on a record, where the properties set one.
    pub(crate) fn message_limit(&self) -> Option<usize> {
        self.number("message.max.bytes")
    }

    /// Whether batches are compressed, so that a large record may still fit its topic.
    pub(crate) fn compresses(&self) -> bool {
        let codec = self.properties.iter().find(|(key, _)| properties::canonical(key) == "compression.codec");
        codec.is_some_and(|(_, codec)| codec != "none")
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.properties.get(key).and_then(|value| value.parse().ok())
    }

    /// The largest record that any shape of the producer can take.
    pub(crate) fn largest_message(&self) -> usize {
        self.message_limit().unwrap_or(MESSAGE_LIMIT)
    }

    /// The shape of a producer whose topics take batches of `smallest_limit`, and that must take a record of `largest`.
    pub(crate) fn shape(&self, smallest_limit: Option<usize>, largest: usize, alone: bool) -> Shape {
        let batch_size = self.number("batch.size").unwrap_or(MEGABYTE);
        Shape {
            batch_size: smallest_limit.map_or(batch_size, |limit| batch_size.min(limit)),
            message_limit: self.message_limit().unwrap_or_else(|| room_for(largest)),
            alone,
        }
    }

    /// The configuration of a producer of this shape.
    pub(crate) fn producer(&self, shape: Shape) -> ClientConfig {
        let mut config = properties::producer_config(&self.properties);
        config
            .set("batch.size", shape.batch_size.to_string())
            .set("message.max.bytes", shape.message_limit.to_string());
        if shape.alone {
            config.set("batch.num.messages", "1");
        }
        // A queue that cannot hold the largest record would stay full for ever.
        let least = shape.message_limit / 1024 + 1;
        let kilobytes = self.number("queue.buffering.max.kbytes").unwrap_or(self.buffer_bytes / 1024).max(least);
        config.set("queue.buffering.max.kbytes", kilobytes.min(i32::MAX as usize).to_string());
        if config.get("queue.buffering.max.messages").is_none() {
            config.set("queue.buffering.max.messages", self.buffer_records.clamp(1, i32::MAX as usize).to_string());
        }
        config
    }

    /// The configuration of a client that only looks.
    pub(crate) fn looking(&self) -> ClientConfig {
        properties::connection_config(&self.properties)
    }
}

/// A limit for records that takes this one. It grows in steps, so that a producer is seldom built anew for it.
fn room_for(largest: usize) -> usize {
    if largest <= MEGABYTE { MEGABYTE } else { largest.next_power_of_two().min(MESSAGE_LIMIT) }
}

/// Properties may hold passwords: their names are shown, their values are not.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("properties", &self.properties.keys())
            .field("source", &self.source)
            .field("on_missing_topic", &self.on_missing_topic)
            .field("buffer_records", &self.buffer_records)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("oldest", &self.oldest)
            .finish()
    }
}

/// What to do about a topic that the broker does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnMissingTopic {
    /// Hold its records until somebody creates it.
    #[default]
    Wait,
    /// Create it.
    Create {
        /// Its number of partitions; -1 for the broker's default.
        partitions: i32,
        /// On how many brokers each partition is kept; -1 for the broker's default.
        replication: i32,
    },
}

/// What a producer can no longer change once it is built, and what the topics in use ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of a batch at most: no more than the smallest topic limit, since the broker refuses whole batches.
    pub(crate) batch_size: usize,
    /// Bytes of a record at most: follows the largest record that a topic takes.
    pub(crate) message_limit: usize,
    /// Whether every record is sent in a batch of its own, so that what is refused was refused by itself.
    pub(crate) alone: bool,
}

impl Shape {
    /// Whether a producer of this shape does what one of the `wanted` shape would.
    pub(crate) fn serves(&self, wanted: &Shape) -> bool {
        self.batch_size <= wanted.batch_size
            && self.message_limit >= wanted.message_limit
            && (self.alone || !wanted.alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: &[(&str, &str)]) -> Settings {
        let properties = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Settings::new(properties, "shop")
    }

    #[test]
    fn batches_stay_below_the_smallest_topic_and_records_may_be_as_large_as_the_largest() {
        let settings = settings(&[]);
        let usual = settings.shape(None, 0, false);
        assert_eq!((usual.batch_size, usual.message_limit), (MEGABYTE, MEGABYTE));
        let shape = settings.shape(Some(100_000), 5_000_000, false);
        assert_eq!((shape.batch_size, shape.message_limit), (100_000, 1 << 23));
        assert!(!usual.serves(&shape));
        assert!(shape.serves(&usual));
    }

    #[test]
    fn what_the_properties_say_about_sizes_is_kept() {
        let settings =
            settings(&[("message.max.bytes", "2000"), ("batch.size", "1000"), ("queue.buffering.max.kbytes", "70")]);
        let shape = settings.shape(Some(100_000), 5_000_000, false);
        assert_eq!((shape.batch_size, shape.message_limit), (1_000, 2_000));
        assert_eq!(settings.producer(shape).get("queue.buffering.max.kbytes"), Some("70"));
        let large = settings.producer(Shape { message_limit: 1 << 20, ..shape });
        assert_eq!(large.get("queue.buffering.max.kbytes"), Some("1025"), "room for one record at least");
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", settings(&[("sasl.password", "hunter2")])).contains("hunter2"));
    }
}
