//! From rows to records: by column number and straight from the binary format, because every row passes here.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};
use uuid::Uuid;

use crate::contract::{BoxError, StoreError};
use crate::outbox::{
    Content, Fault, Head, Headers, LONGEST_TOPIC, Limit, Record, Unreadable, headers_from_json, partition_of,
};
use crate::postgres::errors::classify;
use crate::postgres::reading::position::Snapshot;
use crate::reading::{Filling, Fit};

/// What is being done, for errors.
pub(crate) const READING: &str = "reading the outbox";

/// Where the columns that are [selected](crate::postgres::table::Columns::selected) begin: before them comes the snapshot, or null.
const SNAPSHOT: usize = 0;

/// How many columns there are, with that one.
pub(crate) const WIDTH: usize = 11;

/// A row's columns, in the binary format.
pub(crate) trait RowBytes {
    /// A column's bytes; nothing for null.
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError>;
}

impl RowBytes for PgRow {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError> {
        let value = self.try_get_raw(column)?;
        if value.is_null() { Ok(None) } else { value.as_bytes().map(Some) }
    }
}

/// What one statement returned, cut where the limit of bytes is reached.
#[derive(Debug)]
pub(crate) struct Page {
    /// The snapshot of the statement, if it told.
    pub snapshot: Option<Snapshot>,
    /// The records that fit, by id.
    pub records: Vec<Record>,
    /// The rows among them that are rejected as they are, by id.
    pub unreadable: Vec<Unreadable>,
    /// How many rows came, with those that did not fit.
    pub rows: usize,
    /// Which of the records still lack a part.
    pub wide: Vec<usize>,
    /// Rows that are larger are not loaded.
    most: usize,
    /// How many rows fitted.
    taken: usize,
    last: Option<i64>,
    limit: Limit,
    filling: Filling,
    topic: Option<Arc<str>>,
    topics: HashMap<Box<str>, Arc<str>>,
}

impl Page {
    /// A page without rows, of which none that is larger than `most` will be loaded.
    pub(crate) fn new(limit: Limit, most: usize) -> Self {
        Self {
            snapshot: None,
            records: Vec::new(),
            unreadable: Vec::new(),
            rows: 0,
            wide: Vec::new(),
            most,
            taken: 0,
            last: None,
            limit,
            filling: Filling::of(limit),
            topic: None,
            topics: HashMap::new(),
        }
    }

    /// Whether rows were left out because of their bytes.
    pub(crate) fn is_cut(&self) -> bool {
        self.filling.is_full()
    }

    /// Whether there may be rows for another page.
    pub(crate) fn is_full(&self) -> bool {
        self.is_cut() || self.rows >= self.limit.records
    }

    /// How many rows fitted.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// The highest id of the rows that fit.
    pub(crate) fn last_id(&self) -> Option<i64> {
        self.last
    }

    /// Takes a row, unless it is left out. Once a row does not fit, none after it does.
    pub(crate) fn take(
        &mut self,
        row: &impl RowBytes,
        is_left_out: impl Fn(&Result<Record, Unreadable>) -> bool,
    ) -> Result<(), StoreError> {
        let snapshot = optional_text(row, SNAPSHOT).map_err(unreadable)?;
        if let Some(text) = snapshot {
            self.snapshot = Some(text.parse().map_err(|error| unreadable(Box::new(error)))?);
            return Ok(());
        }
        self.rows += 1;
        if self.is_cut() {
            return Ok(());
        }
        let id = i64::from_be_bytes(fixed(row, 1).map_err(unreadable)?);
        let (read, left_out) = self.record(row, id);
        if is_left_out(&read) {
            self.taken += 1;
            self.last = Some(id);
            return Ok(());
        }
        let footprint = read.as_ref().map_or(0, Record::footprint).saturating_add(left_out);
        if self.filling.take(footprint) == Fit::Fits {
            self.taken += 1;
            self.last = Some(id);
            match read {
                Err(unreadable) => self.unreadable.push(unreadable),
                Ok(record) => {
                    if left_out > 0 {
                        self.wide.push(self.records.len());
                    }
                    self.records.push(record);
                }
            }
        }
        Ok(())
    }

    /// Reads a record, and the size of what was left out: it is to be loaded, or moved by the database when the row is given
    /// up.
    fn record(&mut self, row: &impl RowBytes, id: i64) -> (Result<Record, Unreadable>, usize) {
        let head = Head {
            id,
            event_id: event_id(row, 2),
            topic: topic(row, 3),
            key: key(row, 4),
            partition: partition(row, 9),
        };
        let size = Size::of(row);
        let content = size.clone().and_then(|size| content(row, size, self.most));
        let topic = self.shared_topic(head.topic_name());
        (head.with(topic, content), size.map_or(0, |size| size.left_out))
    }

