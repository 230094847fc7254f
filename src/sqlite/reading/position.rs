//! How far a reader is: the last id that it read, and on which proof that may be published.

use crate::contract::StoreError;
use crate::outbox::{Position, ProvenPosition};
use crate::sqlite::errors::incompatible;

/// Reads a position back.
pub(crate) fn parse(position: &Position) -> Result<ProvenPosition<i64>, StoreError> {
    position.as_str().parse().map_err(|_invalid| {
        let problem = format!("{:?} is no position in a SQLite outbox", position.as_str());
        incompatible(problem, "save only positions that this store's readers gave")
    })
}

#[cfg(test)]
mod fuzz;
