//! The audit: what Kafka holds against what committed.

use std::collections::HashMap;

use rdkafka::message::Message;

use crate::support::kafka::header;
use crate::support::ledger::{Ledger, read_payload};

/// How many complaints of a kind are shown.
const SHOWN: usize = 8;

/// Looks at records in the order of their offsets, and remembers what the comparison needs.
#[derive(Default)]
pub(crate) struct Auditor {
    lanes: HashMap<(String, String), Trail>,
    records: u64,
    complaints: Vec<String>,
    /// Whether a duplicate may come at any time, and not only as part of a rewind: what a leader that was paused had
    /// handed over already.
    stale_allowed: bool,
}

/// What was seen of one lane.
#[derive(Default)]
struct Trail {
    partition: i32,
    previous: u64,
    /// The row id that came with each number, from 1 on.
    rows: Vec<i64>,
}

/// What the comparison found.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Records that Kafka holds.
    pub(crate) records: u64,
    /// Records beyond the first of each committed row.
    pub(crate) duplicates: u64,
    /// Committed rows that Kafka does not hold.
    pub(crate) lost: u64,
    complaints: Vec<String>,
}

impl Auditor {
    /// One that minds the order of first occurrences only.
    pub(crate) fn of_first_occurrences() -> Self {
        Self { stale_allowed: true, ..Self::default() }
    }

    /// Takes down one record.
    pub(crate) fn see(&mut self, record: &impl Message) {
        self.records += 1;
        if let Err(complaint) = self.follow(record) {
            let at = format!("{}/{}@{}", record.topic(), record.partition(), record.offset());
            self.complaints.push(format!("{complaint} at {at}"));
        }
    }

    fn follow(&mut self, record: &impl Message) -> Result<(), String> {
        let key = record.key().and_then(|key| std::str::from_utf8(key).ok()).ok_or("a record without a key")?;
        let said = record.payload().and_then(read_payload).ok_or("a payload that no writer wrote")?;
        let row: i64 = header(record, "outbox-id").and_then(|id| id.parse().ok()).ok_or("no header outbox-id")?;
        let (said_key, seq) = said;
        if said_key != key {
            return Err(format!("the payload of key {said_key} under key {key}"));
        }
        let first = Trail { partition: record.partition(), ..Trail::default() };
        let trail = self.lanes.entry((record.topic().to_owned(), key.to_owned())).or_insert(first);
        let strict = !self.stale_allowed;
        trail.follow(record.partition(), seq, row, strict).map_err(|complaint| format!("key {key}: {complaint}"))
    }

    /// Compares with what committed for these topics.
    pub(crate) fn judge(self, ledger: &Ledger, topics: &[&str]) -> Verdict {
        let mut complaints = self.complaints;
        let mut lost = 0;
        let mut distinct = 0;
        for (topic, key, last) in ledger.lanes().filter(|(of, _, _)| topics.contains(of)) {
            let lane = self.lanes.get(&(topic.to_owned(), key.to_owned()));
            let seen = lane.map_or(0, |trail| trail.rows.len() as u64);
            distinct += seen.min(last);
            if seen < last {
                lost += last - seen;
                complaints.push(format!("lost: key {key} of {topic} ends at {seen}, committed were {last}"));
            }
        }
        for ((topic, key), trail) in &self.lanes {
            let committed = ledger.last(topic, key);
            if trail.rows.len() as u64 > committed {
                let seen = trail.rows.len();
                complaints.push(format!("never committed: key {key} of {topic} goes on to {seen} after {committed}"));
            }
        }
        Verdict { records: self.records, duplicates: self.records.saturating_sub(distinct), lost, complaints }
    }
}

impl Trail {
    /// A number is either the next one, or one that was there before; if `strict`, from a rewind on the lane goes on
    /// number by number.
    fn follow(&mut self, partition: i32, seq: u64, row: i64, strict: bool) -> Result<(), String> {
        if partition != self.partition {
            return Err(format!("number {seq} in partition {partition}, earlier ones in {}", self.partition));
        }
        let (previous, known) = (self.previous, self.rows.len() as u64);
        self.previous = seq;
        if seq == known + 1 {
            self.rows.push(row);
        } else if seq == 0 || seq > known {
            return Err(format!("number {seq} before {}", known + 1));
        } else if self.rows[(seq - 1) as usize] != row {
            let first = self.rows[(seq - 1) as usize];
            return Err(format!("number {seq} from two rows, {first} and {row}: one was rolled back"));
        }
        if strict && seq > previous + 1 {
            Err(format!("number {seq} right after {previous}, which is no rewind"))
        } else {
            Ok(())
        }
    }
}

impl Verdict {
    /// Nothing lost, nothing that never committed, each lane in commit order, duplicates only as rewinds.
    #[track_caller]
    pub(crate) fn assert_complete_and_ordered(&self) {
        let shown: Vec<_> = self.complaints.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect();
        let (count, records) = (self.complaints.len(), self.records);
        assert!(self.complaints.is_empty(), "{count} complaints about {records} records:{}", shown.concat());
    }

    /// The same, and not one record twice.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        self.assert_complete_and_ordered();
        assert_eq!(self.duplicates, 0, "records published twice, of {}", self.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(steps: &[(u64, i64)]) -> Vec<String> {
        let mut trail = Trail::default();
        steps.iter().filter_map(|(seq, row)| trail.follow(0, *seq, *row, true).err()).collect()
    }

    #[test]
    fn a_rewind_is_accepted() {
        assert_eq!(walk(&[(1, 10), (2, 20), (3, 30), (2, 20), (3, 30), (4, 40)]), Vec::<String>::new());
    }

    #[test]
    fn a_swap_a_gap_a_stray_and_a_rolled_back_row_are_found() {
        assert!(walk(&[(1, 10), (3, 30), (2, 20)])[0].contains("number 3 before 2"));
        assert!(walk(&[(1, 10), (2, 20), (3, 30), (1, 10), (3, 30)])[0].contains("which is no rewind"));
        assert!(walk(&[(1, 10), (1, 11)])[0].contains("one was rolled back"));
    }

    #[test]
    fn what_is_missing_and_what_never_committed_is_found() {
        let mut auditor = Auditor::default();
        auditor.lanes.insert(("t".into(), "a".into()), Trail { rows: vec![1, 2, 3], ..Trail::default() });
        auditor.records = 3;
        let mut ledger = Ledger::default();
        ledger.committed("t", "a", 2);
        ledger.committed("t", "b", 4);
        let verdict = auditor.judge(&ledger, &["t"]);
        assert_eq!((verdict.lost, verdict.complaints.len()), (4, 2));
    }
}
