//! The ledger: what the writers committed, lane by lane.
//!
//! Each row's payload says `key seq padding`, where `seq` counts the key's rows and is drawn under the lock of
//! the key's aggregate, in the transaction that writes the row. So what committed for a key is 1, 2, 3 … up to
//! the aggregate's counter, in the order of the commits; whatever was rolled back left no gap.

use std::collections::HashMap;

use crate::support::workload::key_name;

/// The letter of which the padding of payloads is made, until a database is taken back to an earlier time.
pub(crate) const FIRST: char = 'x';

/// What committed: for each (topic, key) how many rows, numbered from 1.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    lanes: HashMap<(String, String), u64>,
}

impl Ledger {
    /// Says that this lane's rows are 1 to `last`.
    pub(crate) fn committed(&mut self, topic: &str, key: &str, last: u64) {
        if last > 0 {
            self.lanes.insert((topic.to_owned(), key.to_owned()), last);
        }
    }

    /// Says that a topic got so many rows, spread evenly over keys named as the writers name them.
    pub(crate) fn committed_evenly(&mut self, topic: &str, keys: i64, rows: i64) {
        for key in 0..keys {
            self.committed(topic, &key_name(key as u64), (rows / keys) as u64);
        }
    }

    /// Adds what another ledger says of other lanes.
    pub(crate) fn merge(&mut self, other: Ledger) {
        self.lanes.extend(other.lanes);
    }

    /// The number of the lane's last row; 0 where nothing of it committed.
    pub(crate) fn last(&self, topic: &str, key: &str) -> u64 {
        self.lanes.get(&(topic.to_owned(), key.to_owned())).copied().unwrap_or(0)
    }

    /// All lanes with the number of their last row.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.lanes.iter().map(|((topic, key), last)| (topic.as_str(), key.as_str(), *last))
    }

    /// How many rows committed for a topic.
    pub(crate) fn rows_of(&self, topic: &str) -> u64 {
        self.lanes().filter(|(of, _, _)| *of == topic).map(|(_, _, last)| last).sum()
    }
}

/// The key and number that a payload says.
pub(crate) fn read_payload(payload: &[u8]) -> Option<(&str, u64)> {
    let mut words = std::str::from_utf8(payload).ok()?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

/// Whether a payload was written in the history that a database had before it was taken back.
pub(crate) fn is_of_first_history(payload: &[u8]) -> bool {
    payload.last() == Some(&(FIRST as u8))
}
