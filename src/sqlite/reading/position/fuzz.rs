//! Positions of any text.

use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::parse;
use crate::contract::StoreError;
use crate::fuzz::{damaged_text, feed};
use crate::outbox::{Position, Proof, ProvenPosition};

const WORDS: &[&[u8]] = &[
    b" ",
    b"  ",
    b"\t",
    b"\0",
    b"-",
    b"+",
    b"0",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"{00000000-0000-4000-8000-000000000000}",
    b"urn:uuid:",
    b"\xef\xbc\x91",
];

fn place() -> impl Strategy<Value = ProvenPosition<i64>> {
    let proof = (any::<u128>(), any::<i64>());
    let proof = option::of(proof.prop_map(|(history, number)| Proof { history: Uuid::from_u128(history), number }));
    (any::<i64>(), proof).prop_map(|(at, proof)| ProvenPosition { at, proof })
}

#[test]
fn a_position_is_read_as_it_was_written() {
    feed(&place(), 4_000, |place| {
        prop_assert_eq!(parse(&Position::new(place.to_string())).ok(), Some(place));
        Ok(())
    });
}

#[test]
fn any_text_is_a_position_that_is_read_as_it_is_written_or_one_that_this_store_refuses() {
    feed(&damaged_text(place().prop_map(|place| place.to_string()), WORDS), 4_000, |text| {
        match parse(&Position::new(&*text)) {
            Ok(place) => prop_assert_eq!(parse(&Position::new(place.to_string())).ok(), Some(place)),
            Err(error) => prop_assert!(matches!(error, StoreError::Incompatible { .. }), "{:?}", error),
        }
        Ok(())
    });
}
