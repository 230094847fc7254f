//! From rows to records: by column number and straight from the binary format, because every row passes here.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};
use uuid::Uuid;

use crate::contract::{BoxError, StoreError};
use crate::outbox::{Headers, InvalidHeaders, Limit, Record, headers_from_json};
use crate::postgres::errors::classify;
use crate::postgres::snapshot::Snapshot;

/// What is being done, for errors.
pub(super) const READING: &str = "reading the outbox";

/// What is selected of a row. A payload of more than 8 KiB is left out at first, and its size told: how many rows fit
/// into the limit of bytes is known only when their sizes are. So are headers of at most 5 bytes, which an empty object
/// takes: to write it as text costs a tenth of all that the database does for a row.
pub(super) const COLUMNS: &str = "id, event_id, topic, key, \
     case when octet_length(payload) > 8192 then octet_length(payload) end, \
     case when octet_length(payload) <= 8192 then payload end, \
     case when pg_column_size(headers) > 5 then headers::text end, partition, created_at";

/// The same columns, for a row that says something else.
pub(super) const NO_COLUMNS: &str = "null::bigint as id, null::uuid, null::text, null::text, null::int, null::bytea, null::text, null::int, null::timestamptz";

/// Where the columns begin: before them comes the snapshot, or null.
const SNAPSHOT: usize = 0;

/// How many columns there are, with that one.
pub(super) const WIDTH: usize = 10;

/// A row's columns, in the binary format.
pub(super) trait Columns {
    /// A column's bytes; nothing for null.
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError>;
}

impl Columns for PgRow {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError> {
        let value = self.try_get_raw(column)?;
        if value.is_null() { Ok(None) } else { value.as_bytes().map(Some) }
    }
}

/// What one statement returned, cut where the limit of bytes is reached.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The snapshot of the statement, if it told.
    pub snapshot: Option<Snapshot>,
    /// The records that fit, by id.
    pub records: Vec<Record>,
    /// How many rows came, with those that did not fit.
    pub rows: usize,
    /// Which of the records still lack their payload.
    pub wide: Vec<usize>,
    bytes: usize,
    topic: Option<Arc<str>>,
    topics: HashMap<Box<str>, Arc<str>>,
}

impl Page {
    /// Whether rows were left out because of their bytes.
    pub(super) fn is_cut(&self) -> bool {
        self.rows > self.records.len()
    }

    /// Whether there may be rows for another page.
    pub(super) fn is_full(&self, limit: Limit) -> bool {
        self.is_cut() || self.rows >= limit.records
    }

    /// The highest id of the records that fit.
    pub(super) fn last_id(&self) -> Option<i64> {
        self.records.last().map(|record| record.id)
    }

    /// Takes a row. Once a row does not fit, none after it does.
    pub(super) fn take(&mut self, row: &impl Columns, limit: Limit) -> Result<(), StoreError> {
        let snapshot = optional_text(row, SNAPSHOT).map_err(unreadable)?;
        if let Some(text) = snapshot {
            self.snapshot = Some(text.parse().map_err(|error| unreadable(Box::new(error)))?);
            return Ok(());
        }
        let was_cut = self.is_cut();
        self.rows += 1;
        if was_cut {
            return Ok(());
        }
        let (record, unread) = self.record(row)?;
        let footprint = record.footprint() + unread.unwrap_or_default();
        if self.records.is_empty() || self.bytes + footprint <= limit.bytes {
            self.bytes += footprint;
            if unread.is_some() {
                self.wide.push(self.records.len());
            }
            self.records.push(record);
        }
        Ok(())
    }

    /// Reads a record, and the size of its payload if that was left out.
    fn record(&mut self, row: &impl Columns) -> Result<(Record, Option<usize>), StoreError> {
        let id = i64::from_be_bytes(fixed(row, 1).map_err(unreadable)?);
        let json = row.bytes(7).map_err(unreadable)?;
        let headers = json.map(headers_from_json).transpose().map_err(|error| headers_of(id, error))?;
        let headers = headers.unwrap_or_default();
        self.columns(row, id, headers).map_err(unreadable)
    }

    fn columns(&mut self, row: &impl Columns, id: i64, headers: Headers) -> Result<(Record, Option<usize>), BoxError> {
        let left_out = optional_int(row, 5)?.map(usize::try_from).transpose()?;
        let record = Record {
            id,
            event_id: Uuid::from_bytes(fixed(row, 2)?),
            topic: self.shared_topic(text(row, 3)?),
            key: optional_text(row, 4)?.map(str::to_owned),
            payload: row.bytes(6)?.map(<[u8]>::to_vec),
            headers,
            partition: optional_int(row, 8)?,
            created_at: timestamp(i64::from_be_bytes(fixed(row, 9)?)),
        };
        Ok((record, left_out))
    }

    /// One allocation for each topic of a page instead of one for each row.
    fn shared_topic(&mut self, name: &str) -> Arc<str> {
        if let Some(topic) = self.topic.as_ref().filter(|topic| &***topic == name) {
            return Arc::clone(topic);
        }
        let topic = match self.topics.get(name) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic: Arc<str> = name.into();
                self.topics.insert(name.into(), Arc::clone(&topic));
                topic
            }
        };
        self.topic = Some(Arc::clone(&topic));
        topic
    }
}

/// What came cannot be what was asked for.
pub(super) fn unreadable(error: BoxError) -> StoreError {
    classify(READING, sqlx::Error::Decode(error))
}

fn headers_of(id: i64, error: InvalidHeaders) -> StoreError {
    StoreError::Unusable {
        problem: format!("row {id} cannot be read"),
        repair: "its headers must be a JSON object: correct the row, and restore the table's check constraints"
            .to_owned(),
        source: Some(Box::new(error)),
    }
}

fn optional_text(row: &impl Columns, column: usize) -> Result<Option<&str>, BoxError> {
    Ok(row.bytes(column)?.map(str::from_utf8).transpose()?)
}

fn text(row: &impl Columns, column: usize) -> Result<&str, BoxError> {
    Ok(str::from_utf8(present(row, column)?)?)
}

fn fixed<const N: usize>(row: &impl Columns, column: usize) -> Result<[u8; N], BoxError> {
    Ok(present(row, column)?.try_into()?)
}

fn optional_int(row: &impl Columns, column: usize) -> Result<Option<i32>, BoxError> {
    row.bytes(column)?.map(|bytes| Ok(i32::from_be_bytes(bytes.try_into()?))).transpose()
}

fn present(row: &impl Columns, column: usize) -> Result<&[u8], BoxError> {
    row.bytes(column)?.ok_or_else(|| format!("column {column} is null").into())
}

/// Microseconds since 2000, or infinity, which no `DateTime` knows.
fn timestamp(micros: i64) -> DateTime<Utc> {
    const Y2000: i64 = 946_684_800_000_000;
    let unix = micros.saturating_add(Y2000);
    DateTime::from_timestamp_micros(unix).unwrap_or(if unix < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_of_any_row_can_be_read() {
        assert_eq!(timestamp(0).to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(timestamp(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(timestamp(i64::MIN), DateTime::<Utc>::MIN_UTC);
    }
}
