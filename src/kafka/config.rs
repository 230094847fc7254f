//! What the sink is set up with, and the limits of the producer that follow from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::kafka::properties;
use crate::outbox::{Delivery, TopicPattern};

/// The most that the client takes for `message.max.bytes`.
pub(crate) const MESSAGE_LIMIT: usize = 1_000_000_000;

/// How long the broker lets a transaction be open, unless the properties say otherwise. Long enough for a slow link and
/// a broker's restart; what ends it sooner is the next leader, who need not wait for it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// How strong the delivery is. What fences does so by a `transactional.id` that is made of the source, which
    /// therefore no other outbox of the same brokers may have.
    pub delivery: Delivery,
    /// Where an exactly-once sink remembers how far it is. No other sink publishes there either.
    pub progress_topic: ProgressTopic,
    /// Whether its records are sent again, as an operator asked: then their header `outbox-replay` is the relay's.
    pub replays: bool,
    /// To which topics records may be published. Kafka's own and that of the progress are never among them.
    pub topics: Vec<TopicPattern>,
}

/// What the relay's own headers say on every record of a sink.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp<'a> {
    /// What `outbox-source` says.
    pub(crate) source: &'a str,
    /// Whether `outbox-replay` is the relay's, and not left out.
    pub(crate) replays: bool,
}

/// Where an exactly-once sink remembers how far it is: one record for each outbox, in a compacted topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgressTopic {
    /// Its name.
    pub name: String,
    /// On how many brokers each partition is kept if the sink creates it; -1 for the broker's default.
    pub replication: i32,
}

impl Default for ProgressTopic {
    fn default() -> Self {
        Self { name: "outboxd-progress".to_owned(), replication: -1 }
    }
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
            delivery: Delivery::default(),
            progress_topic: ProgressTopic::default(),
            replays: false,
            topics: vec![TopicPattern::any()],
        }
    }

    /// What the relay's own headers say on every record.
    pub(crate) fn stamp(&self) -> Stamp<'_> {
        Stamp { source: &self.source, replays: self.replays }
    }

    /// How long a transaction may be open. The client wants a request to have that long at most.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        let given = self.number("transaction.timeout.ms");
        let millis = given.or_else(|| self.number("socket.timeout.ms")).map(|millis| millis as u64);
        let given_or_more = |millis| if given.is_some() { millis } else { TRANSACTION_TIMEOUT.max(millis) };
        millis.map(Duration::from_millis).map_or(TRANSACTION_TIMEOUT, given_or_more)
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

    /// A number as the client reads it: it knows hexadecimal ones too.
    pub(crate) fn number(&self, key: &str) -> Option<usize> {
        let value = self.properties.get(key)?;
        let native = ClientConfig::new().set(key, value).create_native_config().ok()?;
        native.get(key).ok()?.parse().ok()
    }

    /// The largest record that any producer can take.
    pub(crate) fn largest_message(&self) -> usize {
        self.message_limit().unwrap_or(MESSAGE_LIMIT)
    }

    /// The configuration of a client that only looks.
    pub(crate) fn looking(&self) -> ClientConfig {
        properties::connection_config(&self.properties)
    }
}

/// Properties may hold passwords: their names are shown, their values are not.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("properties", &self.properties.keys())
            .field("source", &self.source)
            .field("replays", &self.replays)
            .field("on_missing_topic", &self.on_missing_topic)
            .field("buffer_records", &self.buffer_records)
            .field("buffer_bytes", &self.buffer_bytes)
            .field("oldest", &self.oldest)
            .field("delivery", &self.delivery)
            .field("progress_topic", &self.progress_topic)
            .field("topics", &self.topics)
            .finish()
    }
}

/// What to do about a topic that the broker does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnMissingTopic {
    /// Hold its records until an operator or an application creates it.
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

#[cfg(test)]
pub(crate) mod given {
    use super::Settings;

    /// Settings with these properties, the rest as it is by default.
    pub(crate) fn settings(given: &[(&str, &str)]) -> Settings {
        let properties = given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Settings::new(properties, "shop")
    }
}

#[cfg(test)]
mod tests {
    use super::given::settings;

    #[test]
    fn a_transaction_may_take_as_long_as_is_said_and_no_less_than_a_request() {
        let timeout = |given: &[(&str, &str)]| settings(given).transaction_timeout().as_millis();
        assert_eq!(timeout(&[]), 30_000);
        assert_eq!(timeout(&[("transaction.timeout.ms", "2000")]), 2_000);
        assert_eq!(timeout(&[("socket.timeout.ms", "60000")]), 60_000);
        assert_eq!(timeout(&[("socket.timeout.ms", "1000")]), 30_000);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", settings(&[("sasl.password", "hunter2")])).contains("hunter2"));
    }
}
