//! Rows of all kinds, well-formed and not.

use chrono::DateTime;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Read, Rows, Selected, complete};
use crate::fuzz::{Bytes, damaged, feed};
use crate::outbox::{LONGEST_TOPIC, Record};

const WORDS: &[&[u8]] = &[b"{", b"}", b"\"", b":", b"-", b"\0", b"\xff", b"\xc3", b"\\ud800", b"null", b"[", b"{}"];

/// A record as an application can write it.
fn record() -> impl Strategy<Value = Record> {
    let row = (any::<i64>(), any::<u128>(), "[a-c.]{1,3}", option::of(0..i32::MAX), 0..2_000_000_000_000_000_i64);
    let content =
        (option::of(".{0,9}"), option::of(vec(any::<u8>(), 0..9)), vec((".{1,3}", option::of(".{0,9}")), 0..4));
    (row, content).prop_map(|((id, event_id, topic, partition, micros), (key, payload, mut headers))| {
        headers.sort();
        headers.dedup_by(|one, other| one.0 == other.0);
        let (event_id, topic) = (Uuid::from_u128(event_id), topic.as_str().into());
        let created_at = DateTime::from_timestamp_micros(micros).expect("a time");
        Record { id, event_id, topic, key, payload, headers, partition, created_at }
    })
}

/// The headers of a record, as the table holds them.
fn headers(record: &Record) -> Vec<u8> {
    let object: serde_json::Map<_, _> =
        record.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    serde_json::to_vec(&object).expect("text is JSON")
}

/// Reads a record's row of which some columns are other than the record says.
fn read(record: &Record, event_id: &[u8], topic: &[u8], headers: &[u8], size: i64, is_wide: bool) -> Read {
    let (key, payload) = (record.key.as_deref().map(str::as_bytes), record.payload.as_deref());
    let selected = Selected {
        id: record.id,
        event_id: Some(event_id),
        topic: Some(topic),
        key: key.filter(|_| !is_wide),
        payload: payload.filter(|_| !is_wide),
        headers: Some(headers).filter(|_| !is_wide),
        partition: record.partition.map(i64::from),
        created_at: Some(record.created_at.timestamp_micros()),
        size: Some(size),
        is_wide,
    };
    Rows::new(1_000_000).record(selected)
}

#[test]
fn a_record_is_read_as_it_was_written_at_once_or_in_two_steps() {
    feed(&(record(), any::<bool>()), 4_000, |(record, is_wide)| {
        let (event_id, headers) = (record.event_id.to_string(), headers(&record));
        let read = read(&record, event_id.as_bytes(), record.topic.as_bytes(), &headers, 9_999, is_wide);
        let whole = match read {
            Read::Wide(mut whole, size) => {
                prop_assert!(is_wide && size == 9_999);
                let (key, payload) = (record.key.as_deref().map(str::as_bytes), record.payload.as_deref());
                prop_assert!(complete(&mut whole, [key, payload, Some(&headers)]).is_ok());
                whole
            }
            Read::Whole(whole) => whole,
            Read::Unreadable(row, _) => return Err(TestCaseError::fail(row.why)),
        };
        prop_assert_eq!(whole, record);
        Ok(())
    });
}

#[test]
fn whatever_a_row_holds_it_is_a_record_or_rejected_in_its_place() {
    let parts = record().prop_map(|record| {
        let parts = [record.event_id.to_string().into_bytes(), record.topic.as_bytes().to_vec(), headers(&record)];
        (record, parts)
    });
    let parts = (parts, any::<i64>(), any::<bool>(), damaged(Just(Vec::new()), WORDS), 0..4_usize);
    feed(&parts, 4_000, |((record, mut parts), size, is_wide, Bytes(garbage), at)| {
        if let Some(part) = parts.get_mut(at) {
            part.extend(garbage);
        }
        let [event_id, topic, headers] = parts;
        let read = read(&record, &event_id, &topic, &headers, size, is_wide);
        prop_assert_eq!(read.id(), record.id);
        match read {
            Read::Whole(read) | Read::Wide(read, _) => {
                prop_assert!((1..=LONGEST_TOPIC).contains(&read.topic.len()));
                prop_assert_eq!((read.event_id, read.partition), (record.event_id, record.partition));
            }
            Read::Unreadable(row, _) => prop_assert!(!row.why.contains("secret"), "{}", row.why),
        }
        Ok(())
    });
}
