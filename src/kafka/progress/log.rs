//! What an exactly-once sink remembers at the broker: how far it is, in one record of a compacted topic, written in
//! the same transactions as the records it tells of.
//!
//! A key's partition changes when partitions are added. A session keeps to the partition in which it began, and a record
//! says how many there were by then: that of a later session is found by that, wherever an earlier one is left.

use std::collections::VecDeque;

use rdkafka::producer::BaseRecord;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::contract::SinkError;
use crate::kafka::errors::{unavailable, unusable};
use crate::kafka::progress::seeker::{Found, ProgressLocation, Seeker};
use crate::outbox::{Position, Progress, Record, Settlement, Term};

/// Rows that are named one by one at most: what fits into a topic's usual `max.message.bytes`.
const NAMED_ROWS: usize = 16_000;

/// The version of what is written.
const PROGRESS_VERSION: u32 = 1;

/// What is remembered, and what is about to be.
#[derive(Debug)]
pub(crate) struct ProgressLog {
    place: ProgressLocation,
    term: Term,
    committed: State,
    /// What the transactions that are under way make of it, in their order.
    pending: VecDeque<State>,
    /// Whether a record is outstanding, so that the position stands still.
    is_stuck: bool,
    found: Option<Progress>,
}

/// What a transaction makes of it.
pub(crate) struct Step {
    next: State,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct State {
    position: Option<Position>,
    beyond: Settlement,
}

/// The record as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    version: u32,
    term: i64,
    /// How many partitions the topic had when the session began that wrote this; 0: it did not say.
    #[serde(default)]
    partitions: i32,
    position: Option<String>,
    beyond: Vec<(i64, Uuid)>,
}

impl ProgressLog {
    /// Reads what is remembered of the outbox. The producer must be initialised: what earlier ones left open is settled
    /// then.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub(crate) async fn recall(seeker: Seeker, term: Term) -> Result<Self, SinkError> {
        let place = seeker.place().clone();
        let written = seeker.seek({
            let place = place.clone();
            move |found| is_latest(found, &place)
        });
        let found = latest(&written.await?, &place)?;
        let committed = found.as_ref().map_or_else(State::default, |found| State {
            position: found.position.clone(),
            beyond: found.beyond.clone(),
        });
        Ok(Self { place, term, committed, pending: VecDeque::new(), is_stuck: false, found })
    }

    /// What was found when it was read.
    pub(crate) fn found(&self) -> Option<&Progress> {
        self.found.as_ref()
    }

    /// Begins anew with what is committed: the relay knows of every record that is outstanding.
    pub(crate) fn begin_anew(&mut self, term: Term) {
        self.term = term;
        self.is_stuck = false;
        let State { position, beyond } = self.committed.clone();
        let is_any = position.is_some() || !beyond.is_empty();
        self.found = is_any.then_some(Progress { position, beyond, term });
    }

    /// Forgets the rows that were named one by one: the database knows of them by now.
    pub(crate) fn forget_rows(&mut self) {
        self.committed.beyond = Settlement::default();
    }

    /// Notes that so many of the transactions under way were committed.
    pub(crate) fn commit(&mut self, transactions: usize) {
        if let Some(last) = self.pending.drain(..transactions).next_back() {
            self.committed = last;
        }
    }

    /// Notes that the transactions under way were undone.
    pub(crate) fn undo(&mut self) {
        self.pending.clear();
    }

    /// Notes that a record is outstanding: the position stands still until all begins anew.
    pub(crate) fn stick(&mut self) {
        self.is_stuck = true;
    }

    /// What is published once these records are, and `after`, where that is everything up to it.
    ///
    /// # Errors
    /// When that names too many rows: the relay must settle them and begin anew.
    pub(crate) fn after<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
        after: Option<&Position>,
    ) -> Result<Step, SinkError> {
        let next = match after.filter(|_| !self.is_stuck) {
            Some(position) => State { position: Some(position.clone()), beyond: Settlement::default() },
            None => {
                let mut next = self.pending.back().unwrap_or(&self.committed).clone();
                records.for_each(|record| next.beyond.push(record));
                next
            }
        };
        if next.beyond.len() > NAMED_ROWS {
            let said = format!("{} rows are published out of line; they are to be settled first", next.beyond.len());
            return Err(unavailable("remembering what is published", said));
        }
        Ok(Step { payload: write(&next, self.term, self.place.partitions), next })
    }

    /// Notes that a transaction is under way that takes this step; returns the payload for [`encode`](Self::encode).
    pub(crate) fn take(&mut self, step: Step) -> Vec<u8> {
        self.pending.push_back(step.next);
        step.payload
    }

    /// The record with this payload, in the client's terms.
    pub(crate) fn encode<'a>(&'a self, payload: &'a [u8], ticket: usize) -> BaseRecord<'a, str, [u8], usize> {
        BaseRecord {
            topic: &self.place.topic,
            partition: Some(self.place.partition()),
            payload: Some(payload),
            key: Some(&self.place.key),
            timestamp: None,
            headers: None,
            delivery_opaque: ticket,
        }
    }
}

