//! What a producer is built with: its role, its limits, and the configuration of its clients.

use rdkafka::config::ClientConfig;

use crate::kafka::config::{MESSAGE_LIMIT, Settings};
use crate::kafka::properties;

/// The client's own default of `batch.size` and `message.max.bytes`.
const MEGABYTE: usize = 1_000_000;

/// What a producer is for, and so what follows when the broker refuses a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It takes all records. A refusal puts an end to it, so that nothing of the record's lane follows.
    Main,
    /// It takes records that are suspected, each alone in its batch. A refusal rejects the record.
    Quarantine,
    /// It takes records in transactions. A refusal undoes the transaction.
    Transactional,
}

/// Transactions that may be under way at a time, each with a client of its own. While the broker still makes one visible,
/// the client that has committed it must wait; another one can go on.
pub(crate) const TRANSACTIONS: usize = 2;

/// What a producer can no longer change once it is built, and what the topics in use ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerLimits {
    /// Bytes of a batch at most: no more than the smallest topic limit, since the broker refuses whole batches.
    pub(crate) batch_size: usize,
    /// Bytes of a record at most: follows the largest record that a topic takes.
    pub(crate) message_limit: usize,
}

impl ProducerLimits {
    /// The limits of a producer whose topics take batches of `smallest_limit`, and that must take a record of `largest`.
    pub(crate) fn of(settings: &Settings, smallest_limit: Option<usize>, largest: usize) -> Self {
        let batch_size = settings.number("batch.size").unwrap_or(MEGABYTE);
        Self {
            batch_size: smallest_limit.map_or(batch_size, |limit| batch_size.min(limit)),
            message_limit: settings.message_limit().unwrap_or_else(|| room_for(largest)),
        }
    }

    /// Whether a producer of these limits does what one of the `wanted` limits would.
    pub(crate) fn serves(&self, wanted: &ProducerLimits) -> bool {
        self.batch_size <= wanted.batch_size && self.message_limit >= wanted.message_limit
    }
}

/// A limit for records that takes this one. It grows in steps, so that a producer is seldom built anew for it.
fn room_for(largest: usize) -> usize {
    if largest <= MEGABYTE { MEGABYTE } else { largest.next_power_of_two().min(MESSAGE_LIMIT) }
}

/// The configurations of a producer's clients: of one, or of as many as it may have transactions under way.
pub(crate) fn clients(settings: &Settings, role: Role, producer_limits: ProducerLimits) -> Vec<ClientConfig> {
    let client = client(settings, role, producer_limits);
    if role != Role::Transactional {
        return vec![client];
    }
    let of_transaction = |number: usize| {
        let mut client = client.clone();
        client.set("transactional.id", format!("outboxd-{number}-{}", settings.source));
        client
    };
    (1..=TRANSACTIONS).map(of_transaction).collect()
}

fn client(settings: &Settings, role: Role, producer_limits: ProducerLimits) -> ClientConfig {
    let mut config = properties::producer_config(&settings.properties);
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
            config.set("transaction.timeout.ms", settings.transaction_timeout().as_millis().to_string());
            // What broke during a transaction must be known: see `Ledger::has_strays`.
            config.set("log.connection.close", "true");
        }
    }
    // A queue that cannot hold the largest record would stay full for ever.
    let least = producer_limits.message_limit / 1024 + 1;
    let kilobytes = settings.number("queue.buffering.max.kbytes").unwrap_or(settings.buffer_bytes / 1024).max(least);
    config.set("queue.buffering.max.kbytes", kilobytes.min(i32::MAX as usize).to_string());
    if config.get("queue.buffering.max.messages").is_none() {
        config.set("queue.buffering.max.messages", settings.buffer_records.clamp(1, i32::MAX as usize).to_string());
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::config::given::settings;
    use crate::outbox::Delivery;

    #[test]
    fn batches_stay_below_the_smallest_topic_and_records_may_be_as_large_as_the_largest() {
        let settings = settings(&[]);
        let usual = ProducerLimits::of(&settings, None, 0);
        assert_eq!((usual.batch_size, usual.message_limit), (MEGABYTE, MEGABYTE));
        let producer_limits = ProducerLimits::of(&settings, Some(100_000), 5_000_000);
        assert_eq!((producer_limits.batch_size, producer_limits.message_limit), (100_000, 1 << 23));
        assert!(!usual.serves(&producer_limits));
        assert!(producer_limits.serves(&usual));
    }

    #[test]
    fn what_the_properties_say_about_sizes_is_kept() {
        let settings =
            settings(&[("message.max.bytes", "0x7d0"), ("batch.size", "1000"), ("queue.buffering.max.kbytes", "70")]);
        let producer_limits = ProducerLimits::of(&settings, Some(100_000), 5_000_000);
        assert_eq!((producer_limits.batch_size, producer_limits.message_limit), (1_000, 2_000));
        assert_eq!(client(&settings, Role::Main, producer_limits).get("queue.buffering.max.kbytes"), Some("70"));
        let large = client(&settings, Role::Main, ProducerLimits { message_limit: 1 << 20, ..producer_limits });
        assert_eq!(large.get("queue.buffering.max.kbytes"), Some("1025"), "room for one record at least");
    }

    #[test]
    fn only_a_producer_that_fences_has_a_transactional_id_and_only_one_in_quarantine_survives_a_refusal() {
        let settings = Settings { delivery: Delivery::Fenced, ..settings(&[("max.in.flight", "5")]) };
        let producer_limits = ProducerLimits::of(&settings, None, 0);
        let fencing = clients(&settings, Role::Transactional, producer_limits);
        let ids: Vec<_> = fencing.iter().map(|client| client.get("transactional.id")).collect();
        assert_eq!(ids, [Some("outboxd-1-shop"), Some("outboxd-2-shop")]);
        let quarantine = client(&settings, Role::Quarantine, producer_limits);
        assert_eq!((quarantine.get("transactional.id"), quarantine.get("batch.num.messages")), (None, Some("1")));
        assert_eq!(quarantine.get("enable.gapless.guarantee"), Some("false"));
        assert_eq!(quarantine.get(properties::IN_FLIGHT), Some("1"));
        assert_eq!(client(&settings, Role::Main, producer_limits).get("enable.gapless.guarantee"), Some("true"));
    }
}
