//! Every metric, once: its name, unit, help and labels, and the only functions that record it.
//!
//! Recorded per batch, not per record, except for the one histogram that is about records. The number of
//! values of a label is bounded.

#![allow(clippy::disallowed_macros, reason = "this is the catalogue that the other rooms must go through")]

mod canary;
mod kafka;
mod labels;
mod traces;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use parking_lot::Mutex;

use labels::BoundedLabel;

pub use canary::{count_canary_lost, count_canary_sent, record_canary_round_trip};
pub use kafka::{BrokerState, BrokerView, count_kafka_trouble, set_kafka_brokers, set_kafka_queue, set_kafka_up};
pub use traces::count_spans_dropped;

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
    /// The names of its labels, besides [`OUTBOX_LABEL`].
    pub labels: &'static [&'static str],
    /// What it means: the help text.
    pub help: &'static str,
    /// When it is bad, and what to do then.
    pub advice: &'static str,
}

/// Upper bounds of the histograms' buckets, in seconds.
pub const SECONDS_BUCKETS: [f64; 21] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];

/// The label that every series bears: which outbox it tells of.
pub const OUTBOX_LABEL: &str = "outbox";

/// Topics that get a label value of their own; the rest share `other`.
const TOPIC_LABELS: usize = 200;

static TOPICS: BoundedLabel = BoundedLabel::new(TOPIC_LABELS);

macro_rules! catalogue {
    ($($constant:ident $kind:ident $unit:ident $name:literal [$($label:literal),*] $help:literal $advice:literal)*) => {
        $(const $constant: &str = concat!("outboxd_", $name);)*

        /// Every metric that this process can expose.
        pub const CATALOGUE: &[Metric] = &[
            $(Metric {
                name: $constant,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
                advice: $advice,
            },)*
        ];
    };
}

