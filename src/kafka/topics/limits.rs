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
    /// How far a record's timestamp may be from the broker's time, where the broker tells and takes the producer's.
    pub(crate) timestamps: Option<TimestampBounds>,
}

/// By how many milliseconds a record's timestamp may be before and after the broker's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimestampBounds {
    before: i64,
    after: i64,
}

impl TopicLimits {
    /// Whether a record may have this timestamp, as far as the broker tells.
    pub(crate) fn takes_timestamp(&self, time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.timestamps.is_none_or(|bounds| {
            let ahead = time.timestamp_millis().saturating_sub(now.timestamp_millis());
            ahead <= bounds.after && ahead >= bounds.before.saturating_neg()
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
fn timestamp_bounds<'a>(value: impl Fn(&'static str) -> Option<&'a str>) -> Option<TimestampBounds> {
    let bound = |name| {
        let given = value(name).or_else(|| value("message.timestamp.difference.max.ms"));
        given.and_then(|millis| millis.parse().ok())
    };
    let is_ours = value("message.timestamp.type") == Some("CreateTime");
    let before = bound("message.timestamp.before.max.ms")?;
    let after = bound("message.timestamp.after.max.ms")?;
    is_ours.then_some(TimestampBounds { before, after })
}
