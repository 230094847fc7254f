//! What the sink is set up with, and the limits of the producer that follow from it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::kafka::producer::{Role, TRANSACTIONS};
use crate::kafka::properties;
use crate::outbox::{Delivery, TopicPattern};

/// The client's own default of `batch.size` and `message.max.bytes`.
const MEGABYTE: usize = 1_000_000;

/// The most that the client takes for `message.max.bytes`.
const MESSAGE_LIMIT: usize = 1_000_000_000;

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
    /// To which topics records may be published. Kafka's own and that of the progress are never among them.
    pub topics: Vec<TopicPattern>,
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
            topics: vec![TopicPattern::any()],
        }
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
    fn number(&self, key: &str) -> Option<usize> {
        let value = self.properties.get(key)?;
        let native = ClientConfig::new().set(key, value).create_native_config().ok()?;
        native.get(key).ok()?.parse().ok()
    }

    /// The largest record that any producer can take.
    pub(crate) fn largest_message(&self) -> usize {
        self.message_limit().unwrap_or(MESSAGE_LIMIT)
    }

    /// The limits of a producer whose topics take batches of `smallest_limit`, and that must take a record of `largest`.
    pub(crate) fn producer_limits(&self, smallest_limit: Option<usize>, largest: usize) -> ProducerLimits {
        let batch_size = self.number("batch.size").unwrap_or(MEGABYTE);
        ProducerLimits {
            batch_size: smallest_limit.map_or(batch_size, |limit| batch_size.min(limit)),
            message_limit: self.message_limit().unwrap_or_else(|| room_for(largest)),
        }
    }

    /// What the producer is for that takes all records.
    pub(crate) fn role(&self) -> Role {
        if self.delivery.fences() { Role::Transactional } else { Role::Main }
    }

    /// The configurations of a producer's clients: of one, or of as many as it may have transactions under way.
    pub(crate) fn clients(&self, role: Role, producer_limits: ProducerLimits) -> Vec<ClientConfig> {
        let client = self.client(role, producer_limits);
        if role != Role::Transactional {
            return vec![client];
        }
        let of_transaction = |number: usize| {
            let (mut client, source) = (client.clone(), &self.source);
            client.set("transactional.id", format!("outboxd-{number}-{source}"));
            client
        };
        (1..=TRANSACTIONS).map(of_transaction).collect()
    }

    fn client(&self, role: Role, producer_limits: ProducerLimits) -> ClientConfig {
        let mut config = properties::producer_config(&self.properties);
        config
            .set("batch.size", producer_limits.batch_size.to_string())
            .set("message.max.bytes", producer_limits.message_limit.to_string());
        match role {
            Role::Main => {}
            Role::Quarantine => {
                // What is refused was alone then, and puts no end to the producer.
                config.set("batch.num.messages", "1").set("enable.gapless.guarantee", "false");
                config.set(properties::IN_FLIGHT, "1");
            }
            Role::Transactional => {
                config.set("transaction.timeout.ms", self.transaction_timeout().as_millis().to_string());
                // What broke during a transaction must be known: see `Ledger::has_strays`.
                config.set("log.connection.close", "true");
            }
        }
        // A queue that cannot hold the largest record would stay full for ever.
        let least = producer_limits.message_limit / 1024 + 1;
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

/// What a producer can no longer change once it is built, and what the topics in use ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerLimits {
    /// Bytes of a batch at most: no more than the smallest topic limit, since the broker refuses whole batches.
    pub(crate) batch_size: usize,
    /// Bytes of a record at most: follows the largest record that a topic takes.
    pub(crate) message_limit: usize,
}

impl ProducerLimits {
    /// Whether a producer of these limits does what one of the `wanted` limits would.
    pub(crate) fn serves(&self, wanted: &ProducerLimits) -> bool {
        self.batch_size <= wanted.batch_size && self.message_limit >= wanted.message_limit
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
        let usual = settings.producer_limits(None, 0);
        assert_eq!((usual.batch_size, usual.message_limit), (MEGABYTE, MEGABYTE));
        let producer_limits = settings.producer_limits(Some(100_000), 5_000_000);
        assert_eq!((producer_limits.batch_size, producer_limits.message_limit), (100_000, 1 << 23));
        assert!(!usual.serves(&producer_limits));
        assert!(producer_limits.serves(&usual));
    }

    #[test]
    fn what_the_properties_say_about_sizes_is_kept() {
        let settings =
            settings(&[("message.max.bytes", "0x7d0"), ("batch.size", "1000"), ("queue.buffering.max.kbytes", "70")]);
        let producer_limits = settings.producer_limits(Some(100_000), 5_000_000);
        assert_eq!((producer_limits.batch_size, producer_limits.message_limit), (1_000, 2_000));
        assert_eq!(settings.client(Role::Main, producer_limits).get("queue.buffering.max.kbytes"), Some("70"));
        let large = settings.client(Role::Main, ProducerLimits { message_limit: 1 << 20, ..producer_limits });
        assert_eq!(large.get("queue.buffering.max.kbytes"), Some("1025"), "room for one record at least");
    }

    #[test]
    fn a_transaction_may_take_as_long_as_is_said_and_no_less_than_a_request() {
        let timeout = |given: &[(&str, &str)]| settings(given).transaction_timeout().as_millis();
        assert_eq!(timeout(&[]), 30_000);
        assert_eq!(timeout(&[("transaction.timeout.ms", "2000")]), 2_000);
        assert_eq!(timeout(&[("socket.timeout.ms", "60000")]), 60_000);
        assert_eq!(timeout(&[("socket.timeout.ms", "1000")]), 30_000);
    }

    #[test]
    fn only_a_producer_that_fences_has_a_transactional_id_and_only_one_in_quarantine_survives_a_refusal() {
        let settings = Settings { delivery: Delivery::Fenced, ..settings(&[("max.in.flight", "5")]) };
        let producer_limits = settings.producer_limits(None, 0);
        assert_eq!(settings.role(), Role::Transactional);
        let fencing = settings.clients(Role::Transactional, producer_limits);
        let ids: Vec<_> = fencing.iter().map(|client| client.get("transactional.id")).collect();
        assert_eq!(ids, [Some("outboxd-1-shop"), Some("outboxd-2-shop")]);
        let quarantine = settings.client(Role::Quarantine, producer_limits);
        assert_eq!((quarantine.get("transactional.id"), quarantine.get("batch.num.messages")), (None, Some("1")));
        assert_eq!(quarantine.get("enable.gapless.guarantee"), Some("false"));
        assert_eq!(quarantine.get(properties::IN_FLIGHT), Some("1"));
        assert_eq!(settings.client(Role::Main, producer_limits).get("enable.gapless.guarantee"), Some("true"));
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", settings(&[("sasl.password", "hunter2")])).contains("hunter2"));
    }
}