catalogue! {
    OLDEST_UNSENT Gauge Seconds "oldest_unsent_seconds" []
        "Age of the oldest unsent message by the database's clock; 0 when none waits"
        "Above what your consumers tolerate: `/status` says which topics wait, the log why."
    UNSENT Gauge Count "unsent_messages" []
        "Messages that wait to be published, counted up to a limit"
        "Growing: the relay is slower than the writers, or stands; compare `outboxd_lag_state`."
    UNSENT_IS_FLOOR Gauge Count "unsent_messages_is_floor" []
        "1 while there may be more unsent messages than are counted, 0 while the count is exact"
        "1: take the age of the oldest message for the lag, not the count."
    TOPIC_UNSENT Gauge Count "topic_unsent_messages" ["topic"]
        "Messages of a topic that wait to be published, among those that are counted; of the topics that wait longest"
        "One topic alone: look whether it is held (`outboxd held ls`)."
    TOPIC_OLDEST_UNSENT Gauge Seconds "topic_oldest_unsent_seconds" ["topic"]
        "Age of a topic's oldest unsent message by the database's clock; of the topics that wait longest"
        "One topic alone: look whether it is held (`outboxd held ls`)."
    LAG_STATE Gauge Count "lag_state" ["state"]
        "1 for what the lag of the last minute amounts to, 0 for the others: ok, moving, stalled, paused or stopped"
        "`stalled`: the log and `/readyz` say what it waits for. `stopped` on every relay: nobody leads."
    COMMIT_TO_ACK Histogram Seconds "commit_to_ack_seconds" []
        "From a message's created_at to the broker's acknowledgement, by the relay's clock"
        "Above your objective: compare the parts of the way below. Two clocks are in it, the database's and the relay's."
    COMMIT_TO_READ Histogram Seconds "commit_to_read_seconds" []
        "From a message's created_at to the read that found it, by the relay's clock; of one in 64 messages of each batch"
        "Above the others: the relay was away, or keeps up with nothing more. A transaction that stays open long counts here."
    READ_TO_SEND Histogram Seconds "read_to_send_seconds" []
        "From the read of a batch until it is handed to the broker's client"
        "Above the others: Kafka is away or slow, so that no more is handed to its client."
    FETCH Histogram Seconds "fetch_seconds" []
        "One read of the outbox, empty ones included"
        "Slow: an old snapshot keeps vacuum back, or the database is busy."
    PUBLISH_ACK Histogram Seconds "publish_ack_seconds" []
        "From handing a batch to the broker's client to its last acknowledgement"
        "Slow: the brokers are; `acks`, replicas in sync, throttling."
    SETTLE Histogram Seconds "settle_seconds" []
        "One settlement written to the database"
        "Slow: the database writes slowly, or rows are locked."
    ACK_TO_SETTLED Histogram Seconds "ack_to_settled_seconds" []
        "From a batch's last acknowledgement until it is recorded in the database"
        "Above the others: settling is slow or waits; compare `outboxd_settle_seconds`. A crash repeats what is in between."
    PUBLISHED Counter Count "published_total" ["topic"]
        "Messages acknowledged by the broker, by topic"
        "Nothing while something waits: see `outboxd_lag_state`."
    REPLAYED Counter Count "replayed_total" ["topic"]
        "Rows sent again because an operator asked for a replay, by the topic that they went to"
        "Growing though nobody remembers why: `outboxd operations ls` says who asked for it."
    REJECTED Counter Count "rejected_total" ["topic", "cause"]
        "Messages that can never be published, by topic and cause"
        "Growing: mend the cause; the rows are dead letters, or their lanes are held."
    DEAD_LETTERS Gauge Count "dead_letters" []
        "Dead letters kept in the table, counted up to a limit"
        "Growing: look at them with `outboxd dead ls`, mend the cause, put back what is still wanted with `outboxd dead requeue`."
    HELD_LANES Gauge Count "held_lanes" ["cause"]
        "Lanes and topics that wait, by cause"
        "Above 0: `outboxd held ls` says what waits and for what."
    PAUSED Gauge Count "paused" ["scope"]
        "What operators paused: all is 1 while everything is; topics is how many patterns of topics are"
        "Above 0 though nobody remembers why: `outboxd status` says since when and by whom, `outboxd resume` ends it."
    IN_FLIGHT Gauge Count "in_flight_messages" []
        "Messages read and not settled yet"
        "At `relay.in_flight.records` for long: the brokers, or settling, are the bottleneck."
    LEADER Gauge Count "leader" []
        "1 while this relay leads, 0 while it is standby"
        "The sum over the relays of an outbox is not 1 for longer than a takeover."
    TERM Gauge Count "term" []
        "The number of this relay's latest leadership"
        "Growing again and again: leaderships are lost; the log says why."
    LEASE_REMAINING Gauge Seconds "lease_remaining_seconds" []
        "How long the lease can be trusted still; 0 while standby"
        "Near 0 while leading: the database answers slower than `lease.ttl` allows."
    SESSIONS Counter Count "sessions_total" []
        "Reading sessions begun; more than one a leadership tells of failures that were recovered from"
        "Growing steadily: something fails and is recovered from; the log names it."
    PRODUCER_REBUILDS Counter Count "producer_rebuilds_total" []
        "Times that the broker's client was built anew after an error"
        "Growing steadily: the brokers refuse something or cut connections."
    RESERVED_HEADERS Counter Count "reserved_headers_dropped_total" []
        "Headers of rows that were left out because the relay writes headers of these names itself"
        "Growing: rename these headers where rows are inserted."
    LATE Counter Count "late_messages_total" []
        "Messages that became due behind the reader, since they were corrected, restored or moved back by hand; each counts once"
        "Above 0: rows were changed or restored by hand. If nobody did, please report it."
    PURGED Counter Count "purged_total" []
        "Settled rows removed after the retention"
        "Nothing though old rows are there: the log says what keeps housekeeping from removing them."
    LAST_PROGRESS Gauge Seconds "last_progress_timestamp_seconds" []
        "When the relay last settled something or found nothing to do, as Unix time"
        "Older than a minute on a leader while something waits."
    OLDEST_SNAPSHOT Gauge Seconds "oldest_snapshot_seconds" []
        "Age of the oldest snapshot in the database, which holds back vacuum"
        "Above an hour: end the transaction that holds it, or the outbox cannot be vacuumed."
    DATABASE_SESSIONS Gauge Count "database_sessions" []
        "Sessions that the relays of this role have in the database, by the database's own count"
        "Above 7 for each relay and outbox, or 8 with a canary: the server keeps sessions that were given up."
    KAFKA_UP Gauge Count "kafka_up" []
        "1 while Kafka answers this relay, 0 while it does not; asked twice a minute while nothing is published"
        "0: the brokers, the network or the credentials; nothing is lost meanwhile."
    CHECK Gauge Count "check" ["check", "status"]
        "1 for how a named check came out, 0 for the others: ok, warning, failed or unknown; looked at every 15 seconds. A check that the database has nothing for has no series"
        "`failed` or `warning`: `outboxd doctor` says why, and what to type; `/status` has the same list."
    CERTIFICATE_END Gauge Seconds "certificate_not_after_timestamp_seconds" ["setting"]
        "Until when the certificates that a setting names are valid, as Unix time; looked at every minute"
        "Less than 30 days ahead: replace the certificate, and restart the relay."
    KAFKA_QUEUE Gauge Count "kafka_queue_messages" []
        "Messages in the broker's clients that are not acknowledged"
        "At `relay.in_flight.records` for long: the brokers take no more."
    KAFKA_QUEUE_BYTES Gauge Bytes "kafka_queue_bytes" []
        "Bytes of the messages in the broker's clients that are not acknowledged"
        "Near `relay.in_flight.bytes` for long: the brokers take no more."
    KAFKA_BROKERS Gauge Count "kafka_brokers" ["state"]
        "Brokers by how it stands with the connection to them: idle (nothing was wanted of it), down, connecting or up"
        "`connecting` for long: that broker, the network or the credentials. One that closed an idle connection is `down` too."
    KAFKA_ROUND_TRIP Gauge Seconds "kafka_round_trip_seconds" ["broker"]
        "From a request to a broker until its answer: the 99th percentile of the last ten seconds; 0 while nothing is asked"
        "One broker alone: it is slow. All: replicas in sync, or the network."
    KAFKA_THROTTLE Gauge Seconds "kafka_throttle_seconds" ["broker"]
        "For how long a broker slowed the client down, at most, within the last ten seconds"
        "Above 0: a quota of Kafka's for this user or client id is used up."
    KAFKA_RETRIES Counter Count "kafka_retries_total" ["broker"]
        "Requests that were sent to a broker again"
        "Growing: leaders move, connections break, or too few replicas are in sync."
    KAFKA_TIMEOUTS Counter Count "kafka_request_timeouts_total" ["broker"]
        "Requests to a broker that had no answer in time"
        "Growing: the broker hangs, or the network loses packets."
    TABLE_BYTES Gauge Bytes "table_bytes" []
        "Size of the outbox's table with its indexes and large values, of the whole file where the database is SQLite; once a minute"
        "Growing while nothing waits: vacuum or retention is behind."
    DEAD_ROWS Gauge Count "dead_rows" []
        "Dead rows of the outbox's table that vacuum has still to remove, as PostgreSQL estimates; once a minute"
        "Growing for hours: vacuum is behind, or held back by an old snapshot."
    LAST_VACUUM Gauge Seconds "last_vacuum_timestamp_seconds" []
        "When the outbox's table was vacuumed last, by hand or automatically, as Unix time; PostgreSQL only"
        "Hours ago while rows are published: autovacuum is off, starved or held back."
    CANARY_ROUND_TRIP Histogram Seconds "canary_round_trip_seconds" []
        "From writing a row of the canary until its consumer had read it, by one clock; late ones too"
        "Above your objective: nothing is left out of it, so compare the parts of the way above. Empty: the canary is off."
    CANARY_SENT Counter Count "canary_sent_total" []
        "Rows that the canary of this process has written"
        "Standing still though `canary.every` is set: the check `canary` says why."
    CANARY_LOST Counter Count "canary_lost_total" []
        "Rows of the canary that were written and did not come back within `canary.lost_after`; one that comes later stays counted"
        "Growing: what is committed does not reach consumers in time; `outboxd status` says what waits and for what."
    SPANS_DROPPED Counter Count "spans_dropped_total" []
        "Spans of published batches that no collector took: it was away, slow, or refused them; 0 where no traces are sent"
        "Growing: the log says what the collector answers. Publishing does not suffer from it."
    BUILD_INFO Gauge Count "build_info" ["version"]
        "1, with the version as a label"
        "Two versions for longer than a rollout takes."
}

