//! A row as it comes out of the table: a record, or one that is rejected because it cannot be read as one.
//!
//! The tables' own checks let few such rows in, but checks are dropped, and databases take what no client of theirs can
//! read. Whatever is wrong with a row concerns its own lane alone.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::outbox::held::Lane;
use crate::outbox::record::{Headers, Record};

/// The cause of a row that cannot be read.
const UNREADABLE_CODE: &str = "unreadable";

/// The cause of a row that is larger than the relay may load; sinks call it the same.
const TOO_LARGE: &str = "message_too_large";

/// What stands for the topic of a row that names none.
const NO_TOPIC: &str = "(unreadable)";

/// The longest name of a topic, in bytes: readers need not load more.
pub const LONGEST_TOPIC: usize = 249;

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    code: &'static str,
    why: String,
}

impl Fault {
    /// A part of it is something else than it must be. Says which, never what it holds.
    pub fn unreadable(why: impl Into<String>) -> Self {
        Self { code: UNREADABLE_CODE, why: format!("{}: correct the row", why.into()) }
    }

    /// It is larger than a record may be to be loaded.
    pub fn too_large(size: usize, most: usize) -> Self {
        let why = format!(
            "it has {size} bytes of key, payload and headers, more than the {most} of relay.record.bytes, and was not loaded: raise that setting and the memory, or store the payload elsewhere and send a reference"
        );
        Self { code: TOO_LARGE, why }
    }
}

/// A row that is rejected as it is: it cannot be read as a record, or not within the memory that a record may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The row's id.
    pub id: i64,
    /// The event's identity; `None` where the row has none that can be read.
    pub event_id: Option<Uuid>,
    /// The topic, or a word in its place.
    pub topic: Arc<str>,
    /// The lane in which it stands, if that can be told.
    pub lane: Option<Lane>,
    /// The name of the cause, bounded in number.
    pub code: &'static str,
    /// What is wrong, and what would do; never the payload or the key.
    pub why: String,
}

/// What tells where a row belongs, each part as far as it can be read.
#[derive(Debug)]
pub struct Head<'a> {
    /// The row's id.
    pub id: i64,
    /// The event's identity.
    pub event_id: Result<Uuid, Fault>,
    /// The topic.
    pub topic: Result<&'a str, Fault>,
    /// The key, if it has one.
    pub key: Result<Option<&'a str>, Fault>,
    /// The partition, if it names one.
    pub partition: Result<Option<i32>, Fault>,
}

/// What a row says besides.
#[derive(Debug)]
pub struct Content {
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers that the application wrote.
    pub headers: Headers,
    /// When the row was written.
    pub created_at: DateTime<Utc>,
}

impl<'a> Head<'a> {
    /// The topic's name, or what stands for it.
    pub fn topic_name(&self) -> &'a str {
        self.topic.as_ref().copied().unwrap_or(NO_TOPIC)
    }

    /// Puts a record together, with the topic's name as it is shared; or says why the row is none.
    ///
    /// # Errors
    /// When any part has a fault.
    #[expect(clippy::result_large_err, reason = "a record is larger")]
    pub fn with(self, topic: Arc<str>, content: Result<Content, Fault>) -> Result<Record, Unreadable> {
        let fault = match (&self.event_id, &self.topic, &self.key, &self.partition, content) {
            (Ok(event_id), Ok(_), Ok(key), Ok(partition), Ok(Content { payload, headers, created_at })) => {
                let key = key.map(str::to_owned);
                let (id, event_id, partition) = (self.id, *event_id, *partition);
                return Ok(Record { id, event_id, topic, key, payload, headers, partition, created_at });
            }
            (Err(fault), ..) | (_, Err(fault), ..) | (_, _, Err(fault), ..) | (_, _, _, Err(fault), _) => fault.clone(),
            (.., Err(fault)) => fault,
        };
        Err(self.refused(topic, fault))
    }

    fn refused(&self, topic: Arc<str>, Fault { code, why }: Fault) -> Unreadable {
        let event_id = self.event_id.as_ref().ok().copied();
        Unreadable { id: self.id, event_id, lane: self.lane(&topic), topic, code, why }
    }

    /// The lane, where all that decides about it can be read.
    fn lane(&self, topic: &Arc<str>) -> Option<Lane> {
        let topic = self.topic.is_ok().then(|| Arc::clone(topic))?;
        match (&self.key, self.partition.as_ref().ok()?) {
            (_, Some(partition)) => Some(Lane::Partition { topic, partition: *partition }),
            (Ok(Some(key)), None) => Some(Lane::Key { topic, key: (*key).into() }),
            (Ok(None) | Err(_), None) => None,
        }
    }
}

/// The partition that a row names.
///
/// # Errors
/// When it is negative: partitions are numbered from 0.
pub fn partition_of(number: i64) -> Result<i32, Fault> {
    let partition = i32::try_from(number).ok().filter(|partition| *partition >= 0);
    partition.ok_or_else(|| Fault::unreadable("its partition is not the number of one"))
}

impl Record {
    /// Turns it into a rejection of its row.
    pub fn refused(self, Fault { code, why }: Fault) -> Unreadable {
        let lane = self.lane();
        Unreadable { id: self.id, event_id: Some(self.event_id), topic: self.topic, lane, code, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>() -> Head<'a> {
        Head { id: 7, event_id: Ok(Uuid::nil()), topic: Ok("t"), key: Ok(Some("k")), partition: Ok(None) }
    }

    fn refused(head: Head<'_>) -> Unreadable {
        let topic = head.topic_name().into();
        let fault = Fault::unreadable("its headers are none");
        head.with(topic, Err(fault)).expect_err("it has a fault")
    }

    #[test]
    fn a_row_whose_content_cannot_be_read_stands_in_its_lane() {
        let keyed = refused(head());
        assert_eq!((keyed.event_id, keyed.lane), (Some(Uuid::nil()), Some(Lane::from_columns("t", Some("k"), None))));
        let placed = refused(Head { partition: Ok(Some(3)), ..head() });
        assert_eq!(placed.lane, Some(Lane::from_columns("t", None, Some(3))));
    }

    #[test]
    fn no_lane_is_told_of_a_row_that_does_not_say_it_legibly() {
        let fault = || Fault::unreadable("it is none");
        for head in [
            Head { topic: Err(fault()), ..head() },
            Head { key: Err(fault()), ..head() },
            Head { partition: Err(fault()), ..head() },
            Head { key: Ok(None), ..head() },
        ] {
            assert_eq!(refused(head).lane, None);
        }
    }

    #[test]
    fn partitions_are_numbered_from_0_in_32_bits() {
        assert_eq!([0, i64::from(i32::MAX)].map(|number| partition_of(number).is_ok()), [true; 2]);
        assert_eq!([-1, i64::from(i32::MAX) + 1].map(|number| partition_of(number).is_ok()), [false; 2]);
    }
}
