//! Headers of any text: what an application writes as its trace context, and what it should not have.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{LONGEST_STATE, MOST_LINKS, TRACE_PARENT, TRACE_STATE, links};
use crate::fuzz::{damaged_text, feed};

const WORDS: &[&[u8]] =
    &[b"-", b"00", b"ff", b"0", b"A", b"+", b"=", b",", b"@", b" ", b"\t", b"\0", b"\xff", b"\xc3\xa4"];

/// A parent as W3C has it; of few traces, so that some come twice.
fn parent() -> impl Strategy<Value = String> {
    let valid =
        (0..4u128, 0..3u64, 0..4u8).prop_map(|(trace, span, flags)| format!("00-{trace:032x}-{span:016x}-{flags:02x}"));
    damaged_text(valid, WORDS)
}

fn state() -> impl Strategy<Value = String> {
    damaged_text("([a-z]{1,3}=[a-z0-9]{0,8},){0,40}", WORDS)
}

/// A record's headers: in any order, any of them null.
fn headers() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let parent = option::weighted(0.9, parent()).prop_map(|parent| (TRACE_PARENT.to_owned(), parent));
    let state = option::weighted(0.9, state()).prop_map(|state| (TRACE_STATE.to_owned(), state));
    let other = (select(vec!["id", "Traceparent", "baggage", ""]), option::of(".{0,8}"));
    let other = other.prop_map(|(name, value)| (name.to_owned(), value));
    vec(prop_oneof![3 => parent, 2 => state, 1 => other], 0..4)
}

#[test]
fn whatever_headers_say_links_are_few_valid_and_different() {
    feed(&vec(headers(), 0..200), 500, |rows| {
        let records: Vec<_> = rows
            .into_iter()
            .map(|headers| {
                let mut record = super::tests::record(&[]);
                record.headers = headers;
                record
            })
            .collect();
        let links = links(&records);
        prop_assert!(links.len() <= MOST_LINKS);
        let mut seen = HashSet::new();
        for link in &links {
            let context = &link.span_context;
            prop_assert!(context.is_valid() && link.attributes.is_empty());
            prop_assert!(context.trace_state().header().len() <= LONGEST_STATE);
            prop_assert!(seen.insert((context.trace_id(), context.span_id())), "{:?}", context);
        }
        prop_assert!(links.is_sorted_by_key(|link| !link.span_context.is_sampled()));
        Ok(())
    });
}
