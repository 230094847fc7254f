//! The pure parts of the hot path, for `cargo bench --bench micro`; nothing that the library promises.

use tokio::time::Instant;

use crate::contract::Outcome;
use crate::outbox::{Held, Position, Record, Settlement};
use crate::relay::flow::{Before, Row, Submitted};
use crate::relay::lanes::HeldLaneStates;
use crate::relay::settler::{SettlementBatch, SettlingMode};

/// The held lanes of a session.
#[derive(Debug)]
pub struct HeldLanes(HeldLaneStates);

impl HeldLanes {
    /// Holds these.
    pub fn of(held: &[Held]) -> Self {
        Self(HeldLaneStates::restore(held))
    }

    /// Takes out what belongs to a held lane.
    pub fn keep_back(&mut self, records: &mut Vec<Record>) {
        self.0.keep_back(1, records, &mut Vec::new());
    }
}

/// What the publisher remembers of a batch, and what became of it: all was delivered.
pub struct Delivered(Vec<Row>, Vec<Outcome>);

impl Delivered {
    /// Of these records.
    pub fn of(records: Vec<Record>) -> Self {
        let outcomes = vec![Outcome::Delivered { partition: 0, offset: 0 }; records.len()];
        Self(records.into_iter().map(Row::from).collect(), outcomes)
    }
}

/// Folds batches into one settlement.
pub fn fold(batches: Vec<Delivered>) -> Settlement {
    let mut together = SettlementBatch::after(Ok(()));
    for (number, Delivered(rows, outcomes)) in (1..).zip(batches) {
        let submitted = Submitted {
            before: Before { batch: number, position: Position::new("start") },
            number,
            read: rows.len(),
            rows,
            receipt: Box::pin(std::future::pending()),
            began: Instant::now(),
            end: Position::new("end"),
            token: None,
            out_of_line: false,
            closed: Vec::new(),
            permits: Vec::new(),
        };
        together.add(submitted, outcomes, SettlingMode::default());
    }
    together.into_settlement()
}
