//! Snapshots and positions of any text, and the laws of those that can be read.

use proptest::collection::btree_set;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Frozen, ReadPosition, Snapshot};
use crate::fuzz::{damaged_text, feed};
use crate::outbox::Proof;

const WORDS: &[&[u8]] = &[
    b":",
    b",",
    b"::",
    b"0",
    b"1",
    b"-1",
    b"+1",
    b"01",
    b"18446744073709551615",
    b"18446744073709551616",
    b" ",
    b"\0",
    b"9223372036854775807",
    b"{",
    b"}",
    b"\"",
    b"null",
    b"[[[[",
    b"1e400",
    b"\"frozen\":",
    b"\"prev\":",
    b"\"1:1:\"",
];

/// A number that is small, so that others are equal or near, or any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..9u64, 1 => any::<u64>(), 1 => u64::MAX - 3..=u64::MAX]
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let inside = |(xmin, xmax): (u64, u64)| {
        let most = usize::try_from(xmax - xmin).unwrap_or(usize::MAX).min(5);
        let open = if most > 0 { btree_set(xmin..xmax, 0..=most).boxed() } else { Just([].into()).boxed() };
        open.prop_map(move |open| Snapshot { xmin, xmax, open: open.into_iter().collect() })
    };
    let ends = (number(), number()).prop_map(|(one, other)| (one.min(other).max(1), one.max(other).max(1)));
    prop_oneof![20 => ends.prop_flat_map(inside), 1 => Just(Snapshot::nothing())]
}

fn at() -> impl Strategy<Value = ReadPosition> {
    let frozen = option::of((snapshot(), any::<i64>()).prop_map(|(cur, last)| Frozen { cur, last }));
    let proof = (any::<u128>(), any::<i64>());
    let proof = option::of(proof.prop_map(|(history, number)| Proof { history: Uuid::from_u128(history), number }));
    (snapshot(), frozen, any::<i64>(), ".{0,3}", proof)
        .prop_map(|(prev, frozen, highest, system, proof)| ReadPosition { prev, frozen, highest, system, proof })
}

/// What the statements that read ask of a visible row.
fn shows(snapshot: &Snapshot, xid: u64) -> bool {
    !(xid >= snapshot.xmax || snapshot.open.contains(&xid))
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    feed(&snapshot(), 2_000, |snapshot| {
        let text = snapshot.to_string();
        prop_assert_eq!(text.parse::<Snapshot>().ok(), Some(snapshot));
        Ok(())
    });
}

#[test]
fn any_text_is_a_snapshot_that_keeps_the_laws_of_one_or_none() {
    feed(&damaged_text(snapshot().prop_map(|snapshot| snapshot.to_string()), WORDS), 4_000, |text| {
        let Ok(snapshot) = text.parse::<Snapshot>() else { return Ok(()) };
        let Snapshot { xmin, xmax, open } = &snapshot;
        prop_assert!(xmin <= xmax && (*xmin > 0 || *xmax == 0), "{}", text);
        prop_assert!(open.is_sorted_by(|one, next| one < next), "{}", text);
        prop_assert!(open.iter().all(|xid| !shows(&snapshot, *xid)) && !shows(&snapshot, *xmax));
        prop_assert!(*xmin == 0 || shows(&snapshot, xmin - 1));
        prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().ok(), Some(snapshot.clone()));
        let shown: Snapshot = snapshot.shown().parse().expect("PostgreSQL reads it");
        prop_assert!(shown.xmax > 0 && shown == snapshot || snapshot.is_nothing(), "{}", text);
        Ok(())
    });
}

#[test]
fn a_position_is_read_as_it_was_written_and_none_is_after_itself_or_both_before_and_after() {
    feed(&(at(), at()), 2_000, |(one, other)| {
        prop_assert_eq!(ReadPosition::from_position(one.to_position().as_str()).ok(), Some(one.clone()));
        prop_assert!(!one.is_after(&one) && one.is_level_with(&one));
        prop_assert!(!(one.is_after(&other) && other.is_after(&one)));
        prop_assert!(!(one.is_level_with(&other) && one.is_after(&other)));
        Ok(())
    });
}

#[test]
fn any_text_is_a_position_that_is_read_as_it_is_written_or_none() {
    feed(&damaged_text(at().prop_map(|at| at.to_position().as_str().to_owned()), WORDS), 2_000, |text| {
        if let Ok(at) = ReadPosition::from_position(&text) {
            prop_assert_eq!(ReadPosition::from_position(at.to_position().as_str()).ok(), Some(at));
        }
        Ok(())
    });
}
