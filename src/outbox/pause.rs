//! What operators ask of the relay that leads: to pause, and to step down.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::outbox::reject::TopicPattern;
use crate::outbox::term::Term;

/// A pause: of the topics that a pattern names nothing is published while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Which topics; [`TopicPattern::any`] for everything, dead letters included.
    pub topics: TopicPattern,
    /// Since when, by the database's clock.
    pub since: DateTime<Utc>,
    /// When it ends by itself, by the database's clock, if it does.
    pub until: Option<DateTime<Utc>>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who asked for it: a user and a host, or the identity of an HTTP request.
    pub actor: String,
}

/// As people read it: what is paused, since when, by whom, until when, and why.
impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topics, since, until, reason, actor } = self;
        let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "{} paused since {} by {actor}", Paused(topics), time(since))?;
        match until {
            Some(until) => write!(f, " until {}", time(until))?,
            None => f.write_str(" until it is resumed")?,
        }
        reason.as_ref().map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

/// What a pattern pauses, with its verb.
struct Paused<'a>(&'a TopicPattern);

impl fmt::Display for Paused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            all if all.is_any() => f.write_str("everything is"),
            topics => write!(f, "topics {topics} are"),
        }
    }
}

/// What operators ask of the relays of an outbox for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// The pauses that last, the longest first.
    pub pauses: Vec<Pause>,
    /// The term whose leader is asked to step down. Another term's leader is not concerned.
    pub step_down: Option<Term>,
    /// The [operation](crate::outbox::Operation) that the leader is to carry out.
    pub operation: Option<i64>,
}

impl Orders {
    /// Whether everything is paused.
    pub fn pause_all(&self) -> bool {
        self.pauses.iter().any(|pause| pause.topics.is_any())
    }

    /// Whether a topic is paused.
    pub fn pauses_topic(&self, topic: &str) -> bool {
        self.pauses.iter().any(|pause| pause.topics.matches(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(topics: &str) -> Pause {
        Pause {
            topics: topics.parse().expect("a pattern"),
            since: DateTime::UNIX_EPOCH,
            until: None,
            reason: None,
            actor: "anna@relay-1".to_owned(),
        }
    }

    #[test]
    fn what_is_paused_is_what_any_pause_names() {
        let orders = Orders { pauses: vec![pause("orders.*"), pause("users")], ..Orders::default() };
        assert!(orders.pauses_topic("orders.paid") && orders.pauses_topic("users") && !orders.pauses_topic("orders"));
        assert!(!orders.pause_all());
        let all = Orders { pauses: vec![pause("users"), pause("**")], ..Orders::default() };
        assert!(all.pause_all() && all.pauses_topic("orders"));
        assert!(!Orders::default().pause_all() && !Orders::default().pauses_topic("orders"));
    }

    #[test]
    fn a_pause_is_told_with_all_that_is_known_of_it() {
        assert_eq!(
            pause("*").to_string(),
            "everything is paused since 1970-01-01T00:00:00Z by anna@relay-1 until it is resumed"
        );
        let until = DateTime::from_timestamp(3600, 0);
        let ending = Pause { until, reason: Some("Kafka moves".to_owned()), ..pause("orders.*") };
        assert_eq!(
            ending.to_string(),
            "topics orders.* are paused since 1970-01-01T00:00:00Z by anna@relay-1 until 1970-01-01T01:00:00Z (Kafka moves)"
        );
    }
}
