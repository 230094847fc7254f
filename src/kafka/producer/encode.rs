//! A record in the client's terms: its size on the wire, its headers, its timestamp.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{BorrowedHeaders, Header, Headers as _, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::kafka::config::Stamp;
use crate::kafka::producer::sending::Sending;
use crate::observe::metrics;
use crate::outbox::{REPLAY_HEADER, RESERVED_HEADERS, Record};

/// The header that carries the event's identity.
const EVENT_ID: &str = RESERVED_HEADERS[0];

/// The header that carries the row's id.
const ROW_ID: &str = RESERVED_HEADERS[1];

/// The header that names the outbox.
const SOURCE_HEADER: &str = RESERVED_HEADERS[2];

/// The header that says when the row was written, on a record whose topic does not take that for its timestamp.
const CREATED_AT: &str = RESERVED_HEADERS[3];

/// Headers of the relay's that every record has.
const ALWAYS: usize = 3;

/// Bytes of a record batch's own fields (message format v2).
const BATCH_HEADER: usize = 61;

/// Digits of the longest 64-bit integer, with its sign.
const LONGEST_ID: usize = 20;

/// Of which of the relay's headers the log was told that a row had its own.
static SAID: [AtomicBool; RESERVED_HEADERS.len()] = [const { AtomicBool::new(false) }; RESERVED_HEADERS.len()];

/// Puts a record into the client's terms: the application's headers first and the relay's last. What the application calls
/// like one of these is left out, so that consumers see the relay's alone, whichever of a name they take.
///
/// Its timestamp is that of its row. One that the topic does not take is no fault of the record: it is sent as of now then,
/// and says in a header when it was written.
pub(crate) fn encode<'a>(
    record: &'a Record,
    sending: Sending,
    stamp: Stamp<'_>,
    opaque: usize,
) -> BaseRecord<'a, str, [u8], usize> {
    BaseRecord {
        topic: &record.topic,
        partition: Some(sending.partition),
        payload: record.payload.as_deref(),
        key: record.key.as_deref(),
        timestamp: Some(timestamp(if sending.is_untimely { Utc::now() } else { record.created_at })),
        headers: Some(headers(record, stamp, sending.is_untimely)),
        delivery_opaque: opaque,
    }
}

/// Milliseconds since 1970. The client takes 0 for "now" and the broker refuses less, so the least is 1.
fn timestamp(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis().max(1)
}

fn headers(record: &Record, stamp: Stamp<'_>, is_untimely: bool) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len() + ALWAYS + usize::from(is_untimely));
    for (name, value) in &record.headers {
        match reserved(name, stamp) {
            None => headers = headers.insert(Header { key: name, value: value.as_deref() }),
            Some(place) => note_dropped(place, &record.topic),
        }
    }
    let mut event_id = [0; uuid::fmt::Hyphenated::LENGTH];
    let event_id: &str = record.event_id.hyphenated().encode_lower(&mut event_id);
    let mut row_id = [0; LONGEST_ID];
    let row_id = decimal(record.id, &mut row_id);
    if is_untimely {
        let created_at = record.created_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        headers = headers.insert(Header { key: CREATED_AT, value: Some(&created_at) });
    }
    headers
        .insert(Header { key: EVENT_ID, value: Some(event_id) })
        .insert(Header { key: ROW_ID, value: Some(row_id) })
        .insert(Header { key: SOURCE_HEADER, value: Some(stamp.source) })
}

/// The place of a name among those of the relay's headers that no record may bring.
fn reserved(name: &str, stamp: Stamp<'_>) -> Option<usize> {
    RESERVED_HEADERS.iter().position(|reserved| *reserved == name).filter(|_| !(stamp.replays && name == REPLAY_HEADER))
}

/// Counts a header of the application's that is left out, and says so once for each name.
fn note_dropped(place: usize, topic: &str) {
    metrics::count_reserved_header();
    if !SAID[place].swap(true, Ordering::Relaxed) {
        tracing::warn!(
            header = RESERVED_HEADERS[place],
            topic,
            "a row has a header of a name that the relay writes itself: it is left out; rename it where rows are inserted; this is said once, and counted"
        );
    }
}

