//! The client's properties: which are the relay's own, and why; which are defaults; what is wrong with the rest.

use std::collections::BTreeMap;

use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use crate::kafka::client_log::ClientLog;

/// What is wrong with one property, and what would do. Never the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The property, as it was written.
    pub key: String,
    /// What is wrong, and what would do.
    pub problem: String,
}

/// A property that the relay sets itself.
struct Forced {
    /// All its names, the client's own first.
    names: &'static [&'static str],
    /// What the relay sets; `None` leaves it out.
    value: Option<&'static str>,
    /// Other words that mean the same, and are let through.
    same: &'static [&'static str],
    /// Why it cannot be set otherwise.
    reason: &'static str,
}

const YES: &[&str] = &["true", "t", "1"];
const NO: &[&str] = &["false", "f", "0"];

const FORCED: &[Forced] = &[
    Forced {
        names: &["enable.idempotence"],
        value: Some("true"),
        same: YES,
        reason: "without it a retry can duplicate and reorder records",
    },
    Forced {
        names: &["request.required.acks", "acks"],
        value: Some("all"),
        same: &["all", "-1"],
        reason: "with less, a record that counts as delivered is lost when a broker fails",
    },
    Forced {
        names: &["enable.gapless.guarantee"],
        value: Some("true"),
        same: YES,
        reason: "without it records are delivered past one of their key that was refused",
    },
    Forced {
        names: &["message.timeout.ms", "delivery.timeout.ms"],
        value: Some("0"),
        same: &["0"],
        reason: "a record that times out leaves a hole in the order of its key; records wait as long as it takes",
    },
    Forced {
        names: &["message.send.max.retries", "retries"],
        value: Some("2147483647"),
        same: &["2147483647"],
        reason: "giving a record up leaves a hole in the order of its key; records are sent again for as long as it takes",
    },
    Forced {
        names: &["allow.auto.create.topics"],
        value: Some("false"),
        same: NO,
        reason: "a mistyped topic would be created with the broker's defaults; use relay.on_missing_topic = \"create\"",
    },
    Forced {
        names: &["delivery.report.only.error"],
        value: Some("false"),
        same: NO,
        reason: "the relay settles a record when its delivery is reported",
    },
    Forced {
        names: &["queuing.strategy"],
        value: Some("fifo"),
        same: &["fifo"],
        reason: "any other strategy reorders records",
    },
    Forced {
        names: &["transactional.id"],
        value: None,
        same: &[],
        reason: "the relay makes it of outbox.source, for relay.delivery = \"fenced\" and \"exactly-once\"",
    },
    Forced {
        names: &["partitioner"],
        value: None,
        same: &["murmur2", "murmur2_random"],
        reason: "the relay computes partitions itself, as the Java clients do (murmur2)",
    },
];

/// Set unless the configuration says otherwise.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "outboxd"),
    // Batches form while requests are in flight; waiting for more would only add latency.
    ("queue.buffering.max.ms", "0"),
    ("socket.nagle.disable", "true"),
    ("socket.keepalive.enable", "true"),
    // A broker that comes back is noticed within a second.
    ("reconnect.backoff.max.ms", "1000"),
];

/// How often a producer's client reports what it measured, in milliseconds. A report tells of every partition in use, so that
/// it is not to come often.
const STATISTICS_INTERVAL: &str = "10000";

/// Names beside the client's own ones, for properties that matter here.
const ALIASES: &[(&str, &str)] = &[
    ("bootstrap.servers", "metadata.broker.list"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("max.in.flight", IN_FLIGHT),
    ("compression.type", "compression.codec"),
    ("sasl.mechanism", "sasl.mechanisms"),
];

/// How many requests may be under way to one broker.
pub(crate) const IN_FLIGHT: &str = "max.in.flight.requests.per.connection";

/// Properties that say how to reach and convince a broker: what any other client of ours needs too.
const CONNECTION: &[&str] = &[
    "metadata.broker.list",
    "client.",
    "security.",
    "sasl.",
    "ssl.",
    "https.",
    "enable.sasl.",
    "enable.ssl.",
    "socket.",
    "broker.",
    "reconnect.",
    "resolve.",
    "plugin.",
    "debug",
    "api.version.",
];

/// The client's own name of a property.
pub(crate) fn canonical(name: &str) -> &str {
    let forced = FORCED.iter().find(|forced| forced.names.contains(&name)).map(|forced| forced.names[0]);
    let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, own)| *own);
    forced.or_else(alias).unwrap_or(name)
}

