//! The audit: what Kafka holds against what committed.

use std::collections::{HashMap, HashSet};

use rdkafka::message::Message;

use crate::support::kafka::header;
use crate::support::ledger::{Ledger, is_of_first_history, read_payload};

/// How many complaints of a kind are shown.
const SHOWN: usize = 8;

/// Looks at records in the order of their offsets, and remembers what the comparison needs.
#[derive(Default)]
pub(crate) struct Auditor {
    lanes: HashMap<(String, String), Trail>,
    records: u64,
    duplicates: u64,
    complaints: Vec<String>,
    /// What was committed before the audit began, and may or may not come.
    before: Ledger,
    /// Whether a duplicate may come at any time, and not only as part of a rewind: what a leader that was paused had
    /// handed over already.
    stale_allowed: bool,
    /// What the database forgot when it was taken back to an earlier time, if it was.
    forgotten: Option<Box<Forgotten>>,
}

/// Rows that had committed, and had never been written once the database was taken back to an earlier time. They may
/// have been published, in order, and the audit misses none of them.
struct Forgotten {
    /// What committed before that time: the same rows in both histories.
    shared: Ledger,
    /// What had committed when the database was taken back.
    ledger: Ledger,
    auditor: Auditor,
}

/// What was seen of one lane.
#[derive(Default)]
struct Trail {
    partition: i32,
    previous: u64,
    /// The row id that came with each number, from 1 on; [`MISSING`] where a later number came first, and [`BEFORE`]
    /// for numbers from before the audit began.
    rows: Vec<i64>,
}

const MISSING: i64 = i64::MIN;
const BEFORE: i64 = i64::MIN + 1;

/// What the comparison found.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Records that Kafka holds.
    pub(crate) records: u64,
    /// Records beyond the first of each committed row.
    pub(crate) duplicates: u64,
    /// Committed rows that Kafka does not hold.
    pub(crate) lost: u64,
    /// Records of rows that the database forgot, and those beyond the first of each.
    pub(crate) forgotten: (u64, u64),
    complaints: Vec<String>,
}

impl Auditor {
    /// One that minds the order of first occurrences only.
    pub(crate) fn of_first_occurrences() -> Self {
        Self { stale_allowed: true, ..Self::default() }
    }

    /// Minds only what commits from now on, given what committed until now.
    pub(crate) fn begin_after(&mut self, before: Ledger) {
        *self = Self { before, stale_allowed: self.stale_allowed, ..Self::default() };
    }

    /// Knows that the database was taken back to a time when it held `shared`, and had held `all`.
    pub(crate) fn taken_back(&mut self, shared: Ledger, all: Ledger) {
        let mut auditor = Self::of_first_occurrences();
        auditor.begin_after(shared.clone());
        self.forgotten = Some(Box::new(Forgotten { shared, ledger: all, auditor }));
    }

    /// Whether every committed row of these topics was seen, apart from those given up.
    pub(crate) fn has_all(&self, ledger: &Ledger, topics: &[&str], given_up: &GivenUp) -> bool {
        let mut lanes = ledger.lanes().filter(|(of, _, _)| topics.contains(of));
        lanes.all(|(topic, key, last)| self.missing(topic, key, last).all(|seq| given_up.has(topic, key, seq)))
    }

    /// The numbers of a lane that were not seen.
    fn missing(&self, topic: &str, key: &str, last: u64) -> impl Iterator<Item = u64> {
        let rows = self.lanes.get(&(topic.to_owned(), key.to_owned())).map(|trail| &trail.rows);
        let from = if rows.is_none() { self.before.last(topic, key) } else { 0 };
        let was_seen =
            move |seq: &u64| rows.is_some_and(|rows| rows.get(*seq as usize - 1).is_some_and(|r| *r != MISSING));
        (from + 1..=last).filter(move |seq| !was_seen(seq))
    }

    /// Takes down one record, unless it is sent again as an operator asked.
    pub(crate) fn see(&mut self, record: &impl Message) {
        if header(record, "outbox-replay").is_none() {
            self.see_any(record);
        }
    }

    /// Takes down one record, whether or not it is sent again: for an auditor of one replay.
    pub(crate) fn see_any(&mut self, record: &impl Message) {
        if let Some(forgotten) = self.forgotten.as_mut().filter(|forgotten| forgotten.holds(record)) {
            return forgotten.auditor.see(record);
        }
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
        let rows = vec![BEFORE; self.before.last(record.topic(), key) as usize];
        let first = Trail { partition: record.partition(), previous: rows.len() as u64, rows };
        let trail = self.lanes.entry((record.topic().to_owned(), key.to_owned())).or_insert(first);
        self.duplicates += u64::from(trail.has(seq));
        let strict = !self.stale_allowed;
        trail.follow(record.partition(), seq, row, strict).map_err(|complaint| format!("key {key}: {complaint}"))
    }

