//! Headers as a database may hold them: any JSON, and what is none.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::{Headers, headers_from_json};
use crate::fuzz::{Bytes, damaged, feed};

const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"\0",
    b"null",
    b"nul",
    b"-",
    b"1e400",
    b"1.10",
    b"0x1",
    b"\\ud800",
    b"\\udc00",
    b"\\u0000",
    b"\\u",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"NaN",
    b"\"a\":",
    b"{\"a\":1}",
];

/// How deep values are nested; there is no depth at which a reader may give up.
fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..4usize, 4 => 100..300usize, 1 => Just(50_000)]
}

/// A text as JSON, in either way of writing it.
fn quoted(text: &str, is_escaped: bool) -> String {
    if is_escaped {
        let escapes: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        return format!("\"{escapes}\"");
    }
    serde_json::to_string(text).expect("text is JSON")
}

/// A value as it is written, and as it is published.
fn value() -> impl Strategy<Value = (String, Option<String>)> {
    let as_it_is = |json: String| (json.clone(), Some(json));
    let number = "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?";
    prop_oneof![
        3 => (".{0,8}", any::<bool>()).prop_map(|(text, is_escaped)| (quoted(&text, is_escaped), Some(text))),
        1 => Just(("null".to_owned(), None)),
        3 => number.prop_map(as_it_is),
        1 => any::<bool>().prop_map(move |switch| as_it_is(switch.to_string())),
        2 => (depth(), number).prop_map(move |(depth, number)| {
            as_it_is(format!("{}{number}{}", "[".repeat(depth + 1), "]".repeat(depth + 1)))
        }),
        2 => (depth(), ".{0,8}").prop_map(move |(depth, text)| {
            as_it_is(format!("{}{}{}", "{ \"a\" : ".repeat(depth + 1), quoted(&text, true), "}".repeat(depth + 1)))
        }),
    ]
}

/// Headers as they are written, and as they are published: sorted by their names, of which the last of each counts.
fn written() -> impl Strategy<Value = (String, Headers)> {
    let blank = || "[ \t\n\r]{0,2}";
    let header = (".{0,4}", any::<bool>(), value(), (blank(), blank()));
    (vec(header, 0..5), blank()).prop_map(|(headers, blank)| {
        let text = headers.iter().map(|(name, is_escaped, (json, _), (before, after))| {
            format!("{before}{}{after}:{before}{json}{after}", quoted(name, *is_escaped))
        });
        let text = format!("{blank}{{{blank}{}}}{blank}", text.collect::<Vec<_>>().join(","));
        let published: BTreeMap<_, _> = headers.into_iter().map(|(name, _, (_, value), _)| (name, value)).collect();
        (text, published.into_iter().collect())
    })
}

#[test]
fn headers_are_published_as_they_are_written_whatever_they_hold() {
    feed(&written(), 1_000, |(json, published)| {
        prop_assert_eq!(headers_from_json(json.as_bytes()), Ok(published));
        Ok(())
    });
}

#[test]
fn any_bytes_are_the_headers_that_json_calls_them_or_none() {
    feed(&damaged(written().prop_map(|(json, _)| json.into_bytes()), WORDS), 2_000, |Bytes(bytes)| {
        let read = headers_from_json(&bytes);
        if let Ok(headers) = &read {
            prop_assert!(headers.is_sorted_by(|one, next| one.0 < next.0), "{:?}", headers);
            let map: BTreeMap<_, _> = headers.iter().cloned().collect();
            let again = serde_json::to_vec(&map).expect("text is JSON");
            prop_assert_eq!(&headers_from_json(&again), &read);
        }
        // What another reader understands is understood alike. It gives up sooner, at large numbers and deep values.
        if let Ok(Value::Object(object)) = serde_json::from_slice(&bytes) {
            let headers: BTreeMap<_, _> = read.expect("another reader calls it an object").into_iter().collect();
            prop_assert!(headers.keys().eq(object.keys()), "{:?}", headers);
            for (name, value) in &object {
                match (value, headers[name].as_deref()) {
                    (Value::Null, published) => prop_assert_eq!(published, None),
                    (Value::String(text), published) => prop_assert_eq!(published, Some(text.as_str())),
                    (value, published) => {
                        let published = published.and_then(|json| serde_json::from_str(json).ok());
                        prop_assert_eq!(published.as_ref(), Some(value));
                    }
                }
            }
        }
        Ok(())
    });
}
