//! What a topic may say of the progress, which is whatever its writers put there.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

use super::{State, Written, latest, read, write};
use crate::contract::SinkError;
use crate::fuzz::{Bytes, damaged, feed};
use crate::kafka::progress::seeker::{Found, ProgressLocation};
use crate::outbox::{Position, Progress, Settlement, Term};

const TOPIC: &str = "outboxd-progress";

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
    b"-",
    b"0",
    b"1e400",
    b"2147483648",
    b"9223372036854775808",
    b"\\ud800",
    b"\xff",
    b"\"version\":2",
    b"\"partitions\":-1",
    b"\"term\":null",
    b"\"beyond\":[]",
    b"[1,\"00000000-0000-0000-0000-000000000000\"],",
    b"[[[[[[[[",
];

/// What a session remembers, its term, and how many partitions there were.
fn progress_log() -> impl Strategy<Value = (State, Term, i32)> {
    let beyond = vec((any::<i64>(), any::<u128>()), 0..6).prop_map(|rows| {
        let mut beyond = Settlement::default();
        rows.into_iter().for_each(|(id, event_id)| beyond.push_row(id, Uuid::from_u128(event_id)));
        beyond
    });
    let state = (option::of(".{0,20}"), beyond)
        .prop_map(|(position, beyond)| State { position: position.map(Position::new), beyond });
    (state, prop_oneof![0..4i64, any::<i64>()].prop_map(Term), 0..4i32)
}

/// What another session makes of it.
fn progress((State { position, beyond }, term, _): &(State, Term, i32)) -> Progress {
    Progress { position: position.clone(), beyond: beyond.clone(), term: *term }
}

fn payload((state, term, partitions): &(State, Term, i32)) -> Vec<u8> {
    write(state, *term, *partitions)
}

fn place() -> ProgressLocation {
    ProgressLocation { topic: TOPIC.to_owned(), key: "shop".to_owned(), partitions: 4 }
}

fn found(payloads: &[Vec<u8>]) -> Vec<Found> {
    payloads.iter().map(|payload| Found { payload: Some(payload.clone()), timestamp: None }).collect()
}

#[test]
fn the_latest_of_what_was_written_is_read_as_it_was_written() {
    feed(&vec(progress_log(), 0..4), 2_000, |logs| {
        let payloads: Vec<Vec<u8>> = logs.iter().map(payload).collect();
        let last = logs.iter().max_by_key(|(_, term, partitions)| (*term, *partitions));
        prop_assert_eq!(latest(&found(&payloads), &place()).ok(), Some(last.map(progress)));
        Ok(())
    });
}

#[test]
fn any_bytes_are_a_progress_or_refused_with_what_to_do_and_never_taken_for_none() {
    feed(
        &vec(damaged(progress_log().prop_map(|progress_log| payload(&progress_log)), WORDS), 1..3),
        2_000,
        |payloads| {
            let payloads: Vec<Vec<u8>> = payloads.into_iter().map(|Bytes(payload)| payload).collect();
            let all: Result<Vec<Written>, SinkError> = payloads.iter().map(|payload| read(payload, TOPIC)).collect();
            match (latest(&found(&payloads), &place()), all) {
                (Ok(Some(progress)), Ok(all)) => {
                    let state = State { position: progress.position.clone(), beyond: progress.beyond.clone() };
                    let again = read(&write(&state, progress.term, 4), TOPIC).map(Progress::from);
                    prop_assert_eq!(again.ok(), Some(progress.clone()));
                    prop_assert!(all.iter().all(|other| other.term <= progress.term.0));
                }
                (Err(SinkError::Unusable { problem, repair, .. }), Err(_)) => {
                    prop_assert!(problem.contains(TOPIC) && repair.contains("relay.progress_topic"), "{}", problem);
                }
                (latest, all) => return Err(TestCaseError::fail(format!("{latest:?} of {all:?}"))),
            }
            Ok(())
        },
    );
}
