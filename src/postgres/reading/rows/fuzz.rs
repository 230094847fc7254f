//! Rows of all kinds, well-formed and not, on their way into a page.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Page, WIDTH, timestamp};
use crate::fuzz::{Bytes, damaged, feed};
use crate::outbox::{Limit, Record};
use crate::postgres::reading::copy::Message;
use crate::postgres::reading::copy::fuzz::{Copied, WORDS, stream};

/// As many bytes as the database sends of a part at once.
const WIDE: usize = 8192;

/// A record with the microseconds since 2000 of its row.
fn record() -> impl Strategy<Value = (Record, i64)> {
    let row = (any::<i64>(), any::<u128>(), "[a-c.]{1,3}", option::of(0..i32::MAX), any::<i64>());
    let content =
        (option::of(".{0,9}"), option::of(vec(any::<u8>(), 0..9)), vec((".{1,3}", option::of(".{0,9}")), 0..4));
    (row, content).prop_map(|((id, event_id, topic, partition, micros), (key, payload, mut headers))| {
        headers.sort();
        headers.dedup_by(|one, other| one.0 == other.0);
        let record = Record {
            id,
            event_id: Uuid::from_u128(event_id),
            topic: topic.into(),
            key,
            payload,
            headers,
            partition,
            created_at: timestamp(micros),
        };
        (record, micros)
    })
}

/// The row of a record, as the database sends it.
fn row((record, micros): &(Record, i64)) -> Copied {
    let headers: serde_json::Map<_, _> =
        record.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let headers = (!headers.is_empty()).then(|| serde_json::to_vec(&headers).expect("text is JSON"));
    [
        None,
        Some(record.id.to_be_bytes().to_vec()),
        Some(record.event_id.as_bytes().to_vec()),
        Some(record.topic.as_bytes().to_vec()),
        record.key.clone().map(String::into_bytes),
        None,
        None,
        record.payload.clone(),
        headers,
        record.partition.map(|partition| partition.to_be_bytes().to_vec()),
        Some(micros.to_be_bytes().to_vec()),
    ]
}

/// The row that tells a snapshot.
fn told(snapshot: &str) -> Copied {
    let mut row = [const { None }; WIDTH];
    row[0] = Some(snapshot.as_bytes().to_vec());
    row
}

/// Sizes of key and payload that were left out, and a word in place of the headers.
fn wide(mut row: Copied, (key, payload, headers): (Option<u32>, Option<u32>, Option<u64>)) -> Copied {
    let size = |size: u32| size.to_be_bytes().to_vec();
    row[5] = key.map(size);
    row[6] = payload.map(size);
    row[8] = headers.map(|size| format!("#{size}").into_bytes()).or(row[8].take());
    row
}

/// Takes all rows of a stream into a page, as far as they can be read.
fn page(bytes: &[u8], most: usize, limit: Limit) -> Page {
    let mut page = Page::new(limit, most);
    if let Ok(mut message) = Message::new(bytes) {
        while let Ok(Some(row)) = message.next() {
            if page.take(&row, |_| false).is_err() {
                break;
            }
        }
    }
    page
}

#[test]
fn a_row_of_a_record_is_read_as_that_record() {
    let limit = Limit { records: 10, bytes: usize::MAX };
    feed(&vec(record(), 0..4), 1_000, |records| {
        let mut rows = vec![told("7:9:8")];
        rows.extend(records.iter().map(row));
        let page = page(&stream(&None, &rows, true), WIDE, limit);
        let records: Vec<Record> = records.into_iter().map(|(record, _)| record).collect();
        prop_assert_eq!(page.snapshot.map(|snapshot| snapshot.to_string()), Some("7:9:8".to_owned()));
        prop_assert_eq!(page.records, records);
        prop_assert!(page.unreadable.is_empty() && page.wide.is_empty());
        Ok(())
    });
}

#[test]
fn whatever_rows_say_a_page_holds_no_more_than_came_and_than_it_may() {
    let sizes =
        (option::weighted(0.2, any::<u32>()), option::weighted(0.2, any::<u32>()), option::weighted(0.2, any::<u64>()));
    let rows = vec((record(), sizes).prop_map(|(record, sizes)| wide(row(&record), sizes)), 0..4);
    let stream = rows.prop_map(|rows| stream(&None, &rows, true));
    let bounds = (prop_oneof![0..200usize, Just(usize::MAX)], prop_oneof![0..4_000usize, Just(usize::MAX)]);
    feed(&(damaged(stream, WORDS), bounds), 4_000, |(Bytes(bytes), (most, room))| {
        let limit = Limit { records: 10, bytes: room };
        let page = page(&bytes, most, limit);
        let sizes = || page.records.iter().map(Record::size);
        prop_assert!(sizes().sum::<usize>() <= bytes.len());
        prop_assert!(sizes().all(|size| size <= most));
        let footprint: usize = page.records.iter().map(Record::footprint).sum();
        prop_assert!(page.taken() <= 1 || footprint <= limit.bytes, "{} bytes", footprint);
        prop_assert_eq!(page.records.len() + page.unreadable.len(), page.taken());
        prop_assert!(page.taken() <= page.rows && page.last_id().is_some() == (page.taken() > 0));
        prop_assert!(page.wide.iter().all(|at| *at < page.records.len()) && page.wide.is_sorted());
        Ok(())
    });
}
