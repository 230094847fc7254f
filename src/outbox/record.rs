//! A record: a message as the relay read it from the table.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::outbox::Lane;

/// Headers in the order they are published: a name, and a value or null.
pub type Headers = Vec<(String, Option<String>)>;

/// A message as the relay read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The row's id. Within a lane, records are published in id order.
    pub id: i64,
    /// The event's identity, published as the header `id`.
    pub event_id: Uuid,
    /// The topic; shared by the records of a batch.
    pub topic: Arc<str>,
    /// The key; records without one belong to no lane unless they name a partition.
    pub key: Option<String>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The headers that the application wrote.
    pub headers: Headers,
    /// The partition that the row names, if it does.
    pub partition: Option<i32>,
    /// When the row was written, by the database's clock; published as the record's timestamp.
    pub created_at: DateTime<Utc>,
}

/// What the relay keeps in memory for a record besides its own bytes, roughly: the struct, the allocations,
/// and the broker client's bookkeeping.
const OVERHEAD: usize = 512;

impl Record {
    /// The lane in which this record keeps its order, or `None` when it is promised no order.
    pub fn lane(&self) -> Option<Lane> {
        match (&self.key, self.partition) {
            (_, Some(partition)) => Some(Lane::Partition { topic: Arc::clone(&self.topic), partition }),
            (Some(key), None) => Some(Lane::Key { topic: Arc::clone(&self.topic), key: key.as_str().into() }),
            (None, None) => None,
        }
    }

    /// Bytes of key, payload and headers.
    pub fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.as_deref().map_or(0, str::len)).sum();
        self.key.as_deref().map_or(0, str::len) + self.payload.as_deref().map_or(0, <[u8]>::len) + headers
    }

    /// Bytes of memory that this record costs on its way through the relay, roughly.
    pub fn footprint(&self) -> usize {
        self.size() + OVERHEAD
    }
}

/// Why a row's headers cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("headers must be a JSON object of names and values")]
pub struct InvalidHeaders(#[source] Option<serde_json::Error>);

/// Reads headers as the table stores them: a JSON object. Text goes through as it is, null becomes a null
/// header, anything else is published as its JSON text.
///
/// # Errors
/// When the text is not a JSON object.
pub fn headers_from_json(json: &[u8]) -> Result<Headers, InvalidHeaders> {
    if json == b"{}" {
        return Ok(Headers::new());
    }
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object.into_iter().map(|(name, value)| (name, header_value(value))).collect()),
        Ok(_) => Err(InvalidHeaders(None)),
        Err(error) => Err(InvalidHeaders(Some(error))),
    }
}

fn header_value(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_text_goes_through_untouched_and_other_values_as_json() {
        let headers = headers_from_json(br#"{"a":"x\u00e4\"","b":null,"c":[1,true],"d":7}"#).expect("an object");
        let expected: Headers = vec![
            ("a".into(), Some("xä\"".into())),
            ("b".into(), None),
            ("c".into(), Some("[1,true]".into())),
            ("d".into(), Some("7".into())),
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn headers_that_are_no_object_are_refused() {
        for json in ["[]", "null", "\"a\"", "", "{"] {
            assert!(headers_from_json(json.as_bytes()).is_err(), "{json}");
        }
        assert!(headers_from_json(b"{}").expect("an object").is_empty());
    }
}
