//! How far a reader is: the number of the last row that it read, and on which proof that may be published.

use crate::contract::StoreError;
use crate::outbox::{Position, Proof, ProvenPosition};

/// What a reader gives out.
pub(super) fn written(number: u64, proof: Proof) -> Position {
    Position::new(ProvenPosition { at: number, proof: Some(proof) }.to_string())
}

/// Reads a position back.
pub(super) fn parse(position: &Position) -> Result<ProvenPosition<u64>, StoreError> {
    position.as_str().parse().map_err(|error| StoreError::Unusable {
        problem: format!("{:?} is no position of the store in memory", position.as_str()),
        repair: "save only positions that this store's readers gave".to_owned(),
        source: Some(Box::new(error)),
    })
}
