//! What topics demand of records.

use chrono::{DateTime, Utc};
use rdkafka::admin::{ConfigResource, OwnedResourceSpecifier};

/// What a topic demands of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TopicLimits {
    /// Its `max.message.bytes`, where the broker tells. Where not, the broker is the judge.
    pub(crate) message_bytes: Option<usize>,
    /// Whether it is compacted, so that every record needs a key; where the broker tells.
    pub(crate) compacted: Option<bool>,
    /// Its `min.insync.replicas`, where the broker tells.
    pub(crate) min_in_sync: Option<usize>,
    /// By how many milliseconds a record's timestamp may be before and after the broker's time, where the broker tells
    /// and takes the producer's.
    pub(crate) timestamps: Option<(i64, i64)>,
}

impl TopicLimits {
    /// Whether a record may have this timestamp, as far as the broker tells.
    pub(crate) fn takes_timestamp(&self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.timestamps.is_none_or(|(before, after)| {
            let ahead = time.timestamp_millis().saturating_sub(now.timestamp_millis());
            ahead <= after && ahead >= before.saturating_neg()
        })
    }
}

/// A topic, and what it demands of records.
pub(crate) fn named_limits(settings: &ConfigResource) -> Option<(String, TopicLimits)> {
    let OwnedResourceSpecifier::Topic(topic) = &settings.specifier else { return None };
    let value = |name| settings.get(name)?.value.as_deref();
    let limits = TopicLimits {
        message_bytes: value("max.message.bytes").and_then(|limit| limit.parse().ok()),
        compacted: value("cleanup.policy").map(|policy| policy.contains("compact")),
        min_in_sync: value("min.insync.replicas").and_then(|replicas| replicas.parse().ok()),
        timestamps: timestamp_bounds(value),
    };
    Some((topic.clone(), limits))
}

/// The bounds of timestamps, by their names since Apache Kafka 3.6 or by the one before that.
fn timestamp_bounds<'a>(value: impl Fn(&'static str) -> Option<&'a str>) -> Option<(i64, i64)> {
    let bound = |name| {
        let given = value(name).or_else(|| value("message.timestamp.difference.max.ms"));
        given.and_then(|millis| millis.parse().ok())
    };
    let is_ours = value("message.timestamp.type") == Some("CreateTime");
    is_ours.then_some(bound("message.timestamp.before.max.ms")?).zip(bound("message.timestamp.after.max.ms"))
}