fn write(state: &State, term: Term, partitions: i32) -> Vec<u8> {
    let rows = state.beyond.ids().iter().copied().zip(state.beyond.event_ids().iter().copied());
    let position = state.position.as_ref().map(|position| position.as_str().to_owned());
    let written = Written { version: PROGRESS_VERSION, term: term.0, partitions, position, beyond: rows.collect() };
    serde_json::to_vec(&written).expect("numbers and text can be written as JSON")
}

/// Whether no later record than this one can be elsewhere: its writer knew of as many partitions as there are now, or an
/// operator has removed it.
fn is_latest(found: &Found, place: &ProgressLocation) -> bool {
    let is_recent = |payload| read(payload, &place.topic).is_ok_and(|written| written.partitions >= place.partitions);
    found.payload.as_deref().is_none_or(is_recent)
}

/// The latest of what was found in several partitions. Terms grow, and in one term each session begins with all
/// partitions that there are; what says nothing of them is as old as the broker says.
fn latest(found: &[Found], place: &ProgressLocation) -> Result<Option<Progress>, SinkError> {
    let written = found.iter().filter_map(|found| {
        let payload = found.payload.as_deref()?;
        Some(read(payload, &place.topic).map(|written| (written, found.timestamp)))
    });
    let written = written.collect::<Result<Vec<_>, SinkError>>()?;
    let latest = written.into_iter().max_by_key(|(written, timestamp)| (written.term, written.partitions, *timestamp));
    Ok(latest.map(|(written, _)| Progress::from(written)))
}

impl From<Written> for Progress {
    fn from(written: Written) -> Self {
        let mut beyond = Settlement::with_capacity(written.beyond.len());
        written.beyond.into_iter().for_each(|(id, event_id)| beyond.push_row(id, event_id));
        Progress { position: written.position.map(Position::new), beyond, term: Term(written.term) }
    }
}

