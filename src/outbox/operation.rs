//! Work that operators ask for and that takes a while: sending rows again.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::outbox::word::words;

/// Which rows are to be sent again, and where: those that meet every condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Of this topic.
    pub topic: String,
    /// Of this key.
    pub key: Option<String>,
    /// Written then or later, by the database's clock.
    pub since: Option<DateTime<Utc>>,
    /// Written before that.
    pub until: Option<DateTime<Utc>>,
    /// To this topic; `None` for that of the rows.
    pub to_topic: Option<String>,
    /// How many a second at most.
    pub rate: u32,
}

impl Replay {
    /// The topic that they are sent to.
    pub fn target(&self) -> &str {
        self.to_topic.as_deref().unwrap_or(&self.topic)
    }
}

/// As flags, for people and the audit log. A key is the application's data and is not told.
impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, key, since, until, to_topic, rate } = self;
        let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        write!(f, "--topic {topic}")?;
        let flags = [
            ("key", key.as_ref().map(|_| "…".to_owned())),
            ("since", since.as_ref().map(time)),
            ("until", until.as_ref().map(time)),
            ("to-topic", to_topic.clone()),
        ];
        for (name, value) in flags {
            value.map_or(Ok(()), |value| write!(f, " --{name} {value}"))?;
        }
        write!(f, " --rate {rate}")
    }
}

words! {
    /// How far an operation is.
    pub enum OperationState else "no state of an operation" {
        /// The leader carries it out, or will.
        Running = "running",
        /// All of it is done.
        Done = "done",
        /// An operator ended it.
        Cancelled = "cancelled",
    }
}

/// What an operator asked for, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number; later ones are higher.
    pub id: i64,
    /// What is to be sent again.
    pub replay: Replay,
    /// How far it is.
    pub state: OperationState,
    /// When it was asked for, by the database's clock.
    pub asked_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who asked.
    pub actor: String,
    /// Rows up to this id are not concerned.
    pub from_id: i64,
    /// Nor are rows above this one: it was the highest when it was asked for.
    pub last_id: i64,
    /// What could be done of it is.
    pub progress: OperationProgress,
}

/// How far an operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationProgress {
    /// Rows up to this id are done.
    pub done_to: i64,
    /// How many were sent; some may have been sent more than once.
    pub sent: u64,
    /// How many Kafka can never take, or cannot be read.
    pub refused: u64,
    /// What it waits for, if it waits.
    pub problem: Option<String>,
    /// Whether nothing is left to do.
    pub is_done: bool,
}

impl Operation {
    /// Which part of the ids is done, from 0 to 1.
    pub fn share(&self) -> f64 {
        let whole = self.last_id.saturating_sub(self.from_id).max(1);
        let done = self.progress.done_to.clamp(self.from_id, self.last_id.max(self.from_id)) - self.from_id;
        if self.state == OperationState::Done { 1.0 } else { done as f64 / whole as f64 }
    }
}

/// What a replay would send, and what there is to be sent again at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayable {
    /// How many rows.
    pub rows: u64,
    /// Whether there may be more: looking ended at a limit.
    pub is_floor: bool,
    /// When the first and the last of them were written.
    pub written: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// When the oldest row of the table was written, sent or not: what was sent before is gone.
    pub oldest_kept: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_told_as_it_is_typed_but_for_the_key() {
        let replay = Replay {
            topic: "orders".to_owned(),
            key: Some("secret".to_owned()),
            since: DateTime::from_timestamp(0, 0),
            until: None,
            to_topic: Some("orders.again".to_owned()),
            rate: 500,
        };
        let expected = "--topic orders --key … --since 1970-01-01T00:00:00Z --to-topic orders.again --rate 500";
        assert_eq!((replay.to_string().as_str(), replay.target()), (expected, "orders.again"));
    }

    #[test]
    fn a_share_is_one_of_the_ids_that_are_concerned() {
        let replay = Replay { topic: "t".to_owned(), key: None, since: None, until: None, to_topic: None, rate: 1 };
        let operation = |done_to, state| Operation {
            id: 1,
            replay: replay.clone(),
            state,
            asked_at: DateTime::UNIX_EPOCH,
            ended_at: None,
            reason: None,
            actor: "anna@relay-1".to_owned(),
            from_id: 100,
            last_id: 200,
            progress: OperationProgress { done_to, ..OperationProgress::default() },
        };
        for (done_to, share) in [(0, 0.0), (100, 0.0), (150, 0.5), (200, 1.0), (900, 1.0)] {
            assert!((operation(done_to, OperationState::Running).share() - share).abs() < 1e-9, "{done_to}");
        }
        assert!((operation(150, OperationState::Done).share() - 1.0).abs() < 1e-9);
    }
}
