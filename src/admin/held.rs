//! `outboxd held`: what waits for an operator, and letting it go.

use std::fmt;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::admin::table;
use crate::contract::{Store, StoreError};
use crate::outbox::{HeldLane, Lane};

/// Which held lanes are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneFilter {
    /// Those of this topic; of all topics where there is none.
    pub topic: Option<String>,
    /// Those of this key.
    pub key: Option<String>,
    /// Those of this partition.
    pub partition: Option<i32>,
}

impl LaneFilter {
    fn means(&self, lane: &Lane) -> bool {
        self.topic.as_deref().is_none_or(|topic| topic == lane.topic())
            && self.key.as_deref().is_none_or(|key| lane.key() == Some(key))
            && self.partition.is_none_or(|partition| lane.partition() == Some(partition))
    }
}

/// The held lanes that are meant, longest held first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(store: &dyn Store, which: &LaneFilter) -> Result<Vec<HeldLane>, StoreError> {
    let mut lanes = store.held_lanes().await?;
    lanes.retain(|lane| which.means(&lane.held.lane));
    Ok(lanes)
}

/// As flags, for people and the audit log. A key is the application's data and is not told.
impl fmt::Display for LaneFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, key, partition } = self;
        match topic {
            None => f.write_str("--all")?,
            Some(topic) => write!(f, "--topic {topic}")?,
        }
        if key.is_some() {
            f.write_str(" --key …")?;
        }
        partition.map_or(Ok(()), |partition| write!(f, " --partition {partition}"))
    }
}

/// A table for people.
pub fn to_text(lanes: &[HeldLane]) -> String {
    if lanes.is_empty() {
        return "nothing is held\n".to_owned();
    }
    table::aligned(["TOPIC", "LANE", "FROM ID", "CAUSE", "SINCE", "RELEASE"], lanes.iter().map(row))
}

fn row(HeldLane { held, release_requested }: &HeldLane) -> [String; 6] {
    let lane = match &held.lane {
        Lane::Topic { .. } => "whole topic".to_owned(),
        Lane::Key { key, .. } => format!("key {key:?}"),
        Lane::Partition { partition, .. } => format!("partition {partition}"),
    };
    let age = (Utc::now() - held.since).to_std().unwrap_or_default();
    let age = humantime::format_duration(std::time::Duration::from_secs(age.as_secs()));
    let release = if *release_requested { "requested" } else { "" };
    let (topic, cause) = (held.lane.topic().to_owned(), held.cause.as_str().to_owned());
    [topic, lane, held.from_id.to_string(), cause, format!("{age} ago"), release.to_owned()]
}

/// One JSON object a line, for programs.
pub fn to_json(lanes: &[HeldLane]) -> String {
    lanes.iter().map(|lane| format!("{}\n", described(lane))).collect()
}

/// A held lane as JSON. Its id is a string: it may exceed what JavaScript can tell apart.
pub fn described(HeldLane { held, release_requested }: &HeldLane) -> Value {
    json!({
        "topic": held.lane.topic(),
        "key": held.lane.key(),
        "partition": held.lane.partition(),
        "from_id": held.from_id.to_string(),
        "cause": held.cause.as_str(),
        "since": held.since.to_rfc3339_opts(SecondsFormat::Micros, true),
        "release_requested": release_requested,
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::{Held, HoldCause};

    fn lane(lane: Lane) -> HeldLane {
        let held = Held { lane, from_id: 7, after: None, cause: HoldCause::Rejected, since: DateTime::UNIX_EPOCH };
        HeldLane { held, release_requested: true }
    }

    #[test]
    fn what_is_not_named_means_all() {
        let key = Lane::from_columns("a", Some("k"), None);
        let which = |topic: Option<&str>, key: Option<&str>| LaneFilter {
            topic: topic.map(str::to_owned),
            key: key.map(str::to_owned),
            partition: None,
        };
        assert!(which(None, None).means(&key) && which(Some("a"), None).means(&key));
        assert!(which(Some("a"), Some("k")).means(&key) && !which(Some("b"), Some("k")).means(&key));
        assert!(!which(Some("a"), Some("k")).means(&Lane::topic_of("a")));
    }

    #[test]
    fn a_lane_is_told_in_one_line() {
        let lanes = [lane(Lane::from_columns("orders", Some("k 1"), None))];
        let text = to_text(&lanes);
        assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("orders  key \"k 1\"  7")), "{text}");
        let object: serde_json::Value = serde_json::from_str(&to_json(&lanes)).expect("JSON");
        assert_eq!((&object["key"], &object["release_requested"]), (&json!("k 1"), &json!(true)));
        assert_eq!(to_text(&[]), "nothing is held\n");
    }
}