fn read(payload: &[u8], topic: &str) -> Result<Written, SinkError> {
    let problem = match serde_json::from_slice::<Written>(payload) {
        Ok(written) if written.version == PROGRESS_VERSION => return Ok(written),
        Ok(written) => format!("version {} of it", written.version),
        Err(error) => error.to_string(),
    };
    Err(unusable(
        format!("what topic {topic} says of this outbox's progress cannot be read: {problem}"),
        "run the version of outboxd that wrote it, or name another relay.progress_topic",
    ))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn progress_log() -> ProgressLog {
        let committed = State { position: Some(Position::new("5:9")), beyond: Settlement::default() };
        let pending = VecDeque::new();
        ProgressLog { place: place(), term: Term(3), committed, pending, is_stuck: false, found: None }
    }

    fn place() -> ProgressLocation {
        ProgressLocation { topic: "p".to_owned(), key: "shop".to_owned(), partitions: 4 }
    }

    /// Begins a transaction.
    fn begin(progress_log: &mut ProgressLog, ids: std::ops::Range<i64>, position: Option<&str>) -> Progress {
        let records: Vec<Record> = ids.map(record).collect();
        let step = progress_log.after(records.iter(), position.map(Position::new).as_ref()).expect("few rows");
        read(&progress_log.take(step), "progress").expect("what was written can be read").into()
    }

    fn record(id: i64) -> Record {
        Record {
            id,
            event_id: Uuid::from_u128(id.unsigned_abs().into()),
            topic: "t".into(),
            key: None,
            payload: None,
            headers: Vec::new(),
            partition: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
        }
    }

    fn after(progress_log: &mut ProgressLog, ids: std::ops::Range<i64>, position: Option<&str>) -> Progress {
        let progress = begin(progress_log, ids, position);
        progress_log.commit(1);
        progress
    }

    #[test]
    fn a_whole_submission_moves_the_position_and_forgets_the_rows_before_it() {
        let mut progress_log = progress_log();
        assert_eq!(after(&mut progress_log, 1..3, None).beyond.ids(), [1, 2]);
        let progress = after(&mut progress_log, 3..5, None);
        assert_eq!((progress.position, progress.term), (Some(Position::new("5:9")), Term(3)));
        assert_eq!(progress.beyond.ids(), [1, 2, 3, 4]);
        assert_eq!(progress.beyond.event_ids()[3], Uuid::from_u128(4));
        let progress = after(&mut progress_log, 5..7, Some("9:9"));
        assert_eq!((progress.position, progress.beyond.len()), (Some(Position::new("9:9")), 0));
    }

    #[test]
    fn an_outstanding_record_keeps_the_position_until_all_begins_anew() {
        let mut progress_log = progress_log();
        progress_log.stick();
        let progress = after(&mut progress_log, 1..3, Some("9:9"));
        assert_eq!((progress.position, progress.beyond.ids()), (Some(Position::new("5:9")), &[1, 2][..]));
        progress_log.begin_anew(Term(4));
        assert_eq!(progress_log.found().map(|found| found.beyond.len()), Some(2));
        assert_eq!(after(&mut progress_log, 3..4, Some("9:9")).position, Some(Position::new("9:9")));
    }

    #[test]
    fn a_transaction_that_was_not_committed_is_not_remembered() {
        let mut progress_log = progress_log();
        begin(&mut progress_log, 1..2, None);
        assert_eq!(begin(&mut progress_log, 2..3, None).beyond.ids(), [1, 2]);
        progress_log.commit(1);
        progress_log.undo();
        assert_eq!(after(&mut progress_log, 3..4, None).beyond.ids(), [1, 3]);
    }

    #[test]
    fn rows_are_named_one_by_one_only_up_to_what_a_record_holds() {
        let progress_log = progress_log();
        let most: Vec<Record> = (0..NAMED_ROWS as i64).map(|id| record(i64::MAX - id)).collect();
        let Step { payload, .. } = progress_log.after(most.iter(), None).expect("just fits");
        assert!(payload.len() < 1_000_000, "{} bytes", payload.len());
        let more = most.iter().chain([&most[0]]);
        let error = progress_log.after(more, None).map(drop).expect_err("one row more");
        assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    }

    #[test]
    fn what_another_version_wrote_is_not_taken_for_nothing() {
        for payload in [&b"{\"version\":2,\"term\":1,\"position\":null,\"beyond\":[]}"[..], b"", b"{}"] {
            assert!(matches!(read(payload, "progress"), Err(SinkError::Unusable { .. })));
        }
    }

    #[test]
    fn of_records_in_several_partitions_the_last_written_is_found() {
        let found = |term, partitions, position: &str, timestamp| {
            let state = State { position: Some(Position::new(position)), beyond: Settlement::default() };
            Found { payload: Some(write(&state, Term(term), partitions)), timestamp: Some(timestamp) }
        };
        let position_of = |found: &[Found]| {
            let latest = latest(found, &place()).expect("they can be read").expect("there is one");
            latest.position.expect("a position").as_str().to_owned()
        };
        let (old, more, later) = (found(3, 1, "old", 5), found(3, 3, "more", 4), found(4, 1, "later", 3));
        assert!(!is_latest(&more, &place()) && is_latest(&found(1, 4, "now", 1), &place()));
        assert_eq!(position_of(&[old, more]), "more", "the leader began anew with the partitions that were added");
        assert_eq!(position_of(&[found(3, 3, "more", 4), later]), "later");
        let removed = Found { payload: None, timestamp: Some(9) };
        assert!(is_latest(&removed, &place()) && latest(&[removed], &place()).expect("nothing to read").is_none());
        let unsaid = [found(3, 0, "first", 5), found(3, 0, "last", 6)];
        assert_eq!(position_of(&unsaid), "last", "of a version that did not write how many there were");
    }
}