/// Tells the exporter names, units and help texts, and sets the values that never change.
pub fn describe() {
    for metric in CATALOGUE {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => {
                describe_histogram!(metric.name, metric.unit, metric.help);
                // There from the beginning, so that the first observation is seen as an increase.
                drop(histogram!(metric.name));
            }
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(LATE).absolute(0);
    counter!(PURGED).absolute(0);
    counter!(SESSIONS).absolute(0);
    counter!(PRODUCER_REBUILDS).absolute(0);
    counter!(RESERVED_HEADERS).absolute(0);
    counter!(CANARY_SENT).absolute(0);
    counter!(CANARY_LOST).absolute(0);
    counter!(SPANS_DROPPED).absolute(0);
    set_leader(None);
    set_in_flight(0);
    set_kafka_queue(0, 0);
    set_kafka_brokers(&BTreeMap::new());
    set_paused(false, 0);
}

/// What the lag of the last minute amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LagState {
    /// Nothing waited at some moment.
    Ok,
    /// Something waited all the time, and something was published.
    Moving,
    /// Something waited all the time, and nothing was published.
    Stalled,
    /// Operators paused everything, or all that waits and does not move.
    Paused,
    /// This relay does not lead, and sees none that does.
    Stopped,
}

/// Sets what the lag amounts to.
pub fn set_lag_state(now: LagState) {
    let states = [
        (LagState::Ok, "ok"),
        (LagState::Moving, "moving"),
        (LagState::Stalled, "stalled"),
        (LagState::Paused, "paused"),
        (LagState::Stopped, "stopped"),
    ];
    for (state, word) in states {
        gauge!(LAG_STATE, "state" => word).set(if state == now { 1.0 } else { 0.0 });
    }
}

