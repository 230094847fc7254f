//! Held lanes: what waits for an operator or for its topic.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::outbox::Position;

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

/// Why a lane is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HoldCause {
    /// The broker does not know the topic.
    MissingTopic,
    /// The broker does not let the relay write to the topic.
    NotAuthorised,
    /// A record of the lane can never be published as it is, and nothing may overtake it.
    Rejected,
}

impl HoldCause {
    /// All causes.
    pub const ALL: [HoldCause; 3] = [HoldCause::MissingTopic, HoldCause::NotAuthorised, HoldCause::Rejected];

    /// The word for it in tables, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldCause::MissingTopic => "missing_topic",
            HoldCause::NotAuthorised => "not_authorised",
            HoldCause::Rejected => "rejected",
        }
    }

    /// Reads the word back; `None` for a word that a newer version wrote.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
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
