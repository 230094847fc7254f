//! Rows: from the table's columns to a record.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::DateTime;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection, TypeInfo, ValueRef};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::outbox::{
    Content, Fault, Head, Headers, LONGEST_TOPIC, Lane, Record, Unreadable, headers_from_json, partition_of,
};
use crate::reading::HeldBack;
use crate::sqlite::errors::classify;
use crate::sqlite::table::Columns;

/// How many columns are [selected](Columns::selected).
pub(crate) const WIDTH: usize = 10;

/// What came of a row.
pub(crate) enum Read {
    /// All of it.
    Whole(Record),
    /// All but what is still to be loaded, of a row of so many bytes.
    Wide(Record, usize),
    /// Something that is rejected, of so many bytes.
    Unreadable(Unreadable, usize),
}

impl Read {
    /// The row's id.
    pub(crate) fn id(&self) -> i64 {
        match self {
            Read::Whole(record) | Read::Wide(record, _) => record.id,
            Read::Unreadable(row, _) => row.id,
        }
    }

    /// Whether a held lane, other than `except`, keeps it back.
    pub(crate) fn is_kept_back<P>(&self, held_back: &HeldBack<P>, except: Option<&Lane>) -> bool {
        if held_back.is_empty() {
            return false;
        }
        let (topic, lane) = match self {
            Read::Whole(record) | Read::Wide(record, _) => (&record.topic, record.lane()),
            Read::Unreadable(row, _) => (&row.topic, row.lane.clone()),
        };
        held_back.keeps_back(topic, lane, except, |held| self.id() >= held.from_id)
    }

    /// Bytes of memory that it costs once it is loaded, roughly; or those that the database moves to give it up.
    pub(crate) fn footprint(&self) -> usize {
        match self {
            Read::Whole(record) => record.footprint(),
            Read::Wide(record, size) => record.footprint() + size,
            Read::Unreadable(_, size) => *size,
        }
    }

    /// All of it, with what was left out, from the table of the outbox or of the dead letters, and its columns; nothing if the row is gone by
    /// now.
    pub(crate) async fn load(
        self,
        connection: &mut SqliteConnection,
        table: &str,
        columns: &Columns,
    ) -> Result<Option<Result<Record, Unreadable>>, StoreError> {
        match self {
            Read::Whole(record) => Ok(Some(Ok(record))),
            Read::Wide(record, _) => load(connection, table, columns, record).await,
            Read::Unreadable(row, _) => Ok(Some(Err(row))),
        }
    }
}

/// Reads rows, and shares topic names among the records it made.
#[derive(Debug)]
pub(crate) struct Rows {
    topics: HashSet<Arc<str>>,
    /// Rows that are larger are not loaded.
    most: usize,
}

impl Rows {
    /// Reads rows of which none that is larger than `most` is to be loaded.
    pub(crate) fn new(most: usize) -> Self {
        Self { topics: HashSet::new(), most }
    }

    /// Reads what came of a row.
    pub(crate) fn read(&mut self, row: &SqliteRow) -> Result<Read, StoreError> {
        let id: i64 = row.try_get(0).map_err(reading)?;
        let size = usize::try_from(row.try_get::<i64, _>(8).map_err(reading)?).unwrap_or(usize::MAX);
        let is_wide: bool = row.try_get(9).map_err(reading)?;
        let head = Head {
            id,
            event_id: event_id(row),
            topic: text(row, 2, "topic").and_then(|topic| {
                topic.ok_or_else(|| Fault::unreadable(format!("its topic is none of 1 to {LONGEST_TOPIC} bytes")))
            }),
            key: text(row, 3, "key"),
            partition: partition(row),
        };
        let content = if size > self.most { Err(Fault::too_large(size, self.most)) } else { content(row, is_wide) };
        let topic = self.topic(head.topic_name());
        Ok(match head.with(topic, content) {
            Ok(record) if is_wide => Read::Wide(record, size),
            Ok(record) => Read::Whole(record),
            Err(unreadable) => Read::Unreadable(unreadable, size),
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

/// Fills in what was left out of a record.
async fn load(
    connection: &mut SqliteConnection,
    table: &str,
    columns: &Columns,
    mut record: Record,
) -> Result<Option<Result<Record, Unreadable>>, StoreError> {
    let Columns { id, event_id, .. } = columns;
    let wide = columns.wide();
    let sql =
        format!("/* outboxd: read_wide */ select {wide} from {table} where {id} = ? and {event_id} = ? collate nocase");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(record.id).bind(record.event_id.to_string());
    let Some(row) = query.fetch_optional(connection).await.map_err(reading)? else { return Ok(None) };
    Ok(Some(match complete(&mut record, &row) {
        Ok(()) => Ok(record),
        Err(fault) => Err(record.refused(fault)),
    }))
}

fn complete(record: &mut Record, row: &SqliteRow) -> Result<(), Fault> {
    record.key = text(row, 0, "key")?.map(str::to_owned);
    record.headers = headers(row, 2)?;
    record.payload = payload(row, 1)?;
    Ok(())
}

fn content(row: &SqliteRow, is_wide: bool) -> Result<Content, Fault> {
    let created_at = row.try_get::<Option<i64>, _>(7).ok().flatten().and_then(DateTime::from_timestamp_millis);
    let created_at = created_at.ok_or_else(|| Fault::unreadable("its created_at is no time"))?;
    // What was left out looks like null.
    let headers = if is_wide { Headers::new() } else { headers(row, 5)? };
    Ok(Content { payload: payload(row, 4)?, headers, created_at })
}

fn event_id(row: &SqliteRow) -> Result<Uuid, Fault> {
    let hyphenated = |text: &&str| text.len() == uuid::fmt::Hyphenated::LENGTH;
    let event_id = text(row, 1, "event id")?.filter(hyphenated).and_then(|text| Uuid::try_parse(text).ok());
    event_id.ok_or_else(|| Fault::unreadable("its event id is no hyphenated UUID"))
}

fn partition(row: &SqliteRow) -> Result<Option<i32>, Fault> {
    let number = row.try_get::<Option<i64>, _>(6);
    let number = number.map_err(|_error| Fault::unreadable("its partition is no number"))?;
    number.map(partition_of).transpose()
}

fn headers(row: &SqliteRow, column: usize) -> Result<Headers, Fault> {
    let json = text(row, column, "headers")?.unwrap_or_default();
    headers_from_json(json.as_bytes()).map_err(|error| Fault::unreadable(error.to_string()))
}

fn payload(row: &SqliteRow, column: usize) -> Result<Option<Vec<u8>>, Fault> {
    row.try_get(column).map_err(|_error| Fault::unreadable("its payload is neither text nor blob"))
}

/// A text in UTF-8; SQLite takes anything else too.
fn text<'r>(row: &'r SqliteRow, column: usize, name: &str) -> Result<Option<&'r str>, Fault> {
    let value = row.try_get_raw(column).map_err(|_error| Fault::unreadable(format!("its {name} cannot be read")))?;
    let is_text = value.is_null() || value.type_info().name() == "TEXT";
    let text = is_text.then(|| row.try_get_unchecked::<Option<&str>, _>(column).ok()).flatten();
    text.ok_or_else(|| Fault::unreadable(format!("its {name} is no text in UTF-8")))
}

fn reading(error: sqlx::Error) -> StoreError {
    classify("reading a row", error)
}
