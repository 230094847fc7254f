//! Certificates of any bytes.

use chrono::{DateTime, Utc};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, VERSION, ends, not_after};
use crate::fuzz::{Bytes, damaged, feed};

const WORDS: &[&[u8]] = &[
    b"\x30",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa0",
    b"\x02\x01",
    b"\x17\x0d",
    b"\x18\x0f",
    b"99991231235959Z",
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"=",
    b"\xff",
    b"\0",
];

fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    };
    [&[tag][..], &head, content].concat()
}

/// A certificate as far as it is read, and when it ends.
fn certificate() -> impl Strategy<Value = (Vec<u8>, DateTime<Utc>)> {
    let end = 0_i64..4_102_444_800;
    (any::<bool>(), any::<bool>(), vec(any::<u8>(), 0..300), end).prop_map(|(has_version, is_long, name, end)| {
        let end = DateTime::from_timestamp(end, 0).expect("a time of this century or the last");
        // Two digits tell the years from 1950 to 2049.
        let (tag, format) = match is_long || end.timestamp() >= 2_524_608_000 {
            true => (GENERALIZED_TIME, "%Y%m%d%H%M%SZ"),
            false => (UTC_TIME, "%y%m%d%H%M%SZ"),
        };
        let time = value(tag, end.format(format).to_string().as_bytes());
        let version = if has_version { value(VERSION, &value(INTEGER, &[2])) } else { Vec::new() };
        let (serial, name) = (value(INTEGER, &[7]), value(SEQUENCE, &name));
        let validity = value(SEQUENCE, &[&time[..], &time].concat());
        let signed = value(SEQUENCE, &[&version[..], &serial, &name, &name, &validity, &name].concat());
        (value(SEQUENCE, &[&signed[..], &name].concat()), end)
    })
}

#[test]
fn a_certificate_is_read_as_it_was_written() {
    feed(&certificate(), 500, |(der, end)| {
        prop_assert_eq!(not_after(&der), Some(end));
        Ok(())
    });
}

#[test]
fn damaged_certificates_are_read_or_refused() {
    feed(&damaged(certificate().prop_map(|(der, _)| der), WORDS), 2_000, |Bytes(der)| {
        let _read_or_refused = not_after(&der);
        Ok(())
    });
}

#[test]
fn damaged_files_are_read_or_refused() {
    let file = Just(include_bytes!("ended.pem").to_vec());
    feed(&damaged(file, WORDS), 2_000, |Bytes(pem)| {
        let read = ends(&pem);
        prop_assert!(read.is_err() || read.is_ok_and(|ends| !ends.is_empty()));
        Ok(())
    });
}