    /// Fills in what a record lacks, from a row of what is [selected then](crate::postgres::table::Columns::wide); or says what is wrong with it.
    pub(crate) fn complete(&mut self, at: usize, row: &impl RowBytes) -> Result<(), Fault> {
        let record = &mut self.records[at];
        record.key = key(row, 2)?.map(str::to_owned);
        record.headers = bytes(row, 4)?.map_or(Ok(Headers::new()), headers)?;
        record.payload = bytes(row, 3)?.map(<[u8]>::to_vec);
        Ok(())
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
pub(crate) fn unreadable(error: BoxError) -> StoreError {
    classify(READING, sqlx::Error::Decode(error))
}

/// Bytes of a row's key, payload and headers.
#[derive(Debug, Clone)]
struct Size {
    came: usize,
    left_out: usize,
}

impl Size {
    fn of(row: &impl RowBytes) -> Result<Self, Fault> {
        let json = bytes(row, 8)?;
        let measured = json.and_then(|json| json.strip_prefix(b"#"));
        let left_out = [number(row, 5)?, number(row, 6)?, measured.map_or(Ok(0), size)?];
        let left_out = left_out.into_iter().fold(0, usize::saturating_add);
        let parts = [bytes(row, 4)?, bytes(row, 7)?, json.filter(|_| measured.is_none())];
        Ok(Self { came: parts.iter().flatten().map(|part| part.len()).sum(), left_out })
    }
}

/// Reads what came of a row's content; or says that the row is too large.
fn content(row: &impl RowBytes, size: Size, most: usize) -> Result<Content, Fault> {
    let whole = size.came.saturating_add(size.left_out);
    if whole > most {
        return Err(Fault::too_large(whole, most));
    }
    let json = bytes(row, 8)?.filter(|json| !json.starts_with(b"#"));
    let headers = json.map_or(Ok(Headers::new()), headers)?;
    let payload = bytes(row, 7)?.map(<[u8]>::to_vec);
    Ok(Content { payload, headers, created_at: created_at(row, 10)? })
}

fn event_id(row: &impl RowBytes, column: usize) -> Result<Uuid, Fault> {
    fixed(row, column).map(Uuid::from_bytes).map_err(|_error| Fault::unreadable("it has no event id"))
}

fn topic(row: &impl RowBytes, column: usize) -> Result<&str, Fault> {
    let name = text(row, column).map_err(|_error| Fault::unreadable("its topic is none, or no UTF-8"))?;
    let is_possible = name.len() <= LONGEST_TOPIC;
    is_possible.then_some(name).ok_or_else(|| Fault::unreadable("its topic is longer than any of Kafka's"))
}

fn key(row: &impl RowBytes, column: usize) -> Result<Option<&str>, Fault> {
    optional_text(row, column).map_err(|_error| Fault::unreadable("its key is no UTF-8"))
}

fn partition(row: &impl RowBytes, column: usize) -> Result<Option<i32>, Fault> {
    let number = optional_int(row, column).map_err(|_error| Fault::unreadable("its partition is no number"))?;
    number.map(|number| partition_of(number.into())).transpose()
}

fn headers(json: &[u8]) -> Result<Headers, Fault> {
    headers_from_json(json).map_err(|error| Fault::unreadable(error.to_string()))
}

fn created_at(row: &impl RowBytes, column: usize) -> Result<DateTime<Utc>, Fault> {
    let micros = fixed(row, column).map_err(|_error| Fault::unreadable("its created_at is no time"))?;
    Ok(timestamp(i64::from_be_bytes(micros)))
}

fn bytes(row: &impl RowBytes, column: usize) -> Result<Option<&[u8]>, Fault> {
    row.bytes(column).map_err(|_error| Fault::unreadable("the driver cannot read it"))
}

/// A size that came as a number; 0 for null.
fn number(row: &impl RowBytes, column: usize) -> Result<usize, Fault> {
    let number = optional_int(row, column).map_err(|_error| Fault::unreadable("its size is no number"))?;
    Ok(number.and_then(|number| usize::try_from(number).ok()).unwrap_or_default())
}

/// A size that came as text.
fn size(digits: &[u8]) -> Result<usize, Fault> {
    let digits = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    digits.ok_or_else(|| Fault::unreadable("its headers have no size"))
}

fn optional_text(row: &impl RowBytes, column: usize) -> Result<Option<&str>, BoxError> {
    Ok(row.bytes(column)?.map(str::from_utf8).transpose()?)
}

fn text(row: &impl RowBytes, column: usize) -> Result<&str, BoxError> {
    Ok(str::from_utf8(present(row, column)?)?)
}

fn fixed<const N: usize>(row: &impl RowBytes, column: usize) -> Result<[u8; N], BoxError> {
    Ok(present(row, column)?.try_into()?)
}

fn optional_int(row: &impl RowBytes, column: usize) -> Result<Option<i32>, BoxError> {
    row.bytes(column)?.map(|bytes| Ok(i32::from_be_bytes(bytes.try_into()?))).transpose()
}

fn present(row: &impl RowBytes, column: usize) -> Result<&[u8], BoxError> {
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
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose headers say this in place of themselves.
    struct Saying(&'static [u8]);

    impl RowBytes for Saying {
        fn bytes(&self, column: usize) -> Result<Option<&[u8]>, BoxError> {
            Ok(match column {
                1 | 10 => Some(&[0; 8]),
                2 => Some(&[0; 16]),
                3 => Some(b"t"),
                5 | 6 => Some(&[0, 0, 0, 1]),
                8 => Some(self.0),
                _ => None,
            })
        }
    }

    #[test]
    fn a_row_that_says_to_be_larger_than_memory_is_too_large_and_stops_no_other() {
        let mut page = Page::new(Limit { records: 10, bytes: usize::MAX }, 1_000);
        for said in [&b"#18446744073709551615"[..], b"#18446744073709551614", b"#2"] {
            page.take(&Saying(said), |_| false).expect("the row can be read");
        }
        assert_eq!((page.rows, page.unreadable.len() + page.records.len()), (3, page.taken()));
        assert_eq!(page.unreadable[0].code, "message_too_large");
    }

    #[test]
    fn a_timestamp_of_any_row_can_be_read() {
        assert_eq!(timestamp(0).to_rfc3339(), "2000-01-01T00:00:00+00:00");
        assert_eq!(timestamp(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(timestamp(i64::MIN), DateTime::<Utc>::MIN_UTC);
    }
}
