//! A record: a message as the relay read it from the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::outbox::held::Lane;

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
const RECORD_OVERHEAD: usize = 512;

/// The same for each of its headers.
const HEADER_OVERHEAD: usize = 128;

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
        self.size() + self.headers.len() * HEADER_OVERHEAD + RECORD_OVERHEAD
    }
}

/// Why a row's headers cannot be published. Says where they are wrong, and nothing of what they hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "headers must be a JSON object of names and values in valid Unicode; they are not at line {line}, column {column}"
)]
pub struct InvalidHeaders {
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for InvalidHeaders {
    fn from(error: serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

/// Reads headers as the table stores them: a JSON object. Text goes through as it is, null becomes a null header, anything
/// else is published as it is written there, so that numbers keep their digits and nothing is too deep.
///
/// # Errors
/// When the text is not a JSON object, or a name or a text in it is no Unicode.
pub fn headers_from_json(json: &[u8]) -> Result<Headers, InvalidHeaders> {
    if json == b"{}" {
        return Ok(Headers::new());
    }
    let object: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
    object.into_iter().map(|(name, value)| Ok((name, header_value(value.get())?))).collect()
}

fn header_value(json: &str) -> Result<Option<String>, InvalidHeaders> {
    match json.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => Ok(Some(serde_json::from_str(json)?)),
        _ => Ok(Some(json.to_owned())),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_text_goes_through_untouched_and_other_values_as_they_are_written() {
        let json = br#" {"d":1.10, "a":"x\u00e4\"","b":null,"c":[1, true] ,"d" : -1e400} "#;
        let headers = headers_from_json(json).expect("an object");
        let expected: Headers = vec![
            ("a".into(), Some("xä\"".into())),
            ("b".into(), None),
            ("c".into(), Some("[1, true]".into())),
            ("d".into(), Some("-1e400".into())),
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn headers_that_are_no_object_are_refused() {
        for json in ["[]", "null", "\"a\"", "", "{", "{}}", r#"{"a":"\ud800"}"#, r#"{"\udfff":1}"#] {
            assert!(headers_from_json(json.as_bytes()).is_err(), "{json}");
        }
        assert!(headers_from_json(b"{\"a\":[\"\xff\"]}").is_err());
        assert!(headers_from_json(b"{}").expect("an object").is_empty());
    }

    #[test]
    fn what_is_wrong_with_headers_is_told_without_what_they_hold() {
        let error = headers_from_json(br#""a secret""#).expect_err("no object");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn nested_header_values_are_published_however_deep_they_are() {
        for depth in [127, 1_000, 100_000] {
            let value = "[".repeat(depth) + &"]".repeat(depth);
            let headers = headers_from_json(format!("{{\"a\":{value}}}").as_bytes()).expect("an object");
            assert_eq!(headers, [("a".to_owned(), Some(value))], "{depth}");
        }
    }
}
