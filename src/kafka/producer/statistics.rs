//! What the clients measure of themselves, as metrics: how much waits in them, and how each broker answers.
//!
//! The clients of a process report one by one, and are shown together. What a report says of topics and partitions is passed
//! over, unread: there may be thousands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;

use crate::observe::metrics::{self, BrokerState, BrokerView};

/// The latest reports of the clients that there are, by their numbers.
static REPORTS: Mutex<BTreeMap<u64, Report>> = Mutex::new(BTreeMap::new());

/// A client's part of the statistics, which ends with this value.
#[derive(Debug)]
pub(crate) struct Statistics {
    client: u64,
}

/// As much of a report as is shown.
#[derive(Debug, Default, Deserialize)]
struct Report {
    msg_cnt: u64,
    msg_size: u64,
    /// By names that say how the client came to know them.
    #[serde(default)]
    brokers: BTreeMap<String, BrokerReport>,
}

#[derive(Debug, Deserialize)]
struct BrokerReport {
    /// Negative for what is no broker of the cluster, or not known to be one yet.
    nodeid: i32,
    state: String,
    #[serde(default)]
    txretries: u64,
    #[serde(default)]
    req_timeouts: u64,
    /// In microseconds.
    #[serde(default)]
    rtt: Window,
    /// In milliseconds.
    #[serde(default)]
    throttle: Window,
}

/// What was measured since the report before.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Window {
    max: i64,
    p99: i64,
}

impl Statistics {
    /// Of a client that has reported nothing yet.
    pub(crate) fn begin() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { client: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Takes a report, as the client writes it.
    pub(crate) fn hear(&self, json: &[u8]) {
        match serde_json::from_slice::<Report>(json) {
            Ok(report) => {
                let mut reports = REPORTS.lock();
                let before = reports.insert(self.client, report).unwrap_or_default();
                count_trouble(&before, &reports[&self.client]);
                show(&reports);
            }
            Err(error) => tracing::debug!(%error, "the client's statistics cannot be read"),
        }
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let mut reports = REPORTS.lock();
        if reports.remove(&self.client).is_some() {
            show(&reports);
        }
    }
}

impl BrokerReport {
    fn view(&self) -> BrokerView {
        let positive = |value: i64| u64::try_from(value).unwrap_or_default();
        BrokerView {
            state: match self.state.as_str() {
                "INIT" => BrokerState::Idle,
                "DOWN" => BrokerState::Down,
                "UP" => BrokerState::Up,
                // On the way there: connecting, authenticating, asking for versions.
                _ => BrokerState::Connecting,
            },
            round_trip: Duration::from_micros(positive(self.rtt.p99)),
            throttle: Duration::from_millis(positive(self.throttle.max)),
        }
    }
}

impl Report {
    /// The brokers of the cluster, by their numbers.
    fn members(&self) -> impl Iterator<Item = (i32, &BrokerReport)> {
        self.brokers.values().filter(|broker| broker.nodeid >= 0).map(|broker| (broker.nodeid, broker))
    }
}

/// Counts what came since the client's report before. A client counts from its beginning.
fn count_trouble(before: &Report, now: &Report) {
    let counted: BTreeMap<i32, &BrokerReport> = before.members().collect();
    for (number, broker) in now.members() {
        let (retries, timeouts) = counted.get(&number).map_or((0, 0), |old| (old.txretries, old.req_timeouts));
        metrics::count_kafka_trouble(
            &number.to_string(),
            broker.txretries.saturating_sub(retries),
            broker.req_timeouts.saturating_sub(timeouts),
        );
    }
}

/// Shows all clients together: of a broker the best connection, and the slowest answers.
fn show(reports: &BTreeMap<u64, Report>) {
    let total = |of: fn(&Report) -> u64| reports.values().map(of).sum();
    metrics::set_kafka_queue(total(|report| report.msg_cnt), total(|report| report.msg_size));
    metrics::set_kafka_brokers(&views(reports.values()));
}

fn views<'a>(reports: impl Iterator<Item = &'a Report>) -> BTreeMap<String, BrokerView> {
    let mut views: BTreeMap<String, BrokerView> = BTreeMap::new();
    for (number, broker) in reports.flat_map(Report::members) {
        let one = broker.view();
        let all = views.entry(number.to_string()).or_insert(one);
        *all = BrokerView {
            state: all.state.max(one.state),
            round_trip: all.round_trip.max(one.round_trip),
            throttle: all.throttle.max(one.throttle),
        };
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As librdkafka writes it, shortened.
    const REPORT: &str = r#"{ "name": "outboxd#producer-1", "type": "producer", "ts": 5016483227792, "msg_cnt": 22710,
        "msg_size": 704010, "msg_max": 500000, "simple_cnt": 0, "brokers": {
        "localhost:9092/2": { "name": "localhost:9092/2", "nodeid": 2, "nodename": "localhost:9092", "source": "learned",
            "state": "UP", "stateage": 9057234, "tx": 320, "txretries": 3, "txidle": -1, "req_timeouts": 1,
            "rtt": { "min": 1580, "max": 3389, "avg": 2349, "p50": 2319, "p99": 3375, "outofrange": 0, "cnt": 34 },
            "throttle": { "min": 0, "max": 40, "avg": 1, "cnt": 34 }, "toppars": { "t-1": { "topic": "t", "partition": 1 } } },
        "localhost:9092/bootstrap": { "nodeid": -1, "nodename": "localhost:9092", "state": "UP", "txretries": 9 },
        "GroupCoordinator": { "nodeid": -1, "nodename": "", "state": "INIT" } },
        "topics": { "t": { "topic": "t", "partitions": { "0": { "partition": 0, "msgq_cnt": 1 } } } }, "tx": 631 }"#;

    fn report(text: &str) -> Report {
        serde_json::from_str(text).expect("a report")
    }

    #[test]
    fn brokers_of_the_cluster_are_shown_with_what_was_slowest() {
        let (first, second) = (report(REPORT), report(&REPORT.replace("\"UP\"", "\"DOWN\"").replace("3375", "7000")));
        let ms = Duration::from_millis;
        let expected = |state, round_trip, throttle| {
            BTreeMap::from([("2".to_owned(), BrokerView { state, round_trip, throttle })])
        };
        let micros = Duration::from_micros;
        assert_eq!(views([&first].into_iter()), expected(BrokerState::Up, micros(3_375), ms(40)));
        assert_eq!(views([&second].into_iter()), expected(BrokerState::Down, ms(7), ms(40)));
        assert_eq!(views([&second, &first].into_iter()), expected(BrokerState::Up, ms(7), ms(40)));
        assert_eq!((first.msg_cnt, first.msg_size), (22_710, 704_010));
    }

    #[test]
    fn whatever_a_connection_is_at_is_told_in_four_words() {
        let words = [("INIT", BrokerState::Idle), ("DOWN", BrokerState::Down), ("UP", BrokerState::Up)];
        let on_the_way = ["TRY_CONNECT", "CONNECT", "SSL_HANDSHAKE", "AUTH_REQ", "APIVERSION_QUERY"];
        for (word, state) in words.into_iter().chain(on_the_way.map(|word| (word, BrokerState::Connecting))) {
            let report = report(&REPORT.replace("\"UP\"", &format!("\"{word}\"")));
            assert_eq!(views([&report].into_iter())["2"].state, state, "{word}");
        }
    }
}
