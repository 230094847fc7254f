//! Dead letters: records that were given up.

use std::str::FromStr;

use uuid::Uuid;

use crate::outbox::message::is_topic_name;

/// A record that is given up, named by its row, with its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row's id.
    pub id: i64,
    /// The event's identity; see [`Settlement`](crate::outbox::Settlement) for why both name a row. `None` where the row has
    /// none that can be read: then its id alone names it.
    pub event_id: Option<Uuid>,
    /// The name of the cause.
    pub code: String,
    /// What happened, to what, and what would do; never the payload or the key.
    pub message: String,
    /// The topic to which it is to be published, if any.
    pub topic: Option<String>,
}

/// The code of a record that an operator gave up.
pub const SKIPPED: &str = "skipped";

/// Where dead letters are published: a topic's name, in which `{topic}` stands for the record's own topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterTopic(String);

/// Text that names no topic for dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no topic: use the letters a-z, A-Z, 0-9, '.', '_' and '-', and {{topic}} where the record's own topic is meant"
)]
pub struct InvalidDeadLetterTopic(String);

/// What stands for the record's own topic.
const OWN_TOPIC: &str = "{topic}";

impl DeadLetterTopic {
    /// The topic for a dead letter of this topic; `None` where the name would be too long for Kafka, or the same.
    pub fn of(&self, topic: &str) -> Option<String> {
        let name = self.0.replace(OWN_TOPIC, topic);
        (is_topic_name(&name) && name != topic).then_some(name)
    }
}

impl FromStr for DeadLetterTopic {
    type Err = InvalidDeadLetterTopic;

    fn from_str(text: &str) -> Result<Self, InvalidDeadLetterTopic> {
        let possible = text != OWN_TOPIC && is_topic_name(&text.replace(OWN_TOPIC, "t"));
        possible.then(|| Self(text.to_owned())).ok_or_else(|| InvalidDeadLetterTopic(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_puts_the_records_topic_in() {
        let template: DeadLetterTopic = "{topic}.dlq".parse().expect("a template");
        assert_eq!(template.of("orders").as_deref(), Some("orders.dlq"));
        assert_eq!(template.of(&"o".repeat(249)), None);
        let fixed: DeadLetterTopic = "dead".parse().expect("a name");
        assert_eq!(fixed.of("orders").as_deref(), Some("dead"));
        assert_eq!(fixed.of("dead"), None, "a dead letter of the dead letters' topic stays in the table");
    }

    #[test]
    fn what_cannot_name_a_topic_is_refused() {
        for text in ["", "{topic}", "a b", "{topc}.dlq", "{topic}/dlq"] {
            assert!(text.parse::<DeadLetterTopic>().is_err(), "{text}");
        }
    }
}