/// Everything that is wrong with these properties, all at once; nothing connects anywhere.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Vec<Complaint> {
    let mut complaints: Vec<Complaint> =
        properties.iter().filter_map(|(key, value)| complaint(key, value)).chain(named_twice(properties)).collect();
    if !properties.keys().any(|key| canonical(key) == "metadata.broker.list") {
        complaints.push(Complaint {
            key: "bootstrap.servers".to_owned(),
            problem: "is missing: set the brokers to begin with, as \"host:port,host:port\"".to_owned(),
        });
    }
    if complaints.is_empty() {
        complaints.extend(together(properties));
    }
    complaints
}

fn complaint(key: &str, value: &str) -> Option<Complaint> {
    let problem = match FORCED.iter().find(|forced| forced.names.contains(&key)) {
        Some(forced) => {
            if forced.same.contains(&value.to_ascii_lowercase().as_str()) {
                return None;
            }
            match forced.value {
                Some(own) => format!("is always {own}: {}; remove it", forced.reason),
                None => format!("cannot be set: {}; remove it", forced.reason),
            }
        }
        None if canonical(key) == IN_FLIGHT && !value.parse().is_ok_and(|count| (1..=5).contains(&count)) => {
            "must be 1 to 5: with more requests in flight a broker cannot keep their order".to_owned()
        }
        None => match plain_name(key, value) {
            Some(plain) => format!("is {plain} by another name: write that one"),
            None => native_problem(key, value)?,
        },
    };
    Some(Complaint { key: key.to_owned(), problem })
}

/// The name of a property that is written by a second one. The client takes each of those of its topics with `topic.` in
/// front as well, so that `topic.acks` would pass by all that is known here of `acks`.
fn plain_name<'a>(key: &'a str, value: &str) -> Option<&'a str> {
    key.strip_prefix("topic.").filter(|plain| native_problem(plain, value).is_none())
}

/// What the client itself says about one property.
fn native_problem(key: &str, value: &str) -> Option<String> {
    match ClientConfig::new().set(key, value).create_native_config().err()? {
        KafkaError::ClientConfig(_, said, _, _) if !may_be_secret(key) => {
            Some(format!("is refused by the client: {said}"))
        }
        KafkaError::ClientConfig(..) => Some("is refused by the client: unknown, or not a possible value".to_owned()),
        _ => Some("holds a NUL character".to_owned()),
    }
}

fn may_be_secret(key: &str) -> bool {
    ["password", "secret", "pem", "passphrase", "sasl.oauthbearer.config", "private"]
        .iter()
        .any(|word| key.contains(word))
}

fn named_twice(properties: &BTreeMap<String, String>) -> Vec<Complaint> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let again = properties.keys().filter_map(|key| {
        let first = seen.insert(canonical(key), key)?;
        Some(Complaint { key: key.clone(), problem: format!("says the same as {first}: keep one of the two") })
    });
    again.collect()
}

/// What the client says about all of them together, such as a certificate that cannot be read. A client without
/// brokers connects to nothing.
fn together(properties: &BTreeMap<String, String>) -> Option<Complaint> {
    let mut config = producer_config(properties);
    config.remove("metadata.broker.list");
    let native = config.create_native_config();
    let created =
        native.and_then(|native| Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, ClientLog::default()));
    let problem = match created.err()? {
        KafkaError::ClientCreation(said) => format!("is refused by the client: {said}"),
        other => format!("is refused by the client: {other}"),
    };
    Some(Complaint { key: "kafka".to_owned(), problem })
}

/// The producer's configuration: defaults, then what was given, then what is forced.
pub(crate) fn producer_config(properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = base_config(properties.contains_key("debug"));
    config.set("statistics.interval.ms", STATISTICS_INTERVAL);
    for (key, value) in properties {
        config.set(canonical(key), value);
    }
    for forced in FORCED {
        match forced.value {
            Some(value) => config.set(forced.names[0], value),
            None => config.remove(forced.names[0]),
        };
    }
    config
}

/// The configuration of a client that only looks: how to reach the broker, and nothing of producing.
pub(crate) fn connection_config(properties: &BTreeMap<String, String>) -> ClientConfig {
    let mut config = base_config(properties.contains_key("debug"));
    config.remove("queue.buffering.max.ms");
    for (key, value) in properties {
        let own = canonical(key);
        if CONNECTION.iter().any(|prefix| own.starts_with(prefix)) {
            config.set(own, value);
        }
    }
    config
}

