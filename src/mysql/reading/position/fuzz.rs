//! Positions of any text.

use std::ops::RangeInclusive;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::{ReadPosition, is_read};
use crate::fuzz::{damaged_text, feed};
use crate::outbox::Proof;

const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"\"",
    b":",
    b",",
    b" ",
    b"+",
    b"*",
    b"-",
    b"0",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"null",
    b"\"gaps\"",
    b"\"proof\"",
    b"200000",
    b"\\u0000",
    b"\xef\xbc\x91",
];

/// Places at which some ids are missing, many of them in a pattern.
fn place() -> impl Strategy<Value = ReadPosition> {
    let step = (prop_oneof![2..5_i64, 2..1_000_000_i64], prop_oneof![Just(0), 0..9_i64], 1..5_usize);
    let proof = option::of((any::<u128>(), any::<i64>()));
    (vec(step, 0..9), 1..1_000_i64, proof).prop_map(|(steps, above, proof)| {
        let mut gaps: Vec<RangeInclusive<i64>> = Vec::new();
        for (skip, more, times) in steps {
            for _ in 0..times {
                let first = gaps.last().map_or(0, |gap| *gap.end()) + skip;
                gaps.push(first..=first + more);
            }
        }
        let last = gaps.last().map_or(0, |gap| *gap.end()) + above;
        let proof = proof.map(|(history, number)| Proof { history: Uuid::from_u128(history), number });
        ReadPosition { last, gaps, proof }
    })
}

#[test]
fn a_position_is_read_as_it_was_written() {
    feed(&place(), 4_000, |place| {
        prop_assert_eq!(ReadPosition::parse(place.to_position().as_str()).ok(), Some(place));
        Ok(())
    });
}

#[test]
fn any_text_is_a_position_that_agrees_with_itself_or_is_refused() {
    let text = damaged_text(place().prop_map(|place| place.to_position().as_str().to_owned()), WORDS);
    feed(&text, 4_000, |text| {
        let Ok(place) = ReadPosition::parse(&text) else { return Ok(()) };
        prop_assert!(place.gaps.windows(2).all(|pair| *pair[0].end() < pair[1].start() - 1), "{:?}", place.gaps);
        prop_assert!(
            place.gaps.iter().all(|gap| gap.start() <= gap.end() && *gap.end() < place.last),
            "{:?}",
            place.gaps
        );
        for gap in place.gaps.iter().take(9) {
            prop_assert!(!place.contains(*gap.start()) && !place.contains(*gap.end()) && place.contains(gap.end() + 1));
        }
        prop_assert!(place.gaps.len() > 9 || is_read(Some(&place), "id").is_ascii());
        prop_assert_eq!(ReadPosition::parse(place.to_position().as_str()).ok(), Some(place));
        Ok(())
    });
}