/// The row's id that the relay wrote into a record's headers, which come last.
pub(crate) fn row_id(headers: Option<&BorrowedHeaders>) -> Option<i64> {
    let headers = headers?;
    let own = (0..headers.count()).rev().map(|at| headers.get(at)).find(|header| header.key == ROW_ID)?;
    std::str::from_utf8(own.value?).ok()?.parse().ok()
}

/// Writes an integer without allocating.
fn decimal(number: i64, buffer: &mut [u8; LONGEST_ID]) -> &[u8] {
    let mut rest = &mut buffer[..];
    write!(rest, "{number}").expect("the longest integer fits");
    let written = LONGEST_ID - rest.len();
    &buffer[..written]
}

/// Bytes of the record batch that holds this record alone, uncompressed: what the broker compares with the topic's
/// `max.message.bytes`.
pub(crate) fn batch_size(record: &Record, stamp: Stamp<'_>) -> usize {
    let mut row_id = [0; LONGEST_ID];
    let row_id = decimal(record.id, &mut row_id).len();
    let own = [(EVENT_ID, uuid::fmt::Hyphenated::LENGTH), (ROW_ID, row_id), (SOURCE_HEADER, stamp.source.len())];
    let own: usize = own.iter().map(|(name, value)| sized(name.len()) + sized(*value)).sum();
    let kept = || record.headers.iter().filter(|(name, _)| reserved(name, stamp).is_none());
    let given: usize =
        kept().map(|(name, value)| sized(name.len()) + value.as_ref().map_or(1, |value| sized(value.len()))).sum();
    let key = record.key.as_ref().map_or(1, |key| sized(key.len()));
    let payload = record.payload.as_ref().map_or(1, |payload| sized(payload.len()));
    // One byte each: attributes, and the differences of timestamp and offset, which are 0 for a first record.
    let body = 3 + key + payload + varint(kept().count() + ALWAYS) + own + given;
    BATCH_HEADER + sized(body)
}

/// A length as a varint, and so many bytes.
fn sized(length: usize) -> usize {
    varint(length) + length
}

/// Bytes of a length written as a zigzag varint.
fn varint(length: usize) -> usize {
    let bits = usize::BITS - (length << 1).leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;

    use super::*;

    const STAMP: Stamp<'_> = Stamp { source: "s", replays: false };

    fn record() -> Record {
        Record {
            id: 1,
            event_id: Uuid::nil(),
            topic: "t".into(),
            key: None,
            payload: None,
            headers: Vec::new(),
            partition: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn integers_are_written_whole() {
        for number in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(decimal(number, &mut [0; LONGEST_ID]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn varints_take_as_many_bytes_as_kafka_writes() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (8_191, 2), (8_192, 3), (1 << 20, 4)] {
            assert_eq!(varint(length), bytes, "{length}");
        }
    }

    #[test]
    fn a_record_of_1970_keeps_its_time_to_the_millisecond() {
        assert_eq!(timestamp(record().created_at), 1);
    }

    #[test]
    fn a_header_that_is_left_out_is_not_counted_either() {
        let forged = RESERVED_HEADERS.map(|name| (name.to_owned(), Some("forged".to_owned())));
        let own = ("a".to_owned(), None);
        let with = |headers: Vec<_>| Record { headers, ..record() };
        let (plain, forged) = (with(vec![own.clone()]), with([&forged[..], &[own]].concat()));
        assert_eq!(batch_size(&forged, STAMP), batch_size(&plain, STAMP));
        let names = |record: &Record| -> Vec<String> {
            headers(record, STAMP, false).as_borrowed().iter().map(|header| header.key.to_owned()).collect()
        };
        assert_eq!(names(&forged), ["a", EVENT_ID, ROW_ID, SOURCE_HEADER]);
        // What is sent again bears the number of the operation, and nothing else that is forged.
        let stamp = Stamp { replays: true, ..STAMP };
        assert_eq!(reserved(REPLAY_HEADER, stamp), None);
        assert!(reserved(EVENT_ID, stamp).is_some());
        assert!(batch_size(&forged, stamp) > batch_size(&plain, stamp));
    }

    #[test]
    fn the_size_counts_every_byte_of_payload() {
        let empty = batch_size(&Record { payload: Some(Vec::new()), ..record() }, STAMP);
        let full = batch_size(&Record { payload: Some(vec![0; 64]), ..record() }, STAMP);
        assert_eq!(full - empty, 64 + 1, "64 bytes, and their number takes one byte more");
    }
}
