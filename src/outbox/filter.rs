//! Which messages an operator means.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

/// Conditions that a message must meet, all of them. What is not named is not asked for; nothing named means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Of rows that name this partition.
    pub partition: Option<i32>,
    /// Written then or later, by the database's clock.
    pub since: Option<DateTime<Utc>>,
    /// Written before that.
    pub until: Option<DateTime<Utc>>,
    /// With one of these ids, if any is named.
    pub ids: Vec<i64>,
    /// With one of these event ids, if any is named.
    pub event_ids: Vec<Uuid>,
}

impl MessageFilter {
    /// Whether nothing is named, so that all are meant.
    pub fn means_all(&self) -> bool {
        *self == Self::default()
    }
}

/// As flags, for people and the audit log. A key is the application's data and is not told.
impl fmt::Display for MessageFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, key, partition, since, until, ids, event_ids } = self;
        let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let mut flags = Vec::new();
        let mut flag = |name: &str, value: Option<String>| flags.extend(value.map(|value| format!("--{name} {value}")));
        flag("topic", topic.clone());
        flag("key", key.as_ref().map(|_| "…".to_owned()));
        flag("partition", partition.map(|partition| partition.to_string()));
        flag("since", since.as_ref().map(time));
        flag("until", until.as_ref().map(time));
        for id in ids {
            flag("id", Some(id.to_string()));
        }
        for event_id in event_ids {
            flag("event-id", Some(event_id.to_string()));
        }
        f.write_str(if flags.is_empty() { "all" } else { "" })?;
        f.write_str(&flags.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_told_as_it_is_typed_but_for_the_key() {
        let filter = MessageFilter {
            topic: Some("orders".to_owned()),
            key: Some("secret".to_owned()),
            since: DateTime::from_timestamp(0, 0),
            ids: vec![7, 8],
            ..MessageFilter::default()
        };
        assert_eq!(filter.to_string(), "--topic orders --key … --since 1970-01-01T00:00:00Z --id 7 --id 8");
        assert!(!filter.means_all() && MessageFilter::default().means_all());
        assert_eq!(MessageFilter::default().to_string(), "all");
    }
}
