//! Held lanes: what waits for an operator or for its topic.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::outbox::position::Position;
use crate::outbox::word::words;

/// The unit of order, and of holding: a key of a topic, a partition of a topic, or a whole topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// All records of a topic; only ever held, never a unit of order.
    Topic {
        /// The topic.
        topic: Arc<str>,
    },
    /// All records of one key of a topic.
    Key {
        /// The topic.
        topic: Arc<str>,
        /// The key.
        key: Arc<str>,
    },
    /// All records whose rows name this partition.
    Partition {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
    },
}

impl Lane {
    /// The lane that is a whole topic.
    pub fn topic_of(topic: &str) -> Self {
        Lane::Topic { topic: topic.into() }
    }

    /// Whether all of another lane belongs to this one.
    pub fn contains(&self, other: &Lane) -> bool {
        matches!(self, Lane::Topic { topic } if **topic == *other.topic()) || self == other
    }

    /// The topic it belongs to.
    pub fn topic(&self) -> &str {
        match self {
            Lane::Topic { topic } | Lane::Key { topic, .. } | Lane::Partition { topic, .. } => topic,
        }
    }

    /// The key, where the lane is one key of a topic.
    pub fn key(&self) -> Option<&str> {
        match self {
            Lane::Key { key, .. } => Some(key),
            Lane::Topic { .. } | Lane::Partition { .. } => None,
        }
    }

    /// The partition, where the lane is one partition of a topic.
    pub fn partition(&self) -> Option<i32> {
        match self {
            Lane::Partition { partition, .. } => Some(*partition),
            Lane::Topic { .. } | Lane::Key { .. } => None,
        }
    }

    /// Puts a lane together from its columns in the table of held lanes.
    pub fn from_columns(topic: &str, key: Option<&str>, partition: Option<i32>) -> Self {
        let topic = topic.into();
        match (key, partition) {
            (_, Some(partition)) => Lane::Partition { topic, partition },
            (Some(key), None) => Lane::Key { topic, key: key.into() },
            (None, None) => Lane::Topic { topic },
        }
    }
}

/// Keys are the application's data: a lane shows its topic and what kind of lane it is, never the key.
impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Topic { topic } => write!(f, "topic {topic}"),
            Lane::Key { topic, .. } => write!(f, "a key of topic {topic}"),
            Lane::Partition { topic, partition } => write!(f, "partition {partition} of topic {topic}"),
        }
    }
}

words! {
    /// Why a lane is held.
    #[non_exhaustive]
    pub enum HoldCause else "no cause of a hold" {
        /// The broker does not know the topic.
        MissingTopic = "missing_topic",
        /// The broker does not let the relay write to the topic.
        NotAuthorised = "not_authorised",
        /// The partition takes nothing: it has no leader, its leader does not answer, or too few replicas follow it.
        UnavailablePartition = "unavailable_partition",
        /// The broker may refuse records of the lane, and to try each alone took longer than the others are to wait: it goes
        /// on in turns.
        Suspected = "suspected",
        /// An operator paused the topic.
        Paused = "paused",
        /// A record of the lane can never be published as it is, and nothing may overtake it.
        Rejected = "rejected",
    }
}

impl HoldCause {
    /// What is held for it, when a record of this topic and this lane waits: the lane, where nothing else is concerned, and
    /// else the topic.
    pub fn lane(self, topic: &Arc<str>, lane: Option<Lane>) -> Lane {
        match (self, lane) {
            (HoldCause::UnavailablePartition | HoldCause::Suspected, Some(lane)) => lane,
            _ => Lane::Topic { topic: Arc::clone(topic) },
        }
    }
}

/// A held lane as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLane {
    /// The lane, and why it is held.
    pub held: Held,
    /// Whether its release was asked for; the leader grants it.
    pub release_requested: bool,
}

/// A held lane: nothing of it is published from `from_id` on until it is released.
///
/// What is left of the lane is told by both `from_id` and `after`. The id alone would not do: a record that committed late
/// can be the first to wait, and records of higher ids, which are published, are then above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What is held.
    pub lane: Lane,
    /// The lowest id of the lane that may be unsettled.
    pub from_id: i64,
    /// Records of the lane that this position calls read were published before the lane was held. `None`: nothing is
    /// known of that.
    pub after: Option<Position>,
    /// Why.
    pub cause: HoldCause,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// What is to be changed of the stored held lanes: there may be thousands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeldChanges<'a> {
    /// Lanes that are held, and are not stored as they are.
    pub held: Vec<&'a Held>,
    /// Lanes that are stored, and of which all is settled.
    pub settled: Vec<&'a Lane>,
}

impl<'a> HeldChanges<'a> {
    /// What makes the lanes that are `stored` those that are `held`.
    pub fn between(stored: &'a [Held], held: &'a [Held]) -> Self {
        if stored == held {
            return Self::default();
        }
        let by_lane = |all: &'a [Held]| all.iter().map(|held| (&held.lane, held)).collect::<HashMap<_, _>>();
        let (before, after) = (by_lane(stored), by_lane(held));
        Self {
            held: held.iter().filter(|held| before.get(&held.lane) != Some(held)).collect(),
            settled: stored.iter().map(|held| &held.lane).filter(|lane| !after.contains_key(lane)).collect(),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.settled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(topic: &str, from_id: i64) -> Held {
        let (lane, since) = (Lane::topic_of(topic), DateTime::UNIX_EPOCH);
        Held { lane, from_id, after: None, cause: HoldCause::MissingTopic, since }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let stored = [held("same", 1), held("lower", 5), held("settled", 1)];
        let now = [held("lower", 4), held("fresh", 9), held("same", 1)];
        let changes = HeldChanges::between(&stored, &now);
        assert_eq!(changes, HeldChanges { held: vec![&now[0], &now[1]], settled: vec![&stored[2].lane] });
        assert!(HeldChanges::between(&now, &[held("same", 1), held("fresh", 9), held("lower", 4)]).is_empty());
    }
}
