//! A message: what an application asks to be published.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;
use uuid::Uuid;

/// Headers that the relay writes on every record; a message cannot set them.
pub(crate) const RESERVED_HEADERS: [&str; 5] = ["id", "outbox-id", "outbox-source", "outbox-created-at", REPLAY_HEADER];

/// The header that tells a record that is sent again as an operator asked, with the number of the operation.
pub(crate) const REPLAY_HEADER: &str = "outbox-replay";

/// The header of a record that was a dead letter and was put back: a JSON object with its first `id`, the `code` of what was
/// wrong, when it died (`died_at`), and when it was put back (`at`), which is the same for all that were put back together.
pub const REQUEUED_HEADER: &str = "outbox-requeued";

/// The longest topic name that Kafka takes.
const TOPIC_LIMIT: usize = 249;

/// A message, valid by construction: built with [`Message::to`], then enqueued inside the caller's transaction.
///
/// ```
/// # use outboxd::Message;
/// # #[derive(serde::Serialize)] struct Created { total: u32 }
/// let message = Message::to("orders.order.created").key(17).json(&Created { total: 12 })?;
/// assert_eq!(message.key(), Some("17"));
/// # Ok::<(), outboxd::outbox::InvalidMessage>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    topic: String,
    key: Option<String>,
    payload: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
    partition: Option<i32>,
    event_id: Uuid,
}

/// A message being written. Finish it with [`json`](Draft::json), [`text`](Draft::text),
/// [`bytes`](Draft::bytes) or [`tombstone`](Draft::tombstone), which validate the whole.
#[derive(Debug, Clone)]
#[must_use = "a draft is not a message until its payload is given"]
pub struct Draft {
    message: Message,
    size_limit: usize,
}

/// Why a message could not be built, and what would do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// The topic name is not one that Kafka takes.
    #[error(
        "topic {topic:?} is not a Kafka topic name: use 1 to {TOPIC_LIMIT} of the letters a-z, A-Z, 0-9, '.', '_' and '-', and not \".\" or \"..\" alone"
    )]
    Topic {
        /// The name as given.
        topic: String,
    },
    /// The key holds a NUL character, which databases do not store as text.
    #[error(
        "the key holds a NUL character, which no database stores as text: encode the key, for example as hexadecimal"
    )]
    KeyWithNul,
    /// A header has no name, or a name that the relay writes itself.
    #[error(
        "header name {name:?} cannot be used: it must not be empty, hold NUL, or be one of id, outbox-id, outbox-source, outbox-created-at and outbox-requeued, which outboxd writes"
    )]
    HeaderName {
        /// The name as given.
        name: String,
    },
    /// A header's value holds a NUL character.
    #[error(
        "the value of header {name:?} holds a NUL character, which jsonb does not store: encode the value, for example as base64"
    )]
    HeaderWithNul {
        /// The header's name.
        name: String,
    },
    /// The partition is negative.
    #[error("partition {partition} is negative: partitions are numbered from 0")]
    Partition {
        /// The number as given.
        partition: i32,
    },
    /// Key, payload and headers together are larger than the limit.
    #[error(
        "the message has {size} bytes of key, payload and headers, more than {limit}: store the payload elsewhere and send a reference, or raise Draft::size_limit together with the topic's max.message.bytes"
    )]
    Size {
        /// Bytes of key, payload and headers.
        size: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The payload could not be written as JSON.
    #[error("the payload cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl Message {
    /// Bytes of key, payload and headers that a message may have unless [`Draft::size_limit`] says otherwise:
    /// what librdkafka sends and a topic takes by default.
    pub const SIZE_LIMIT: usize = 1_000_000;

    /// Begins a message to a topic.
    pub fn to(topic: impl Into<String>) -> Draft {
        let message = Message {
            topic: topic.into(),
            key: None,
            payload: None,
            headers: BTreeMap::new(),
            partition: None,
            event_id: Uuid::now_v7(),
        };
        Draft { message, size_limit: Self::SIZE_LIMIT }
    }

    /// The topic it goes to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key: messages of one topic and key are published in the order they were written.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The payload; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        self.payload.as_deref()
    }

    /// The headers by name.
    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.headers
    }

    /// The partition, if one was asked for.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// The event's identity, published as the header `id`; consumers deduplicate by it.
    pub fn event_id(&self) -> Uuid {
        self.event_id
    }

    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_deref().map_or(0, str::len) + self.payload.as_deref().map_or(0, <[u8]>::len) + headers
    }
}

impl Draft {
    /// Sets the key. Messages of one topic and key keep their order; messages without a key have none.
    pub fn key(mut self, key: impl Display) -> Self {
        self.message.key = Some(key.to_string());
        self
    }

