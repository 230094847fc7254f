//! What the broker says about topics and their partitions.

use std::sync::Arc;

use crate::kafka::topics::limits::TopicLimits;
use crate::outbox::HoldCause;

/// Who keeps a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replicas {
    /// The broker that leads it; [`NO_LEADER`] while none does.
    pub(crate) leader: i32,
    /// How many replicas have all of it.
    pub(crate) in_sync: usize,
}

/// How many partitions these are, as Kafka counts them.
pub(crate) fn count(partitions: &[Replicas]) -> i32 {
    i32::try_from(partitions.len()).expect("Kafka counts partitions in 32 bits")
}

/// What Kafka's protocol says in the place of a leader.
pub(crate) const NO_LEADER: i32 = -1;

/// What the broker says about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It exists.
    Known {
        /// Its partitions, at least one, by their numbers.
        partitions: Vec<Replicas>,
        /// What its settings say about records, where we may know it.
        limits: TopicLimits,
    },
    /// Its records must wait.
    Held(HoldCause),
    /// No topic can have this name.
    Impossible,
}

/// A partition, by the name of its topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TopicPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// What a look at a partition has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) at: TopicPartition,
    pub(crate) found: Found,
}

/// Whether a partition takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// As far as can be seen it does.
    Available { leader: i32 },
    /// Its leader does not answer, or there is none.
    Silent { leader: i32 },
    /// Fewer replicas follow than its topic asks for.
    TooFewReplicas,
}
