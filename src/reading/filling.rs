//! Filling a batch.

use crate::outbox::Limit;

/// How much of a batch is filled.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    limit: Limit,
    rows: usize,
    bytes: usize,
    is_full: bool,
}

/// Whether there is room for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It belongs to the batch.
    Fits,
    /// It is left for the next one, and so is every row after it.
    Full,
}

impl Filling {
    /// An empty batch.
    pub fn of(limit: Limit) -> Self {
        Self { limit, rows: 0, bytes: 0, is_full: false }
    }

    /// Makes room for a row of so many bytes. The first row has room, whatever its size.
    pub fn take(&mut self, bytes: usize) -> Fit {
        let filled = self.bytes.saturating_add(bytes);
        let has_room = self.rows < self.limit.records && filled <= self.limit.bytes;
        self.is_full |= !has_room && self.rows > 0;
        if self.is_full {
            return Fit::Full;
        }
        self.rows += 1;
        self.bytes = filled;
        Fit::Fits
    }

    /// Whether a row was left for the next batch.
    pub fn is_full(&self) -> bool {
        self.is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(limit: Limit, sizes: &[usize]) -> Vec<bool> {
        let mut filling = Filling::of(limit);
        sizes.iter().map(|size| filling.take(*size) == Fit::Fits).collect()
    }

    #[test]
    fn a_batch_is_full_of_records_or_of_bytes_and_nothing_follows_what_did_not_fit() {
        assert_eq!(fits(Limit { records: 2, bytes: 100 }, &[1, 1, 1]), [true, true, false]);
        assert_eq!(fits(Limit { records: 9, bytes: 100 }, &[60, 60, 1]), [true, false, false]);
        assert_eq!(fits(Limit { records: 9, bytes: 100 }, &[60, 40]), [true, true]);
    }

    #[test]
    fn a_row_that_is_larger_than_any_batch_comes_alone() {
        assert_eq!(fits(Limit { records: 9, bytes: 100 }, &[usize::MAX, 1]), [true, false]);
        assert_eq!(fits(Limit { records: 9, bytes: 100 }, &[1, usize::MAX]), [true, false]);
    }
}