    /// Adds a header; a second one of the same name replaces the first.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.headers.insert(name.into(), value.into());
        self
    }

    /// Sends to this partition instead of the one that the key hashes to.
    pub fn partition(mut self, partition: i32) -> Self {
        self.message.partition = Some(partition);
        self
    }

    /// Sets the event's identity, by default a fresh UUID of version 7.
    pub fn event_id(mut self, event_id: Uuid) -> Self {
        self.message.event_id = event_id;
        self
    }

    /// Allows key, payload and headers of up to `bytes` together. The default is [`Message::SIZE_LIMIT`].
    pub fn size_limit(mut self, bytes: usize) -> Self {
        self.size_limit = bytes;
        self
    }

    /// Finishes with a payload written as JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON, or any part of the message is invalid.
    pub fn json(self, payload: &(impl Serialize + ?Sized)) -> Result<Message, InvalidMessage> {
        let payload = serde_json::to_vec(payload)?;
        self.finish(Some(payload))
    }

    /// Finishes with a payload of UTF-8 text.
    ///
    /// # Errors
    /// When any part of the message is invalid.
    pub fn text(self, payload: impl Into<String>) -> Result<Message, InvalidMessage> {
        self.finish(Some(payload.into().into_bytes()))
    }

    /// Finishes with a payload of bytes, published exactly as they are.
    ///
    /// # Errors
    /// When any part of the message is invalid.
    pub fn bytes(self, payload: impl Into<Vec<u8>>) -> Result<Message, InvalidMessage> {
        self.finish(Some(payload.into()))
    }

    /// Finishes with a null payload, which deletes the key in a compacted topic.
    ///
    /// # Errors
    /// When any part of the message is invalid.
    pub fn tombstone(self) -> Result<Message, InvalidMessage> {
        self.finish(None)
    }

    fn finish(self, payload: Option<Vec<u8>>) -> Result<Message, InvalidMessage> {
        let message = Message { payload, ..self.message };
        if !is_topic_name(&message.topic) {
            return Err(InvalidMessage::Topic { topic: message.topic });
        }
        if message.key.as_deref().is_some_and(|key| key.contains('\0')) {
            return Err(InvalidMessage::KeyWithNul);
        }
        for (name, value) in &message.headers {
            let is_reserved = RESERVED_HEADERS.contains(&name.as_str()) || name == REQUEUED_HEADER;
            if name.is_empty() || name.contains('\0') || is_reserved {
                return Err(InvalidMessage::HeaderName { name: name.clone() });
            }
            if value.contains('\0') {
                return Err(InvalidMessage::HeaderWithNul { name: name.clone() });
            }
        }
        if let Some(partition) = message.partition.filter(|partition| *partition < 0) {
            return Err(InvalidMessage::Partition { partition });
        }
        let size = message.size();
        if size > self.size_limit {
            return Err(InvalidMessage::Size { size, limit: self.size_limit });
        }
        Ok(message)
    }
}

/// Whether Kafka takes this as a topic's name (`org.apache.kafka.common.internals.Topic`).
pub fn is_topic_name(name: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=TOPIC_LIMIT).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_name_that_kafka_refuses_is_refused_with_what_would_do() {
        for topic in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            let error = Message::to(topic).text("x").expect_err(topic);
            assert!(error.to_string().contains("a-z"), "{error}");
        }
        assert!(Message::to("x".repeat(249)).text("x").is_ok());
    }

    #[test]
    fn headers_of_the_relay_cannot_be_set_by_a_message() {
        for name in ["", "id", "outbox-id", "outbox-source", "outbox-requeued", "a\0b"] {
            let result = Message::to("t").header(name, "v").text("x");
            assert!(matches!(result, Err(InvalidMessage::HeaderName { .. })), "{name:?}");
        }
        assert!(Message::to("t").header("traceparent", "00-1").text("x").is_ok());
    }

    #[test]
    fn the_size_limit_counts_key_payload_and_headers() {
        let draft = || Message::to("t").key("kk").header("h", "v").size_limit(10);
        assert!(draft().text("123456").is_ok());
        assert!(matches!(draft().text("1234567"), Err(InvalidMessage::Size { size: 11, limit: 10 })));
    }

    #[test]
    fn text_that_a_database_cannot_store_is_refused() {
        assert!(matches!(Message::to("t").key("a\0").text(""), Err(InvalidMessage::KeyWithNul)));
        assert!(matches!(Message::to("t").header("h", "\0").text(""), Err(InvalidMessage::HeaderWithNul { .. })));
        assert!(matches!(Message::to("t").partition(-1).text(""), Err(InvalidMessage::Partition { partition: -1 })));
    }

    #[test]
    fn a_tombstone_has_no_payload_and_empty_text_has_one() {
        assert_eq!(Message::to("t").tombstone().expect("valid").payload(), None);
        assert_eq!(Message::to("t").text("").expect("valid").payload(), Some(&[][..]));
    }
}
