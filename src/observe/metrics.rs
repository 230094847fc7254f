//! Every metric, once: its name, unit, help and labels, and the only functions that record it.
//!
//! Recorded per batch, not per record, except for the one histogram that is about records. The number of
//! values of a label is bounded.

#![allow(clippy::disallowed_macros, reason = "this is the catalogue that the other rooms must go through")]

use std::collections::HashSet;
use std::time::Duration;

use metrics::{Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use parking_lot::Mutex;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in [`SECONDS_BUCKETS`].
    Histogram,
}

/// One metric of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name as scraped.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// The help text.
    pub help: &'static str,
}

/// Upper bounds of the histograms' buckets, in seconds.
pub const SECONDS_BUCKETS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Topics that get a label value of their own; the rest share `other`.
const TOPIC_LABELS: usize = 200;

macro_rules! catalogue {
    ($($constant:ident $kind:ident $unit:ident $name:literal $help:literal)*) => {
        $(const $constant: &str = concat!("outboxd_", $name);)*

        /// Every metric that this process can expose.
        pub const CATALOGUE: &[Metric] = &[
            $(Metric { name: $constant, kind: Kind::$kind, unit: Unit::$unit, help: $help },)*
        ];
    };
}

catalogue! {
    OLDEST_UNSENT Gauge Seconds "oldest_unsent_seconds"
        "Age of the oldest unsent message by the database's clock; 0 when none waits"
    UNSENT Gauge Count "unsent_messages"
        "Messages that wait to be published, counted up to a limit"
    COMMIT_TO_ACK Histogram Seconds "commit_to_ack_seconds"
        "From a message's created_at to the broker's acknowledgement, by the relay's clock"
    FETCH Histogram Seconds "fetch_seconds"
        "One read of the outbox, empty ones included"
    PUBLISH_ACK Histogram Seconds "publish_ack_seconds"
        "From handing a batch to the broker's client to its last acknowledgement"
    SETTLE Histogram Seconds "settle_seconds"
        "One settlement written to the database"
    PUBLISHED Counter Count "published_total"
        "Messages acknowledged by the broker, by topic"
    REJECTED Counter Count "rejected_total"
        "Messages that can never be published, by topic and cause"
    DEAD_LETTERS Gauge Count "dead_letters"
        "Dead letters kept in the table, counted up to a limit"
    HELD_LANES Gauge Count "held_lanes"
        "Lanes and topics that wait, by cause"
    IN_FLIGHT Gauge Count "in_flight_messages"
        "Messages read and not settled yet"
    LEADER Gauge Count "leader"
        "1 while this relay leads, 0 while it is standby"
    TERM Gauge Count "term"
        "The number of this relay's latest leadership"
    LEASE_REMAINING Gauge Seconds "lease_remaining_seconds"
        "How long the lease can be trusted still; 0 while standby"
    SESSIONS Counter Count "sessions_total"
        "Reading sessions begun; more than one a leadership tells of failures that were recovered from"
    PRODUCER_REBUILDS Counter Count "producer_rebuilds_total"
        "Times that the broker's client was built anew after an error"
    RESERVED_HEADERS Counter Count "reserved_headers_dropped_total"
        "Headers of rows that were left out because the relay writes headers of these names itself"
    LATE Counter Count "late_messages_total"
        "Messages that became due behind the reader, since they were corrected, restored or moved back by hand; each counts once"
    PURGED Counter Count "purged_total"
        "Settled rows removed after the retention"
    LAST_PROGRESS Gauge Seconds "last_progress_timestamp_seconds"
        "When the relay last settled something or found nothing to do, as Unix time"
    OLDEST_SNAPSHOT Gauge Seconds "oldest_snapshot_seconds"
        "Age of the oldest snapshot in the database, which holds back vacuum"
    DATABASE_SESSIONS Gauge Count "database_sessions"
        "Sessions that the relays of this role have in the database, by the database's own count"
    KAFKA_UP Gauge Count "kafka_up"
        "1 while Kafka answers this relay, 0 while it does not; asked twice a minute while nothing is published"
    BUILD_INFO Gauge Count "build_info"
        "1, with the version as a label"
}

