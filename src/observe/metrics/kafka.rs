//! What the broker's clients say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;

use super::labels::BoundedLabel;
use super::{
    KAFKA_BROKERS, KAFKA_QUEUE, KAFKA_QUEUE_BYTES, KAFKA_RETRIES, KAFKA_ROUND_TRIP, KAFKA_THROTTLE, KAFKA_TIMEOUTS,
    KAFKA_UP,
};

/// Brokers that get a label value of their own; the rest share `other`.
const BROKER_LABELS: usize = 50;

static BROKERS: BoundedLabel = BoundedLabel::new(BROKER_LABELS);

/// How it stands with the connection to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerState {
    /// Nothing was wanted of it so far.
    Idle,
    /// It does not answer, or has closed an idle connection.
    Down,
    /// A connection is being opened.
    Connecting,
    /// It answers.
    Up,
}

impl BrokerState {
    const ALL: [(Self, &str); 4] =
        [(Self::Idle, "idle"), (Self::Down, "down"), (Self::Connecting, "connecting"), (Self::Up, "up")];
}

/// How a broker answered lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerView {
    /// How it stands with the connection.
    pub state: BrokerState,
    /// How long it took from a request to the answer: the 99th percentile.
    pub round_trip: Duration,
    /// For how long it slowed the client down at most.
    pub throttle: Duration,
}

/// Sets whether Kafka answers.
pub fn set_kafka_up(answers: bool) {
    gauge!(KAFKA_UP).set(if answers { 1.0 } else { 0.0 });
}

/// Sets how much waits in the clients.
pub fn set_kafka_queue(messages: u64, bytes: u64) {
    gauge!(KAFKA_QUEUE).set(messages as f64);
    gauge!(KAFKA_QUEUE_BYTES).set(bytes as f64);
}

/// Sets how the brokers answered lately, by their numbers. Those that are not named any more have left.
pub fn set_kafka_brokers(brokers: &BTreeMap<String, BrokerView>) {
    static SHOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    for (state, word) in BrokerState::ALL {
        let count = brokers.values().filter(|broker| broker.state == state).count();
        gauge!(KAFKA_BROKERS, "state" => word).set(count as f64);
    }
    let mut slowest: BTreeMap<String, (Duration, Duration)> = BTreeMap::new();
    for (broker, view) in brokers {
        let (round_trip, throttle) = slowest.entry(BROKERS.of(broker)).or_default();
        (*round_trip, *throttle) = (view.round_trip.max(*round_trip), view.throttle.max(*throttle));
    }
    let mut shown = SHOWN.lock();
    shown.extend(slowest.keys().cloned());
    for broker in shown.iter() {
        let (round_trip, throttle) = slowest.get(broker).copied().unwrap_or_default();
        gauge!(KAFKA_ROUND_TRIP, "broker" => broker.clone()).set(round_trip.as_secs_f64());
        gauge!(KAFKA_THROTTLE, "broker" => broker.clone()).set(throttle.as_secs_f64());
    }
}

/// Counts requests to a broker that were sent again, and such as had no answer in time.
pub fn count_kafka_trouble(broker: &str, retries: u64, timeouts: u64) {
    let broker = BROKERS.of(broker);
    counter!(KAFKA_RETRIES, "broker" => broker.clone()).increment(retries);
    counter!(KAFKA_TIMEOUTS, "broker" => broker).increment(timeouts);
}
