//! Whatever becomes of submissions, and however they are settled together: exactly what was delivered is settled, and the position
//! stands before the first record with which another session has to begin.

use chrono::Utc;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Before, SettlementBatch, SettlingMode, Submitted};
use crate::contract::{Outcome, Rejection};
use crate::outbox::{HoldCause, Position, Record, RecordMetadata};

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Held,
    Rejected,
    Unknown,
}

impl Fate {
    fn outcome(self, offset: i64) -> Outcome {
        match self {
            Fate::Delivered => Outcome::Delivered { partition: 3, offset },
            Fate::Held => Outcome::Held(HoldCause::MissingTopic),
            Fate::Rejected => Outcome::Rejected(Box::new(Rejection { code: "test", message: "too bad".to_owned() })),
            Fate::Unknown => Outcome::Unknown,
        }
    }

    /// Whether the next session has to begin before it.
    fn stops(self, exactly_once: bool) -> bool {
        matches!(self, Fate::Rejected | Fate::Unknown) || exactly_once && self == Fate::Held
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![20 => Just(Fate::Delivered), 2 => Just(Fate::Held), 1 => Just(Fate::Rejected), 1 => Just(Fate::Unknown)]
}

/// A batch, what becomes of its records, and whether it is settled together with the one before it.
fn batch() -> impl Strategy<Value = (Vec<Fate>, bool)> {
    (vec(fate(), 0..6), any::<bool>())
}

fn row(id: i64) -> Record {
    Record {
        id,
        event_id: Uuid::from_u128(id as u128),
        topic: "orders".into(),
        key: Some("k".to_owned()),
        payload: None,
        headers: Vec::new(),
        partition: None,
        created_at: Utc::now(),
    }
}

proptest! {
    #[test]
    fn what_was_delivered_is_settled_and_the_position_passes_nothing_else(
        batches in vec(batch(), 1..12),
        exactly_once in any::<bool>(),
        record_position in any::<bool>(),
    ) {
        let mut ids = 1..;
        let mut settled_together = vec![SettlementBatch::after(Ok(()))];
        let mut held = Vec::new();
        for (number, (fates, together)) in (1..).zip(&batches) {
            if !together {
                let last = settled_together.last_mut().expect("begun with one");
                let session_end = std::mem::replace(&mut last.session_end, Ok(()));
                settled_together.push(SettlementBatch::after(session_end));
            }
            let submitted = Submitted {
                before: Before { batch: number, position: Position::new((number - 1).to_string()) },
                number,
                rows: ids.by_ref().take(fates.len()).map(|id| row(id).into()).collect(),
                read: fates.len(),
                receipt: Box::pin(std::future::pending()),
                began: Instant::now(),
                end: Position::new(number.to_string()),
                token: None,
                out_of_line: false,
                closed: Vec::new(),
                permits: Vec::new(),
            };
            let outcomes = submitted.rows.iter().zip(fates).map(|(row, fate)| fate.outcome(10 * row.id)).collect();
            let batch = settled_together.last_mut().expect("begun with one");
            held.extend(batch.add(submitted, outcomes, SettlingMode { exactly_once, record_position }).iter().map(|(row, _)| row.id));
        }

        let all: Vec<Fate> = batches.iter().flat_map(|(fates, _)| fates.clone()).collect();
        let of = |fate: Fate| -> Vec<i64> {
            (1..).zip(&all).filter(|(_, found)| **found == fate).map(|(id, _)| id).collect()
        };
        let settled: Vec<i64> = settled_together.iter().flat_map(|batch| batch.settlement.ids().to_vec()).collect();
        let rejected: Vec<i64> = settled_together.iter().flat_map(|batch| &batch.rejected).map(|row| row.id).collect();
        prop_assert_eq!(settled, of(Fate::Delivered));
        for settlement in settled_together.iter().map(|batch| &batch.settlement).filter(|settled| !settled.is_empty()) {
            let at = |id: &i64| Some(RecordMetadata { partition: 3, offset: 10 * id });
            let expected: Vec<Option<RecordMetadata>> = settlement.ids().iter().map(at).collect();
            prop_assert_eq!(settlement.metadata(), record_position.then_some(&*expected));
        }
        prop_assert_eq!(rejected, of(Fate::Rejected));
        prop_assert_eq!(held, of(Fate::Held));
        prop_assert_eq!(settled_together.iter().map(|batch| batch.read).sum::<usize>(), all.len());
        let stop = batches.iter().position(|(fates, _)| fates.iter().any(|fate| fate.stops(exactly_once)));
        let last = settled_together.iter().filter_map(|batch| batch.end.as_ref()).map(|end| end.number).max();
        prop_assert_eq!(last.unwrap_or(0), stop.unwrap_or(batches.len()) as u64);
        prop_assert_eq!(settled_together.last().expect("begun with one").session_end.is_ok(), stop.is_none());
    }
}