/// Sets how much waits: the count, whether it is exact, the age of the oldest, and the age of the oldest snapshot where there
/// is one.
pub fn set_backlog(unsent: u64, capped: bool, oldest: Duration, oldest_snapshot: Option<Duration>) {
    gauge!(UNSENT).set(unsent as f64);
    gauge!(UNSENT_IS_FLOOR).set(if capped { 1.0 } else { 0.0 });
    gauge!(OLDEST_UNSENT).set(oldest.as_secs_f64());
    if let Some(age) = oldest_snapshot {
        gauge!(OLDEST_SNAPSHOT).set(age.as_secs_f64());
    }
}

/// Sets how much waits of some topics: how many messages, and the age of the oldest. Nothing waits of the others any more.
pub fn set_topic_backlogs<'a>(topics: impl IntoIterator<Item = (&'a str, u64, Duration)>) {
    static SHOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut waiting: BTreeMap<String, (u64, Duration)> = BTreeMap::new();
    for (topic, unsent, oldest) in topics {
        let (all, longest) = waiting.entry(TOPICS.of(topic)).or_default();
        (*all, *longest) = (*all + unsent, oldest.max(*longest));
    }
    let mut shown = SHOWN.lock();
    shown.extend(waiting.keys().cloned());
    for topic in shown.iter() {
        let (unsent, oldest) = waiting.get(topic).copied().unwrap_or_default();
        gauge!(TOPIC_UNSENT, "topic" => topic.clone()).set(unsent as f64);
        gauge!(TOPIC_OLDEST_UNSENT, "topic" => topic.clone()).set(oldest.as_secs_f64());
    }
}

