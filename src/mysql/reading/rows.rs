//! Rows: from the table's columns to a record.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::DateTime;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::mysql::errors::classify;
use crate::mysql::session::{ask, sql};
use crate::mysql::table::Columns;
use crate::outbox::{
    Content, Fault, Head, Headers, LONGEST_TOPIC, Lane, Record, Unreadable, headers_from_json, partition_of,
};
use crate::reading::HeldBack;

/// How many columns are [selected](Columns::selected).
pub(crate) const WIDTH: usize = 10;

/// What came of a row.
#[derive(Debug, PartialEq, Eq)]
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

    /// The row's topic, and the lane in which it stands.
    pub(crate) fn place(&self) -> (&Arc<str>, Option<Lane>) {
        match self {
            Read::Whole(record) | Read::Wide(record, _) => (&record.topic, record.lane()),
            Read::Unreadable(row, _) => (&row.topic, row.lane.clone()),
        }
    }

    /// Whether it is of a lane, or of its topic.
    pub(crate) fn is_of(&self, lane: &Lane) -> bool {
        let (topic, own) = self.place();
        matches!(lane, Lane::Topic { topic: held } if held == topic) || own.as_ref() == Some(lane)
    }

    /// Whether a held lane, other than `except`, keeps it back.
    pub(crate) fn is_kept_back<P>(&self, held_back: &HeldBack<P>, except: Option<&Lane>) -> bool {
        if held_back.is_empty() {
            return false;
        }
        let (topic, lane) = self.place();
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

    /// All of it, with what was left out, from the table of the outbox or of the dead letters, and its columns; nothing if
    /// the row is gone by now.
    pub(crate) async fn load(
        self,
        conn: &mut MySqlConnection,
        table: &str,
        columns: &Columns,
    ) -> Result<Option<Result<Record, Unreadable>>, StoreError> {
        match self {
            Read::Whole(record) => Ok(Some(Ok(record))),
            Read::Wide(record, _) => load(conn, table, columns, record).await,
            Read::Unreadable(row, _) => Ok(Some(Err(row))),
        }
    }
}

/// What is [selected](Columns::selected) of a row, as the server sends it.
#[derive(Debug, Clone, Copy)]
struct Selected<'r> {
    id: i64,
    event_id: Option<&'r [u8]>,
    topic: Option<&'r [u8]>,
    key: Option<&'r [u8]>,
    payload: Option<&'r [u8]>,
    headers: Option<&'r [u8]>,
    partition: Option<i64>,
    /// Microseconds since 1970.
    created_at: Option<i64>,
    size: Option<i64>,
    is_wide: bool,
}

impl<'r> Selected<'r> {
    fn of(row: &'r MySqlRow) -> Result<Self, StoreError> {
        let bytes = |column: usize| row.try_get_unchecked::<Option<&'r [u8]>, _>(column).map_err(reading);
        let number = |column: usize| row.try_get_unchecked::<Option<i64>, _>(column).map_err(reading);
        Ok(Self {
            id: row.try_get_unchecked(0).map_err(reading)?,
            event_id: bytes(1)?,
            topic: bytes(2)?,
            key: bytes(3)?,
            payload: bytes(4)?,
            headers: bytes(5)?,
            partition: number(6)?,
            created_at: number(7)?,
            size: number(8)?,
            is_wide: number(9)?.unwrap_or_default() != 0,
        })
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
    pub(crate) fn read(&mut self, row: &MySqlRow) -> Result<Read, StoreError> {
        Ok(self.record(Selected::of(row)?))
    }

    fn record(&mut self, row: Selected<'_>) -> Read {
        let size = usize::try_from(row.size.unwrap_or_default()).unwrap_or(usize::MAX);
        let head = Head {
            id: row.id,
            event_id: event_id(row.event_id),
            topic: topic(row.topic),
            key: text(row.key, "key"),
            partition: row.partition.map(partition_of).transpose(),
        };
        let content = if size > self.most { Err(Fault::too_large(size, self.most)) } else { content(&row) };
        let topic = self.topic(head.topic_name());
        match head.with(topic, content) {
            Ok(record) if row.is_wide => Read::Wide(record, size),
            Ok(record) => Read::Whole(record),
            Err(unreadable) => Read::Unreadable(unreadable, size),
        }
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
    conn: &mut MySqlConnection,
    table: &str,
    columns: &Columns,
    mut record: Record,
) -> Result<Option<Result<Record, Unreadable>>, StoreError> {
    let Columns { id, event_id, .. } = columns;
    let statement = format!(
        "/* outboxd: read_wide */ select {wide} from {table} where {id} = {number} and {event_id} = '{event}'",
        wide = columns.wide(),
        number = record.id,
        event = record.event_id
    );
    let found = sqlx::raw_sql(sql(statement)).fetch_optional(conn);
    let Some(row) = ask("reading a large row", found).await? else { return Ok(None) };
    let bytes = |column: usize| row.try_get_unchecked::<Option<&[u8]>, _>(column).map_err(reading);
    let parts = [bytes(0)?, bytes(1)?, bytes(2)?];
    Ok(Some(match complete(&mut record, parts) {
        Ok(()) => Ok(record),
        Err(fault) => Err(record.refused(fault)),
    }))
}

fn complete(record: &mut Record, [key, payload, its_headers]: [Option<&[u8]>; 3]) -> Result<(), Fault> {
    record.key = text(key, "key")?.map(str::to_owned);
    record.headers = headers(its_headers)?;
    record.payload = payload.map(<[u8]>::to_vec);
    Ok(())
}

fn content(row: &Selected<'_>) -> Result<Content, Fault> {
    let created_at = row.created_at.and_then(DateTime::from_timestamp_micros);
    let created_at = created_at.ok_or_else(|| Fault::unreadable("its created_at is no time"))?;
    // What was left out looks like null.
    let headers = if row.is_wide { Headers::new() } else { headers(row.headers)? };
    Ok(Content { payload: row.payload.map(<[u8]>::to_vec), headers, created_at })
}

fn event_id(bytes: Option<&[u8]>) -> Result<Uuid, Fault> {
    let hyphenated = bytes.filter(|bytes| bytes.len() == uuid::fmt::Hyphenated::LENGTH);
    let event_id = hyphenated.and_then(|bytes| Uuid::try_parse_ascii(bytes).ok());
    event_id.ok_or_else(|| Fault::unreadable("its event id is no hyphenated UUID"))
}

fn topic(bytes: Option<&[u8]>) -> Result<&str, Fault> {
    let named = text(bytes, "topic")?.filter(|topic| (1..=LONGEST_TOPIC).contains(&topic.len()));
    named.ok_or_else(|| Fault::unreadable(format!("its topic is none of 1 to {LONGEST_TOPIC} bytes")))
}

fn headers(bytes: Option<&[u8]>) -> Result<Headers, Fault> {
    headers_from_json(bytes.unwrap_or_default()).map_err(|error| Fault::unreadable(error.to_string()))
}

/// A text in UTF-8, which is what the server makes of any text for us.
fn text<'r>(bytes: Option<&'r [u8]>, name: &str) -> Result<Option<&'r str>, Fault> {
    let text = bytes.map(std::str::from_utf8).transpose();
    text.map_err(|_| Fault::unreadable(format!("its {name} is no text in UTF-8")))
}

fn reading(error: sqlx::Error) -> StoreError {
    classify("reading a row", error)
}

#[cfg(test)]
mod fuzz;