    /// What is wrong with the records of a replay, which need not have all that committed.
    pub(crate) fn judge_replay(&self, ledger: &Ledger) -> Vec<String> {
        self.complaints.iter().cloned().chain(self.never_committed(ledger)).collect()
    }

    /// Whether the row of this record, which is sent again, was seen, or may have been sent before the audit began.
    pub(crate) fn knows(&self, record: &impl Message) -> bool {
        let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
        let (Some(key), Some((_, seq))) = (key, record.payload().and_then(read_payload)) else { return false };
        let trail = self.lanes.get(&(record.topic().to_owned(), key.to_owned()));
        seq <= self.before.last(record.topic(), key) || trail.is_some_and(|trail| trail.has(seq))
    }

    /// How many of these were seen.
    pub(crate) fn seen_of(&self, rows: &[(String, String, u64)]) -> usize {
        let was_seen = |(topic, key, seq): &&(String, String, u64)| {
            self.lanes.get(&(topic.clone(), key.clone())).is_some_and(|trail| trail.has(*seq))
        };
        rows.iter().filter(was_seen).count()
    }

    /// Compares with what committed for these topics.
    pub(crate) fn judge(self, ledger: &Ledger, topics: &[&str]) -> Verdict {
        self.judge_without(ledger, topics, &GivenUp::default())
    }

    /// Compares with what committed for these topics, apart from what was given up.
    pub(crate) fn judge_without(self, ledger: &Ledger, topics: &[&str], given_up: &GivenUp) -> Verdict {
        let mut complaints = self.complaints.clone();
        let mut lost = 0;
        for (topic, key, last) in ledger.lanes().filter(|(of, _, _)| topics.contains(of)) {
            let missing: Vec<u64> =
                self.missing(topic, key, last).filter(|seq| !given_up.has(topic, key, *seq)).collect();
            lost += missing.len() as u64;
            if let Some(first) = missing.first() {
                let count = missing.len();
                complaints
                    .push(format!("lost: {count} of key {key} of {topic} from {first} on, committed were {last}"));
            }
        }
        complaints.extend(self.never_committed(ledger));
        let mut forgotten = (0, 0);
        if let Some(Forgotten { ledger, auditor, .. }) = self.forgotten.as_deref() {
            forgotten = (auditor.records, auditor.duplicates);
            let wrong = auditor.complaints.iter().cloned().chain(auditor.never_committed(ledger));
            complaints.extend(wrong.map(|complaint| format!("of what the database forgot: {complaint}")));
        }
        Verdict { records: self.records, duplicates: self.duplicates, lost, forgotten, complaints }
    }

    /// Complaints about lanes that go on after what committed.
    fn never_committed(&self, ledger: &Ledger) -> impl Iterator<Item = String> {
        self.lanes.iter().filter_map(|((topic, key), trail)| {
            let (seen, committed) = (trail.rows.len() as u64, ledger.last(topic, key));
            (seen > committed)
                .then(|| format!("never committed: key {key} of {topic} goes on to {seen} after {committed}"))
        })
    }
}

impl Forgotten {
    /// Whether a record is of a row that the database forgot.
    fn holds(&self, record: &impl Message) -> bool {
        let (Some(payload), Some(key)) = (record.payload(), record.key()) else { return false };
        let (Some((_, seq)), Ok(key)) = (read_payload(payload), std::str::from_utf8(key)) else { return false };
        is_of_first_history(payload) && seq > self.shared.last(record.topic(), key)
    }
}

impl Trail {
    /// A number is either the next one, or one that was there before; if `strict`, from a rewind on the lane goes on
    /// number by number.
    fn follow(&mut self, partition: i32, seq: u64, row: i64, strict: bool) -> Result<(), String> {
        if seq == 0 {
            return Err("number 0, which no writer draws".to_owned());
        }
        if partition != self.partition {
            return Err(format!("number {seq} in partition {partition}, earlier ones in {}", self.partition));
        }
        let (previous, known) = (self.previous, self.rows.len() as u64);
        self.previous = seq;
        if seq > known {
            // Whether those in between are lost, given up, or will come late, shows later.
            self.rows.resize(seq as usize, MISSING);
            self.rows[(seq - 1) as usize] = row;
        } else {
            match std::mem::replace(&mut self.rows[(seq - 1) as usize], row) {
                MISSING => return Err(format!("number {seq} after a later one")),
                first if first != row && first != BEFORE => {
                    return Err(format!("number {seq} from two rows, {first} and {row}: one was rolled back"));
                }
                _ => {}
            }
        }
        if strict && seq > previous + 1 {
            Err(format!("number {seq} right after {previous}, which is no rewind"))
        } else {
            Ok(())
        }
    }
}

