//! Properties of any names and values.

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;
use proptest::sample::select;

use super::{FORCED, IN_FLIGHT, check_properties, connection_config, producer_config};
use crate::fuzz::{damaged_text, feed};

/// Names that the client knows, in a way of its own some of them, or nearly.
const NAMES: &str = "acks allow.auto.create.topics batch.num.messages batch.size bootstrap.servers broker.address.family \
    client.id client.rack compression.codec compression.level compression.type debug delivery.report.only.error \
    delivery.timeout.ms enable.gapless.guarantee enable.idempotence enable.random.seed group.id linger.ms \
    max.in.flight max.in.flight.requests.per.connection message.max.bytes message.send.max.retries \
    message.timeout.ms metadata.broker.list msg_order_cmp opaque partitioner partitioner_cb \
    produce.offset.report queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.max.ms \
    queuing.strategy request.required.acks request.timeout.ms retries retry.backoff.ms sasl.mechanism \
    sasl.mechanisms sasl.username security.protocol socket.timeout.ms ssl.key.pem ssl.keystore.password \
    statistics.interval.ms sticky.partitioning.linger.ms topic.metadata.refresh.interval.ms \
    transaction.timeout.ms transactional.id";

/// Names of secrets.
const SECRETS: &[&str] = &[
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
];

/// What is a secret's value.
const SECRET: &str = "hunter2";

const WORDS: &[&[u8]] = &[b"topic.", b".", b" ", b"\0", b"=", b"%s%n", b"default.topic.", b"\xff", b"A", b"-", b"_"];

const VALUES: &[&str] = &[
    "",
    " ",
    "-1",
    "0",
    "1",
    "2",
    "5",
    "6",
    "0x5",
    "30000",
    "2147483647",
    "2147483648",
    "1e3",
    "true",
    "false",
    "TRUE",
    "t",
    "f",
    "all",
    "fifo",
    "lifo",
    "zstd",
    "none",
    "murmur2",
    "murmur2_random",
    "consistent",
    "random",
    "localhost:1",
    "PLAIN",
    "plaintext",
    "shop",
    "msg",
    "\0",
    "%s%n",
];

fn name() -> impl Strategy<Value = String> {
    let known = || select(NAMES.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned);
    let forced = FORCED.iter().flat_map(|forced| forced.names).map(|name| (*name).to_owned());
    let forced = || select(forced.clone().collect::<Vec<String>>());
    let prefix = select(&["topic.", "topic.topic.", " ", "producer."][..]);
    prop_oneof![
        6 => known(),
        4 => forced(),
        3 => (prefix, prop_oneof![known(), forced()]).prop_map(|(prefix, name)| format!("{prefix}{name}")),
        1 => damaged_text(prop_oneof![known(), forced()], WORDS),
    ]
}

/// Properties and secrets; with brokers, mostly.
fn properties() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = prop_oneof![12 => select(VALUES).prop_map(str::to_owned), 1 => ".{0,9}"];
    let secret = (select(SECRETS).prop_map(str::to_owned), Just(SECRET.to_owned()));
    let brokers = prop::option::weighted(0.9, Just(("bootstrap.servers".to_owned(), "localhost:1".to_owned())));
    (btree_map(name(), value, 0..4), prop::option::weighted(0.2, secret), brokers).prop_map(
        |(mut properties, secret, brokers)| {
            properties.extend(secret.into_iter().chain(brokers));
            properties
        },
    )
}

#[test]
fn no_property_that_is_let_through_changes_one_that_is_forced_and_no_secret_is_told() {
    let native = |properties: &BTreeMap<String, String>| {
        producer_config(properties).create_native_config().expect("the client takes what was let through")
    };
    let own = native(&BTreeMap::new());
    feed(&properties(), 400, |properties| {
        let complaints = check_properties(&properties);
        prop_assert!(!format!("{complaints:?}").contains(SECRET), "{:?}", complaints);
        let is_of_these = |key: &str| properties.contains_key(key) || ["bootstrap.servers", "kafka"].contains(&key);
        prop_assert!(complaints.iter().all(|complaint| is_of_these(&complaint.key)), "{:?}", complaints);
        if complaints.is_empty() {
            let given = native(&properties);
            for forced in FORCED {
                let name = forced.names[0];
                prop_assert_eq!(given.get(name).ok(), own.get(name).ok(), "{}", name);
            }
            // What is not given the client lowers to five by itself.
            let in_flight = given.get(IN_FLIGHT).ok().filter(|count| Some(count) != own.get(IN_FLIGHT).ok().as_ref());
            let is_few = |count: &str| count.parse().is_ok_and(|count: u32| (1..=5).contains(&count));
            prop_assert!(in_flight.as_deref().is_none_or(is_few), "{:?}", in_flight);
            prop_assert!(connection_config(&properties).create_native_config().is_ok());
        }
        Ok(())
    });
}
