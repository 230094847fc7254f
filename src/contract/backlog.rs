//! How much waits.

use std::collections::HashMap;
use std::time::Duration;

/// How much waits to be published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlog {
    /// Unsent messages, counted up to the limit that was asked for.
    pub unsent: u64,
    /// Whether there may be more than were counted.
    pub capped: bool,
    /// Age of the oldest unsent message by the database's clock; zero when there is none.
    pub oldest: Duration,
    /// The topics of which messages wait longest, longest first: [`TopicBacklog::MOST`] of them at most.
    pub topics: Vec<TopicBacklog>,
    /// Age of the oldest snapshot that holds back vacuum, where the database has such a thing.
    pub oldest_snapshot: Option<Duration>,
    /// Sessions that relays of this role have in the database, by its own count, where it has one.
    pub sessions: Option<u64>,
    /// Dead letters kept, counted up to the limit that was asked for.
    pub dead_letters: u64,
}

/// How much of one topic waits to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicBacklog {
    /// The topic, as the rows name it.
    pub topic: String,
    /// Unsent messages of it among those that were counted.
    pub unsent: u64,
    /// Age of the oldest of them by the database's clock.
    pub oldest: Duration,
}

impl TopicBacklog {
    /// How many topics a backlog names at most.
    pub const MOST: usize = 20;

    /// Of what was counted, in parts, the topics that wait longest.
    pub fn longest(counted: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut topics: HashMap<String, Self> = HashMap::new();
        for part in counted {
            match topics.get_mut(&part.topic) {
                Some(topic) => {
                    topic.unsent += part.unsent;
                    topic.oldest = topic.oldest.max(part.oldest);
                }
                None => drop(topics.insert(part.topic.clone(), part)),
            }
        }
        let mut topics: Vec<Self> = topics.into_values().collect();
        topics.sort_by(|a, b| b.oldest.cmp(&a.oldest).then_with(|| a.topic.cmp(&b.topic)));
        topics.truncate(Self::MOST);
        topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(topic: &str, unsent: u64, seconds: u64) -> TopicBacklog {
        TopicBacklog { topic: topic.to_owned(), unsent, oldest: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_topics_that_wait_longest_are_named_each_once() {
        let longest = TopicBacklog::longest([part("a", 2, 5), part("b", 1, 9), part("a", 3, 7), part("c", 1, 7)]);
        assert_eq!(longest, [part("b", 1, 9), part("a", 5, 7), part("c", 1, 7)]);
        let many = (0..100).map(|n| part(&format!("t{n}"), 1, n));
        let longest = TopicBacklog::longest(many);
        assert_eq!((longest.len(), longest[0].oldest), (TopicBacklog::MOST, Duration::from_secs(99)));
    }
}