impl Trail {
    /// Whether this number was seen.
    fn has(&self, seq: u64) -> bool {
        let row = seq.checked_sub(1).and_then(|at| self.rows.get(at as usize));
        row.is_some_and(|row| *row != MISSING && *row != BEFORE)
    }
}

/// Rows that the relay gave up and put aside: dead letters.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(HashSet<(String, String, u64)>);

impl GivenUp {
    /// Notes a row.
    pub(crate) fn add(&mut self, topic: &str, key: &str, seq: u64) {
        self.0.insert((topic.to_owned(), key.to_owned(), seq));
    }

    /// Whether this row was given up.
    fn has(&self, topic: &str, key: &str, seq: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&(topic.to_owned(), key.to_owned(), seq))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Verdict {
    /// The same with further complaints.
    pub(crate) fn and(mut self, complaints: Vec<String>) -> Self {
        self.complaints.extend(complaints);
        self
    }

    /// What is wrong, if anything is: each complaint a line.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

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
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

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
        let swap = walk(&[(1, 10), (3, 30), (2, 20)]);
        assert!(swap[0].contains("number 3 right after 1") && swap[1].contains("number 2 after a later one"));
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

    #[test]
    fn what_was_given_up_is_not_missed_and_what_came_before_may_be_absent() {
        let mut auditor = Auditor::of_first_occurrences();
        let mut ledger = Ledger::default();
        ledger.committed("t", "a", 2);
        auditor.begin_after(ledger.clone());
        auditor
            .lanes
            .insert(("t".into(), "a".into()), Trail { rows: vec![BEFORE, BEFORE, MISSING, 4], ..Trail::default() });
        ledger.committed("t", "a", 4);
        ledger.committed("t", "b", 1);
        let mut given_up = GivenUp::default();
        assert!(!auditor.has_all(&ledger, &["t"], &given_up));
        given_up.add("t", "a", 3);
        given_up.add("t", "b", 1);
        assert!(auditor.has_all(&ledger, &["t"], &given_up));
        assert_eq!(auditor.judge_without(&ledger, &["t"], &given_up).complaints, Vec::<String>::new());
    }

    /// A record of key `a` in topic `t`, written in the history of this letter.
    fn record(seq: u64, letter: char) -> OwnedMessage {
        let payload = format!("a {seq} {letter}").into_bytes();
        let row = seq.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "outbox-id", value: Some(&row) });
        OwnedMessage::new(Some(payload), Some(b"a".to_vec()), "t".into(), Timestamp::NotAvailable, 0, 0, Some(headers))
    }

    /// What is found in records of a database that held two rows when it was taken back, had held five, and holds three.
    fn found(records: &[(u64, char)]) -> Verdict {
        let [shared, all, ledger] = [2, 5, 3].map(|last| {
            let mut ledger = Ledger::default();
            ledger.committed("t", "a", last);
            ledger
        });
        let mut auditor = Auditor::of_first_occurrences();
        auditor.taken_back(shared, all);
        records.iter().for_each(|(seq, letter)| auditor.see(&record(*seq, *letter)));
        auditor.judge(&ledger, &["t"])
    }

    #[test]
    fn what_a_database_forgot_may_be_there_and_may_not_in_order_and_nothing_beyond_it() {
        let verdict = found(&[(1, 'x'), (2, 'x'), (3, 'x'), (4, 'x'), (1, 'x'), (2, 'x'), (3, 'y')]);
        assert_eq!((verdict.complaints.len(), verdict.lost, verdict.duplicates, verdict.forgotten), (0, 0, 2, (2, 0)));
        let verdict = found(&[(1, 'x'), (2, 'x'), (3, 'x'), (3, 'x')]);
        assert_eq!((verdict.lost, verdict.forgotten), (1, (2, 1)), "a forgotten row makes up for none that is there");
        for wrong in
            [&[(1, 'x'), (2, 'x'), (3, 'y'), (6, 'x')][..], &[(1, 'x'), (2, 'x'), (4, 'x'), (3, 'x'), (3, 'y')]]
        {
            let verdict = found(wrong);
            assert!(verdict.complaints[0].contains("the database forgot"), "{:?}", verdict.complaints);
        }
        assert!(found(&[(1, 'x'), (2, 'x'), (3, 'y'), (4, 'y')]).complaints[0].contains("never committed"));
    }
}
