//! Rows: from the table's columns to a record.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::DateTime;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::contract::StoreError;
use crate::outbox::{Record, headers_from_json};
use crate::sqlite::errors::{classify, unreadable};

/// What a record is read from. Payloads may have been inserted as text, and times in any form that SQLite knows.
pub(super) const COLUMNS: &str = "id, event_id, topic, key, cast(payload as blob), headers, partition, \
    cast(round((julianday(created_at) - 2440587.5) * 86400000) as integer)";

/// Reads rows, and shares topic names among the records it made.
#[derive(Debug, Default)]
pub(super) struct Rows {
    topics: HashSet<Arc<str>>,
}

impl Rows {
    pub(super) fn record(&mut self, row: &SqliteRow) -> Result<Record, StoreError> {
        let text = |column: usize| row.try_get::<&str, _>(column).map_err(reading);
        let id: i64 = row.try_get(0).map_err(reading)?;
        let event_id = Uuid::try_parse(text(1)?).map_err(|error| unreadable(id, "its event id is no UUID", error))?;
        let headers = headers_from_json(text(5)?.as_bytes());
        let created_at = DateTime::from_timestamp_millis(row.try_get(7).map_err(reading)?);
        Ok(Record {
            id,
            event_id,
            topic: self.topic(text(2)?),
            key: row.try_get(3).map_err(reading)?,
            payload: row.try_get(4).map_err(reading)?,
            headers: headers.map_err(|error| unreadable(id, "its headers are no JSON object", error))?,
            partition: row.try_get(6).map_err(reading)?,
            created_at: created_at.ok_or_else(|| unreadable(id, "its created_at is no time", "out of range"))?,
        })
    }

    fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topics.get(name) {
            return Arc::clone(topic);
        }
        let topic: Arc<str> = name.into();
        self.topics.insert(Arc::clone(&topic));
        topic
    }
}

fn reading(error: sqlx::Error) -> StoreError {
    classify("reading a row", error)
}
