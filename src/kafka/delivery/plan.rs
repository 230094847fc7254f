//! A submission before it is sent: what is to become of each record.

use chrono::{DateTime, Utc};

use crate::contract::{Outcome, Rejection};
use crate::kafka::config::Settings;
use crate::kafka::knowledge::Knowledge;
use crate::kafka::producer::sending::{Destination, RecordOutcome, Sending};
use crate::kafka::producer::setup::ProducerLimits;
use crate::kafka::topics::fitness::{impossible_topic, size_that_fits};
use crate::kafka::topics::partition;
use crate::kafka::topics::table::TopicState;
use crate::outbox::{HoldCause, Lane, Record};

/// What is to become of each record of a submission.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Those that go at once.
    pub(crate) together: Vec<Sending>,
    /// Those that are suspected, or whose lanes are: see [`Suspects`](crate::kafka::quarantine::suspects::Suspects).
    pub(crate) alone: Vec<Sending>,
    /// Those that are not sent.
    pub(crate) kept: Vec<RecordOutcome>,
    /// Lanes of which a record is rejected here.
    pub(crate) blocked: Vec<Lane>,
    /// The limits that the producer needs.
    pub(crate) limits: ProducerLimits,
}

impl Plan {
    /// Plans a submission whose topics are all asked for. Nothing is sent of a lane after a record of it that is rejected.
    pub(crate) fn make(records: &[Record], knowledge: &mut Knowledge, settings: &Settings) -> Self {
        let mut planner = Planner {
            knowledge,
            settings,
            now: Utc::now(),
            together: Vec::with_capacity(records.len()),
            alone: Vec::new(),
            blocked: Vec::new(),
        };
        let mut kept = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Err(outcome) = planner.place(index, record) {
                kept.push(RecordOutcome { index, outcome });
            }
        }
        let Planner { knowledge, together, alone, blocked, .. } = planner;
        let limits = ProducerLimits::of(settings, knowledge.topics.smallest_limit(), knowledge.largest);
        Self { together, alone, kept, blocked, limits }
    }
}

/// A plan that is being made.
struct Planner<'a> {
    knowledge: &'a mut Knowledge,
    settings: &'a Settings,
    now: DateTime<Utc>,
    together: Vec<Sending>,
    alone: Vec<Sending>,
    blocked: Vec<Lane>,
}

impl Planner<'_> {
    /// Plans to send a record, or says why it is not sent.
    fn place(&mut self, index: usize, record: &Record) -> Result<(), Outcome> {
        let Knowledge { topics, suspects, blocked, ahead, largest, .. } = &mut *self.knowledge;
        if let Some(outcome) = ahead.get(&record.id) {
            return Err(outcome.clone());
        }
        let topic = topics.find(&record.topic).ok_or(Outcome::Unknown)?;
        if let Some(cause) = topics.keeps_back(record) {
            return Err(Outcome::Held(cause));
        }
        let known = match &mut topics.get(topic).state {
            TopicState::Known(known) => known,
            TopicState::Unasked => return Err(Outcome::Unknown),
            TopicState::Held(cause) => return Err(Outcome::Held(*cause)),
            TopicState::Impossible => return Err(reject(record, impossible_topic(record), &mut self.blocked)),
            TopicState::Barred(bar) => {
                return Err(reject(record, bar.rejection(&record.topic), &mut self.blocked));
            }
        };
        let is_watched = !suspects.is_empty();
        let is_blocked = !self.blocked.is_empty() || !blocked.is_empty();
        let lane = if is_watched || is_blocked { record.lane() } else { None };
        if lane.as_ref().is_some_and(|lane| blocked.contains(lane) || self.blocked.contains(lane)) {
            return Err(Outcome::Unknown);
        }
        match size_that_fits(record, known, self.settings) {
            Ok(size) => *largest = size.max(*largest),
            Err(rejection) => return Err(reject(record, rejection, &mut self.blocked)),
        }
        let is_untimely = !known.limits.takes_timestamp(record.created_at, self.now);
        let partition = partition::of(record, known.count(), &mut known.spread);
        let Some(to) = topics.available(record, Destination { topic: topic as u32, partition }) else {
            return Err(Outcome::Held(HoldCause::UnavailablePartition));
        };
        let partition = to.partition;
        let is_suspected = is_watched && suspects.concerns(record, lane.as_ref(), partition);
        let way = if is_suspected { &mut self.alone } else { &mut self.together };
        way.push(Sending { index, topic, partition, is_untimely });
        Ok(())
    }
}

/// Nothing of the record's lane is sent after it.
fn reject(record: &Record, rejection: Rejection, blocked: &mut Vec<Lane>) -> Outcome {
    blocked.extend(record.lane());
    Outcome::Rejected(Box::new(rejection))
}