/// Tells the exporter names, units and help texts, and sets the values that never change.
pub fn describe() {
    for metric in CATALOGUE {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(LATE).absolute(0);
    counter!(PURGED).absolute(0);
    counter!(SESSIONS).absolute(0);
    counter!(PRODUCER_REBUILDS).absolute(0);
    counter!(RESERVED_HEADERS).absolute(0);
    set_leader(None);
    set_in_flight(0);
}

/// Sets how much waits: the count, the age of the oldest, and the age of the oldest snapshot where there is one.
pub fn set_backlog(unsent: u64, oldest: Duration, oldest_snapshot: Option<Duration>) {
    gauge!(UNSENT).set(unsent as f64);
    gauge!(OLDEST_UNSENT).set(oldest.as_secs_f64());
    if let Some(age) = oldest_snapshot {
        gauge!(OLDEST_SNAPSHOT).set(age.as_secs_f64());
    }
}

/// Sets how many sessions the database counts of the relays of this role.
pub fn set_database_sessions(sessions: u64) {
    gauge!(DATABASE_SESSIONS).set(sessions as f64);
}

/// Sets how many dead letters are kept.
pub fn set_dead_letters(letters: u64) {
    gauge!(DEAD_LETTERS).set(letters as f64);
}

/// Takes how long messages took from `created_at` to their acknowledgement: looked up once for many.
pub fn commit_to_ack() -> Histogram {
    histogram!(COMMIT_TO_ACK)
}

/// Records one read of the outbox.
pub fn record_fetch(took: Duration) {
    histogram!(FETCH).record(took);
}

/// Records one batch from submission to its last acknowledgement.
pub fn record_publish_ack(took: Duration) {
    histogram!(PUBLISH_ACK).record(took);
}

/// Records one settlement.
pub fn record_settle(took: Duration) {
    histogram!(SETTLE).record(took);
}

/// Counts acknowledged messages of a topic.
pub fn count_published(topic: &str, messages: u64) {
    counter!(PUBLISHED, "topic" => topic_label(topic)).increment(messages);
}

/// Counts a message that can never be published.
pub fn count_rejected(topic: &str, cause: &'static str) {
    counter!(REJECTED, "topic" => topic_label(topic), "cause" => cause).increment(1);
}

/// Sets how many lanes are held for one cause.
pub fn set_held(cause: &'static str, lanes: usize) {
    gauge!(HELD_LANES, "cause" => cause).set(lanes as f64);
}

/// Sets whether Kafka answers.
pub fn set_kafka_up(answers: bool) {
    gauge!(KAFKA_UP).set(if answers { 1.0 } else { 0.0 });
}

/// Sets how many messages are read and not settled.
pub fn set_in_flight(messages: usize) {
    gauge!(IN_FLIGHT).set(messages as f64);
}

/// Sets the term of this relay's leadership, or that it has none.
pub fn set_leader(term: Option<i64>) {
    gauge!(LEADER).set(if term.is_some() { 1.0 } else { 0.0 });
    match term {
        Some(term) => gauge!(TERM).set(term as f64),
        None => gauge!(LEASE_REMAINING).set(0.0),
    }
}

/// Sets how long the lease can be trusted still.
pub fn set_lease_remaining(remaining: Duration) {
    gauge!(LEASE_REMAINING).set(remaining.as_secs_f64());
}

/// Counts a reading session.
pub fn count_session() {
    counter!(SESSIONS).increment(1);
}

/// Counts a broker client that was built anew.
pub fn count_producer_rebuild() {
    counter!(PRODUCER_REBUILDS).increment(1);
}

/// Counts a header of a row that was left out because the relay writes one of its name.
pub fn count_reserved_header() {
    counter!(RESERVED_HEADERS).increment(1);
}

/// Counts messages found unsettled where none should be.
pub fn count_late(messages: u64) {
    counter!(LATE).increment(messages);
}

/// Counts rows removed by housekeeping.
pub fn count_purged(rows: u64) {
    counter!(PURGED).increment(rows);
}

/// Sets the time of the latest progress to now.
pub fn set_progress_now() {
    gauge!(LAST_PROGRESS).set(chrono::Utc::now().timestamp_millis() as f64 / 1000.0);
}

/// The first topics seen keep their names; later ones become `other`, so that labels stay bounded.
fn topic_label(topic: &str) -> String {
    static SEEN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut seen = SEEN.lock();
    let seen = seen.get_or_insert_default();
    if seen.contains(topic) {
        return topic.to_owned();
    }
    if seen.len() < TOPIC_LABELS {
        seen.insert(topic.to_owned());
        return topic.to_owned();
    }
    "other".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_labels_are_bounded() {
        let labels: HashSet<String> = (0..10 * TOPIC_LABELS).map(|n| topic_label(&format!("topic-{n}"))).collect();
        assert_eq!(labels.len(), TOPIC_LABELS + 1);
        assert!(labels.contains("other"));
    }
}
