//! A settlement: what is written back to the database for a set of records.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use uuid::Uuid;

use crate::outbox::Record;

/// Records that were delivered and are to be recorded as such.
///
/// A row is named by its id *and* its event id: after a database lost acknowledged commits, an id alone may
/// belong to another row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    ids: Vec<i64>,
    event_ids: Vec<Uuid>,
    out_of_line: bool,
    era: Option<u64>,
}

impl Settlement {
    /// A settlement of nothing, with room for `records`.
    pub fn with_capacity(records: usize) -> Self {
        Self { ids: Vec::with_capacity(records), event_ids: Vec::with_capacity(records), ..Self::default() }
    }

    /// A settlement of nothing yet, for rows of lanes that are being released: they come out of line, and no position
    /// tells of them.
    pub fn out_of_line() -> Self {
        Self { out_of_line: true, ..Self::default() }
    }

    /// Says that its rows came out of line.
    pub fn set_out_of_line(&mut self) {
        self.out_of_line = true;
    }

    /// Whether its rows came out of line.
    pub fn is_out_of_line(&self) -> bool {
        self.out_of_line
    }

    /// Says that all its rows were read in this era of the store's.
    pub fn set_era(&mut self, era: Option<u64>) {
        self.era = era;
    }

    /// The era in which all its rows were read, if it is known. While it lasts, no id is given to another row.
    pub fn era(&self) -> Option<u64> {
        self.era
    }

    /// Adds a delivered record.
    pub fn push(&mut self, record: &Record) {
        self.push_row(record.id, record.event_id);
    }

    /// Adds a delivered record by the names of its row.
    pub fn push_row(&mut self, id: i64, event_id: Uuid) {
        self.ids.push(id);
        self.event_ids.push(event_id);
    }

    /// The rows' ids, in the order they were added.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The names of the row that was added last.
    pub fn last(&self) -> Option<(i64, Uuid)> {
        self.ids.last().copied().zip(self.event_ids.last().copied())
    }

    /// The rows' ids as runs without a gap, each from its first id to its last, in the order they were added.
    pub fn runs(&self) -> Vec<RangeInclusive<i64>> {
        let mut runs: Vec<RangeInclusive<i64>> = Vec::new();
        for id in &self.ids {
            match runs.last_mut() {
                Some(run) if run.end().checked_add(1) == Some(*id) => *run = *run.start()..=*id,
                _ => runs.push(*id..=*id),
            }
        }
        runs
    }

    /// The rows' event ids, beside [`ids`](Self::ids).
    pub fn event_ids(&self) -> &[Uuid] {
        &self.event_ids
    }

    /// Both halves of it.
    pub fn halves(&self) -> [Self; 2] {
        let (ids, event_ids) = (self.ids.split_at(self.len() / 2), self.event_ids.split_at(self.len() / 2));
        [(ids.0, event_ids.0), (ids.1, event_ids.1)].map(|(ids, event_ids)| Self {
            ids: ids.to_vec(),
            event_ids: event_ids.to_vec(),
            out_of_line: self.out_of_line,
            era: self.era,
        })
    }

    /// Adds the records of another settlement. Some of them may be of another era.
    pub fn extend(&mut self, other: &Self) {
        self.era = self.era.filter(|_| self.era == other.era);
        self.out_of_line |= other.out_of_line;
        self.ids.extend(&other.ids);
        self.event_ids.extend(&other.event_ids);
    }

    /// How many records it settles.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it settles nothing.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// How a delivered record is recorded in the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Settle {
    /// The row's `sent_at` is set; housekeeping removes it after the retention.
    #[default]
    Mark,
    /// The row is deleted at once.
    Delete,
    /// No row is written: only the checkpoint moves, and housekeeping removes what is below it after the retention.
    Checkpoint,
}

/// A word that is no way to settle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no way to settle: use mark, delete or checkpoint")]
pub struct UnknownSettle {
    word: String,
}

impl Settle {
    /// All ways to settle.
    pub const ALL: [Settle; 3] = [Settle::Mark, Settle::Delete, Settle::Checkpoint];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Settle::Mark => "mark",
            Settle::Delete => "delete",
            Settle::Checkpoint => "checkpoint",
        }
    }
}

impl fmt::Display for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Settle {
    type Err = UnknownSettle;

    fn from_str(word: &str) -> Result<Self, UnknownSettle> {
        let found = Self::ALL.into_iter().find(|settle| settle.as_str() == word);
        found.ok_or_else(|| UnknownSettle { word: word.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_exactly_the_ids() {
        for ids in [vec![], vec![7], vec![1, 2, 3, 5, 6, 9], vec![3, 2, 1], vec![4, 4, 5], vec![i64::MAX, i64::MIN]] {
            let mut settlement = Settlement::default();
            ids.iter().for_each(|id| settlement.push_row(*id, Uuid::nil()));
            let held: Vec<i64> = settlement.runs().into_iter().flatten().collect();
            assert_eq!(held, ids);
        }
        let mut settlement = Settlement::default();
        (1..=5).chain(7..=9).for_each(|id| settlement.push_row(id, Uuid::nil()));
        assert_eq!(settlement.runs(), [1..=5, 7..=9]);
    }

    #[test]
    fn halves_hold_every_record_once_and_keep_their_kind() {
        let mut settlement = Settlement::out_of_line();
        (1..=5).for_each(|id| settlement.push_row(id, Uuid::from_u128(id as u128)));
        settlement.set_era(Some(7));
        let [mut first, second] = settlement.halves();
        assert_eq!((first.len(), second.len()), (2, 3));
        first.extend(&second);
        assert_eq!(first, settlement);
    }
}
