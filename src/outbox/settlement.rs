//! A settlement: what is written back to the database for a set of records.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::outbox::record::Record;
use crate::outbox::word::words;

/// Records that were delivered and are to be recorded as such.
///
/// A row is named by its id *and* its event id: after a database lost acknowledged commits, an id alone may
/// belong to another row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settlement {
    ids: Vec<i64>,
    event_ids: Vec<Uuid>,
    /// Empty where none is known, and otherwise beside `ids`.
    metadata: Vec<Option<RecordMetadata>>,
    out_of_line: bool,
    token: Option<ReadToken>,
}

/// Where a record is in Kafka, in the topic that its row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

/// What a store hands out with a [batch](crate::outbox::Batch), and gets back, unread, with the settlement of its rows: it
/// can carry out faster what it knows to be of one read. Only the store that made it can tell what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadToken(u64);

impl ReadToken {
    /// A token that means something to the store that makes it.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// What the store made it of.
    pub fn number(self) -> u64 {
        self.0
    }
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

    /// Adds the token of rows that were, or will be, added. Tokens that differ leave none. Call it before adding the first
    /// row, and then for each batch.
    pub fn add_token(&mut self, token: Option<ReadToken>) {
        self.token = if self.is_empty() { token } else { self.token.filter(|_| self.token == token) };
    }

    /// The token with which all its rows were read, if it was the same.
    pub fn token(&self) -> Option<ReadToken> {
        self.token
    }

    /// Adds a delivered record.
    pub fn push(&mut self, record: &Record) {
        self.push_row(record.id, record.event_id);
    }

    /// Adds a delivered record by the names of its row.
    pub fn push_row(&mut self, id: i64, event_id: Uuid) {
        self.ids.push(id);
        self.event_ids.push(event_id);
        if !self.metadata.is_empty() {
            self.metadata.push(None);
        }
    }

    /// Adds a delivered record by the names of its row, and where it is, to be recorded with it.
    pub fn push_with_metadata(&mut self, id: i64, event_id: Uuid, metadata: RecordMetadata) {
        self.metadata.resize(self.ids.len(), None);
        self.ids.push(id);
        self.event_ids.push(event_id);
        self.metadata.push(Some(metadata));
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

    /// Where the records are, beside [`ids`](Self::ids); `None` where that is known of none of them.
    pub fn metadata(&self) -> Option<&[Option<RecordMetadata>]> {
        (!self.metadata.is_empty()).then_some(&self.metadata)
    }

    /// Both halves of it.
    pub fn halves(&self) -> [Self; 2] {
        let half = |of: std::ops::Range<usize>| Self {
            ids: self.ids[of.clone()].to_vec(),
            event_ids: self.event_ids[of.clone()].to_vec(),
            metadata: self.metadata.get(of).unwrap_or_default().to_vec(),
            out_of_line: self.out_of_line,
            token: self.token,
        };
        let middle = self.len() / 2;
        [half(0..middle), half(middle..self.len())]
    }

    /// Adds the records of another settlement, and its token as [`add_token`](Self::add_token) does.
    pub fn extend(&mut self, other: &Self) {
        self.add_token(other.token);
        self.out_of_line |= other.out_of_line;
        if !self.metadata.is_empty() || !other.metadata.is_empty() {
            self.metadata.resize(self.ids.len(), None);
            self.metadata.extend(&other.metadata);
            self.metadata.resize(self.ids.len() + other.ids.len(), None);
        }
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

words! {
    /// How a delivered record is recorded in the database.
    #[derive(Default)]
    pub enum Settle else "no way to settle" {
        /// The row's `sent_at` is set; housekeeping removes it after the retention.
        #[default]
        Mark = "mark",
        /// The row is deleted at once.
        Delete = "delete",
        /// No row is written: only the checkpoint moves, and housekeeping removes what is below it after the retention.
        Checkpoint = "checkpoint",
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
        settlement.add_token(Some(ReadToken::new(7)));
        (1..=5).for_each(|id| settlement.push_row(id, Uuid::from_u128(id as u128)));
        let [mut first, second] = settlement.halves();
        assert_eq!((first.len(), second.len()), (2, 3));
        first.extend(&second);
        assert_eq!(first, settlement);
    }

    #[test]
    fn where_a_record_is_stays_with_its_row() {
        let at = |offset| RecordMetadata { partition: 3, offset };
        let mut settlement = Settlement::default();
        assert_eq!(settlement.metadata(), None);
        settlement.push_row(1, Uuid::nil());
        assert_eq!(settlement.metadata(), None, "nothing is known of any");
        settlement.push_with_metadata(2, Uuid::nil(), at(20));
        settlement.push_row(3, Uuid::nil());
        assert_eq!(settlement.metadata(), Some(&[None, Some(at(20)), None][..]));

        let [first, second] = settlement.halves();
        assert_eq!(first.metadata(), Some(&[None][..]));
        assert_eq!(second.metadata(), Some(&[Some(at(20)), None][..]));
        let mut unknown = Settlement::default();
        unknown.push_row(7, Uuid::nil());
        let mut together = unknown.clone();
        together.extend(&second);
        together.extend(&unknown);
        assert_eq!(together.ids(), [7, 2, 3, 7]);
        assert_eq!(together.metadata(), Some(&[None, Some(at(20)), None, None][..]));
    }

    #[test]
    fn rows_of_different_reads_have_no_token() {
        let [seven, eight] = [7, 8].map(|number| Some(ReadToken::new(number)));
        let mut settlement = Settlement::default();
        settlement.add_token(eight);
        settlement.add_token(seven);
        assert_eq!(settlement.token(), seven, "nothing was added of the read before");
        settlement.push_row(1, Uuid::nil());
        settlement.add_token(seven);
        assert_eq!(settlement.token(), seven);
        settlement.add_token(eight);
        assert_eq!(settlement.token(), None);
        settlement.add_token(eight);
        assert_eq!(settlement.token(), None, "what was added first was of another read");
    }
}
