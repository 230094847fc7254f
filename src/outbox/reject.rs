//! The decision about a record that can never be published, topic by topic.

use std::fmt;
use std::str::FromStr;

use crate::outbox::word::words;

words! {
    /// What becomes of a record that can never be published. In each case nothing of its lane overtakes it.
    #[derive(Default)]
    pub enum OnReject else "nothing to do with a rejected record" {
        /// It becomes a dead letter, and then its lane goes on.
        #[default]
        DeadLetter = "dead-letter",
        /// Its lane is held until someone releases it; a record without a lane becomes a dead letter.
        BlockKey = "block-key",
        /// The relay stops.
        Halt = "halt",
    }
}

/// What becomes of rejected records, topic by topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectPolicy {
    /// Of topics that no rule names.
    pub otherwise: OnReject,
    /// The first rule that names a topic decides.
    pub rules: Vec<(TopicPattern, OnReject)>,
}

impl RejectPolicy {
    /// What becomes of rejected records of this topic.
    pub fn of(&self, topic: &str) -> OnReject {
        let rule = self.rules.iter().find(|(pattern, _)| pattern.matches(topic));
        rule.map_or(self.otherwise, |(_, policy)| *policy)
    }
}

/// A topic's name, in which `*` stands for any characters or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern(String);

/// Text that is no pattern of topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern of topics: use the letters a-z, A-Z, 0-9, '.', '_' and '-', and * for any of them")]
pub struct InvalidTopicPattern(String);

impl TopicPattern {
    /// The pattern of all topics.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// The topic, where no other is meant.
    pub fn topic(&self) -> Option<&str> {
        Some(&*self.0).filter(|pattern| !pattern.contains('*'))
    }

    /// Whether all topics are meant.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|c| c == b'*')
    }

    /// The pattern that means the same, written in one way where all topics are meant.
    pub fn normal(self) -> Self {
        if self.is_any() { Self::any() } else { self }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the topic is meant.
    pub fn matches(&self, topic: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = topic.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopicPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTopicPattern> {
        let is_possible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
        let pattern = !text.is_empty() && text.chars().all(is_possible);
        pattern.then(|| Self(text.to_owned())).ok_or_else(|| InvalidTopicPattern(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> TopicPattern {
        text.parse().expect("a pattern")
    }

    #[test]
    fn a_star_stands_for_any_characters_or_none() {
        for (text, topic) in [("a", "a"), ("*", "a"), ("a.*", "a."), ("*.c", "a.b.c"), ("a*b*c", "a-b-b-c"), ("*", "")]
        {
            assert!(pattern(text).matches(topic), "{text} {topic}");
        }
        for (text, topic) in
            [("a", "ab"), ("a", "ba"), ("a.*", "a"), ("*.c", "a.c.b"), ("a*b*c", "a-c"), ("ab*ba", "aba")]
        {
            assert!(!pattern(text).matches(topic), "{text} {topic}");
        }
        assert!("a b".parse::<TopicPattern>().is_err() && "".parse::<TopicPattern>().is_err());
    }

    #[test]
    fn the_first_rule_that_names_a_topic_decides() {
        let rules = vec![(pattern("orders.paid"), OnReject::Halt), (pattern("orders.*"), OnReject::BlockKey)];
        let policy = RejectPolicy { otherwise: OnReject::DeadLetter, rules };
        assert_eq!(policy.of("orders.paid"), OnReject::Halt);
        assert_eq!(policy.of("orders.sent"), OnReject::BlockKey);
        assert_eq!(policy.of("users"), OnReject::DeadLetter);
    }
}
