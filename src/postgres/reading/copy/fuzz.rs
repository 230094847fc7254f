//! Streams as a server sends them, and as no server does.

use proptest::array::uniform11;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Message, SIGNATURE};
use crate::fuzz::{Bytes, damaged, feed};
use crate::postgres::reading::rows::{RowBytes, WIDTH};

/// Lengths, counts and beginnings that a decoder may stumble over.
pub(in crate::postgres) const WORDS: &[&[u8]] = &[
    b"\0",
    b"\0\x0b",
    b"\xff\xff",
    b"\x7f\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xfe",
    b"\0\0\0\x04",
    b"\0\0\0\x08",
    b"\0\0\0\x10",
    SIGNATURE,
    b"1:1:",
    b"{\"a\":1}",
    b"#18446744073709551615",
    b"#99999999999999999999",
    b"#1",
    b"#",
    b"\xed\xa0\x80",
];

/// The columns of a row: nothing for null.
pub(in crate::postgres) type Copied = [Option<Vec<u8>>; WIDTH];

/// What comes before the first row, if it does: flags and what extends the header.
type Begin = Option<(u32, Vec<u8>)>;

/// A stream of rows.
pub(in crate::postgres) fn stream(begin: &Begin, rows: &[Copied], has_trailer: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some((flags, extension)) = begin {
        bytes.extend(SIGNATURE);
        bytes.extend((flags & 0xffff).to_be_bytes());
        bytes.extend((extension.len() as u32).to_be_bytes());
        bytes.extend(extension);
    }
    for row in rows {
        bytes.extend((WIDTH as i16).to_be_bytes());
        for column in row {
            bytes.extend(column.as_ref().map_or(-1, |column| column.len() as i32).to_be_bytes());
            bytes.extend(column.iter().flatten());
        }
    }
    if has_trailer {
        bytes.extend((-1_i16).to_be_bytes());
    }
    bytes
}

fn begin() -> impl Strategy<Value = Begin> {
    option::of((any::<u32>(), vec(any::<u8>(), 0..10)))
}

/// Rows of any columns.
fn rows() -> impl Strategy<Value = Vec<Copied>> {
    vec(uniform11(option::of(vec(any::<u8>(), 0..20))), 0..6)
}

/// All rows that can be read, and whether they end in good order.
fn decoded(bytes: &[u8]) -> (Vec<Copied>, bool) {
    let mut rows = Vec::new();
    let Ok(mut message) = Message::new(bytes) else { return (rows, false) };
    loop {
        match message.next() {
            Ok(Some(tuple)) => {
                let column = |at| tuple.bytes(at).expect("it is there").map(<[u8]>::to_vec);
                rows.push(std::array::from_fn(column));
            }
            Ok(None) => return (rows, true),
            Err(_) => return (rows, false),
        }
    }
}

#[test]
fn rows_are_read_as_they_were_sent_and_of_a_stream_that_is_cut_only_those_before() {
    let inputs = (begin(), rows(), any::<bool>(), any::<Index>());
    feed(&inputs, 2_000, |(begin, rows, has_trailer, cut)| {
        let bytes = stream(&begin, &rows, has_trailer);
        prop_assert_eq!(decoded(&bytes), (rows.clone(), true));
        if let Some(cut) = (!bytes.is_empty()).then(|| cut.index(bytes.len())) {
            let (read, is_whole) = decoded(&bytes[..cut]);
            prop_assert_eq!(&read[..], &rows[..read.len()]);
            let ends: Vec<usize> = (0..=rows.len()).map(|end| stream(&begin, &rows[..end], false).len()).collect();
            prop_assert_eq!(is_whole, cut == 0 || ends.contains(&cut), "cut at {} of {}", cut, bytes.len());
        }
        Ok(())
    });
}

#[test]
fn of_any_bytes_nothing_is_read_but_what_a_server_sends() {
    let valid = (begin(), rows(), any::<bool>());
    let valid = valid.prop_map(|(begin, rows, has_trailer)| stream(&begin, &rows, has_trailer));
    feed(&damaged(valid, WORDS), 4_000, |Bytes(bytes)| {
        let (rows, is_whole) = decoded(&bytes);
        let sent = stream(&None, &rows, false);
        let came = sent.is_empty() || bytes.windows(sent.len()).any(|part| part == sent);
        prop_assert!(came, "read {:?}", rows);
        if is_whole {
            let with_trailer = stream(&None, &rows, true);
            prop_assert!(bytes.ends_with(&sent) || bytes.ends_with(&with_trailer), "something follows {:?}", rows);
            let critical = bytes.strip_prefix(SIGNATURE).map_or([0; 2], |rest| [rest[0], rest[1]]);
            prop_assert_eq!(critical, [0; 2], "a header of another format");
        }
        Ok(())
    });
}