fn base_config(is_debugged: bool) -> ClientConfig {
    let mut config = ClientConfig::new();
    // The client's own filter; what passes is filtered again by the subscriber of our log.
    let level = if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info };
    config.set_log_level(level);
    for (key, value) in DEFAULTS {
        config.set(*key, *value);
    }
    config
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        let brokers = ("bootstrap.servers", "localhost:1");
        given.iter().chain([&brokers]).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn complaints(given: &[(&str, &str)]) -> Vec<(String, String)> {
        check_properties(&properties(given)).into_iter().map(|complaint| (complaint.key, complaint.problem)).collect()
    }

    #[test]
    fn a_forced_property_set_otherwise_is_refused_under_each_of_its_names_with_the_reason() {
        let otherwise = [
            ("enable.idempotence", "false", "duplicate"),
            ("acks", "1", "lost"),
            ("request.required.acks", "0", "lost"),
            ("enable.gapless.guarantee", "false", "refused"),
            ("message.timeout.ms", "30000", "hole"),
            ("delivery.timeout.ms", "1", "hole"),
            ("retries", "3", "hole"),
            ("message.send.max.retries", "0", "hole"),
            ("max.in.flight", "6", "order"),
            ("max.in.flight.requests.per.connection", "0", "order"),
            ("allow.auto.create.topics", "true", "on_missing_topic"),
            ("delivery.report.only.error", "true", "settles"),
            ("queuing.strategy", "lifo", "reorders"),
            ("transactional.id", "x", "outbox.source"),
            ("partitioner", "consistent", "murmur2"),
        ];
        for (key, value, word) in otherwise {
            let found = complaints(&[(key, value)]);
            assert!(matches!(&found[..], [(k, problem)] if k == key && problem.contains(word)), "{key}: {found:?}");
        }
    }

    #[test]
    fn a_property_of_topics_is_refused_under_its_second_name() {
        let second = [("topic.acks", "0"), ("topic.message.timeout.ms", "1"), ("topic.queuing.strategy", "lifo")];
        for (key, value) in second.into_iter().chain([("topic.compression.type", "zstd")]) {
            let plain = key.trim_start_matches("topic.");
            let found = complaints(&[(key, value)]);
            assert!(matches!(&found[..], [(k, problem)] if k == key && problem.contains(plain)), "{key}: {found:?}");
        }
        assert_eq!(complaints(&[("topic.metadata.refresh.interval.ms", "1000")]), [], "its only name");
    }

    #[test]
    fn a_forced_property_set_to_what_it_is_anyway_is_let_through() {
        let same = [
            ("acks", "all"),
            ("request.required.acks", "-1"),
            ("enable.idempotence", "TRUE"),
            ("delivery.timeout.ms", "0"),
            ("max.in.flight", "5"),
            ("allow.auto.create.topics", "false"),
            ("partitioner", "murmur2_random"),
        ];
        for (key, value) in same {
            assert_eq!(complaints(&[(key, value)]), [], "{key}");
        }
    }

    #[test]
    fn unknown_names_and_impossible_values_are_refused_all_at_once() {
        let found =
            complaints(&[("lingr.ms", "5"), ("linger.ms", "never"), ("acks", "1"), ("compression.type", "rar")]);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["acks", "compression.type", "linger.ms", "lingr.ms"], "{found:?}");
    }

    #[test]
    fn one_property_under_two_names_is_refused() {
        let found = complaints(&[("linger.ms", "5"), ("queue.buffering.max.ms", "6")]);
        assert!(matches!(&found[..], [(_, problem)] if problem.contains("linger.ms")), "{found:?}");
    }

    #[test]
    fn missing_brokers_are_said_and_what_the_client_refuses_as_a_whole_too() {
        assert_eq!(check_properties(&BTreeMap::new())[0].key, "bootstrap.servers");
        let found = complaints(&[("security.protocol", "ssl"), ("ssl.ca.location", "/nowhere/ca.pem")]);
        assert!(
            matches!(&found[..], [(key, problem)] if key == "kafka" && problem.contains("ca.location")),
            "{found:?}"
        );
    }

    #[test]
    fn a_secret_is_not_in_the_complaint() {
        let found = complaints(&[("ssl.key.pem", "hunter2\0"), ("sasl.pasword", "hunter2")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }

    #[test]
    fn defaults_give_way_and_forced_ones_do_not() {
        let config = producer_config(&properties(&[("linger.ms", "7"), ("acks", "all"), ("partitioner", "murmur2")]));
        assert_eq!(config.get("queue.buffering.max.ms"), Some("7"));
        assert_eq!(config.get("linger.ms"), None);
        assert_eq!(config.get("request.required.acks"), Some("all"));
        assert_eq!(config.get("partitioner"), None);
        let looking = connection_config(&properties(&[("linger.ms", "7"), ("sasl.mechanism", "PLAIN")]));
        assert_eq!((looking.get("queue.buffering.max.ms"), looking.get("sasl.mechanisms")), (None, Some("PLAIN")));
    }
}
