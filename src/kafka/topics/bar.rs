//! Topics to which no row of an outbox may be published, whatever Kafka allows the relay.

use crate::contract::Rejection;
use crate::kafka::config::Settings;

/// How Kafka's own topics begin.
const INTERNAL_TOPIC_PREFIX: &str = "__";

/// Why rows may not be published to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    /// The relay's progress is there: a row that looks like it would have unpublished rows marked as sent.
    Progress,
    /// Kafka keeps its own state there.
    Internal,
    /// The operator has not named it.
    NotAllowed,
}

impl Bar {
    /// What bars a topic, if anything does.
    pub(crate) fn of(topic: &str, settings: &Settings) -> Option<Self> {
        if topic == settings.progress_topic.name {
            Some(Self::Progress)
        } else if topic.starts_with(INTERNAL_TOPIC_PREFIX) {
            Some(Self::Internal)
        } else if settings.topics.iter().any(|allowed| allowed.matches(topic)) {
            None
        } else {
            Some(Self::NotAllowed)
        }
    }

    /// The rejection of a record of this topic.
    pub(crate) fn rejection(self, topic: &str) -> Rejection {
        let (code, message) = match self {
            Self::Progress => (
                "reserved_topic",
                format!(
                    "topic {topic} holds the relay's progress: correct the row, or give relay.progress_topic another name"
                ),
            ),
            Self::Internal => {
                ("reserved_topic", format!("topic {topic} is one of Kafka's own, as its name says: correct the row"))
            }
            Self::NotAllowed => (
                "topic_not_allowed",
                format!("outbox.topics does not name topic {topic}: correct the row, or add the topic to that setting"),
            ),
        };
        Rejection { code, message }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::outbox::TopicPattern;

    #[test]
    fn topics_of_ours_and_of_kafka_are_barred_even_if_the_operator_names_them() {
        let all: TopicPattern = "*".parse().expect("a pattern");
        let settings = Settings { topics: vec![all], ..Settings::new(BTreeMap::new(), "shop") };
        let bar = |topic| Bar::of(topic, &settings);
        assert_eq!(bar("outboxd-progress"), Some(Bar::Progress));
        assert_eq!([bar("__consumer_offsets"), bar("__transaction_state")], [Some(Bar::Internal); 2]);
        assert_eq!([bar("orders"), bar("_schemas"), bar("outboxd-progress.dlq")], [None; 3]);
    }

    #[test]
    fn only_named_topics_are_allowed() {
        let topics = ["orders.*", "users"].map(|pattern| pattern.parse().expect("a pattern"));
        let settings = Settings { topics: topics.into(), ..Settings::new(BTreeMap::new(), "shop") };
        for (topic, bar) in [("orders.paid", None), ("users", None), ("users.x", Some(Bar::NotAllowed))] {
            assert_eq!(Bar::of(topic, &settings), bar, "{topic}");
        }
    }
}