/// Sets how the named checks came out: each by its name and one of these words. Those that are not among them any more have
/// come out in no way.
pub fn set_checks(came_out: &[(&'static str, &'static str)], words: &[&'static str]) {
    static SHOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut shown = SHOWN.lock();
    shown.extend(came_out.iter().map(|(check, _)| check));
    for check in shown.iter() {
        let came_out = came_out.iter().find(|(name, _)| name == check).map(|(_, word)| *word);
        for word in words {
            let holds = came_out == Some(*word);
            gauge!(CHECK, "check" => *check, "status" => *word).set(if holds { 1.0 } else { 0.0 });
        }
    }
}

/// Sets until when the certificates that a setting names are valid, as Unix time.
pub fn set_certificate_end(setting: &'static str, timestamp: i64) {
    gauge!(CERTIFICATE_END, "setting" => setting).set(timestamp as f64);
}

/// Sets how many sessions the database counts of the relays of this role.
pub fn set_database_sessions(sessions: u64) {
    gauge!(DATABASE_SESSIONS).set(sessions as f64);
}

/// Sets what the outbox's table is to the database: its size, its dead rows and when it was vacuumed, where that is known.
pub fn set_footprint(bytes: u64, dead_rows: Option<u64>, vacuumed_at: Option<DateTime<Utc>>) {
    gauge!(TABLE_BYTES).set(bytes as f64);
    if let Some(rows) = dead_rows {
        gauge!(DEAD_ROWS).set(rows as f64);
    }
    if let Some(at) = vacuumed_at {
        gauge!(LAST_VACUUM).set(at.timestamp_millis() as f64 / 1000.0);
    }
}

/// Sets how many dead letters are kept.
pub fn set_dead_letters(letters: u64) {
    gauge!(DEAD_LETTERS).set(letters as f64);
}

/// Takes how long messages took from `created_at` to their acknowledgement: looked up once for many.
pub fn commit_to_ack() -> Histogram {
    histogram!(COMMIT_TO_ACK)
}

/// Takes how long messages waited for the read that found them: looked up once for many.
pub fn commit_to_read() -> Histogram {
    histogram!(COMMIT_TO_READ)
}

/// Records how long a batch waited in the relay before it was handed over.
pub fn record_read_to_send(waited: Duration) {
    histogram!(READ_TO_SEND).record(waited);
}

/// Records how long a batch waited between its acknowledgement and its settlement.
pub fn record_ack_to_settled(waited: Duration) {
    histogram!(ACK_TO_SETTLED).record(waited);
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
    counter!(PUBLISHED, "topic" => TOPICS.of(topic)).increment(messages);
}

/// Counts rows that were sent again.
pub fn count_replayed(topic: &str, rows: u64) {
    counter!(REPLAYED, "topic" => TOPICS.of(topic)).increment(rows);
}

/// Counts a message that can never be published.
pub fn count_rejected(topic: &str, cause: &'static str) {
    counter!(REJECTED, "topic" => TOPICS.of(topic), "cause" => cause).increment(1);
}

/// Sets how many lanes are held for one cause.
pub fn set_held(cause: &'static str, lanes: usize) {
    gauge!(HELD_LANES, "cause" => cause).set(lanes as f64);
}

/// Sets what operators paused: everything or not, and how many patterns of topics.
pub fn set_paused(all: bool, topics: usize) {
    gauge!(PAUSED, "scope" => "all").set(if all { 1.0 } else { 0.0 });
    gauge!(PAUSED, "scope" => "topics").set(topics as f64);
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
