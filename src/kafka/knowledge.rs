//! What the sink has learnt of topics, lanes and records, some of it the hard way.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::contract::Outcome;
use crate::kafka::config::Settings;
use crate::kafka::producer::ledger::Failure;
use crate::kafka::producer::sending::Sending;
use crate::kafka::quarantine::suspects::Suspects;
use crate::kafka::topics::answer::TopicPartition;
use crate::kafka::topics::bar::Bar;
use crate::kafka::topics::table::{TopicState, Topics};
use crate::outbox::{HoldCause, Lane, Record};

/// How often every partition counts as cold again. Brokers forget a producer that was silent there for long (a day by
/// default), and with it the sequence that its records must follow.
const COOLING_INTERVAL: Duration = Duration::from_secs(3600);

/// What is known by now. It outlives producers and sessions.
pub(crate) struct Knowledge {
    pub(crate) topics: Topics,
    /// Records that are sent alone, because they may be what was refused.
    pub(crate) suspects: Suspects,
    /// Lanes of which a record was rejected: nothing of them follows until the sink is opened anew.
    pub(crate) blocked: HashSet<Lane>,
    /// Records, by their ids, that were published ahead of the submission that is to come with them.
    pub(crate) ahead: HashMap<i64, Outcome>,
    /// Bytes of the largest record seen, roughly.
    pub(crate) largest: usize,
    /// Whether the last producer's end taught something.
    pub(crate) has_learnt: bool,
    cooled: Instant,
}

impl Default for Knowledge {
    fn default() -> Self {
        Self {
            topics: Topics::default(),
            suspects: Suspects::default(),
            blocked: HashSet::new(),
            ahead: HashMap::new(),
            largest: 0,
            has_learnt: false,
            cooled: Instant::now(),
        }
    }
}

impl Knowledge {
    /// Begins a session, which reads again whatever was under way.
    pub(crate) fn begin_session(&mut self) {
        self.blocked.clear();
        self.ahead.clear();
        self.topics.unavailable.begin_anew();
        self.suspects.expire();
    }

    /// Begins with a new producer.
    pub(crate) fn begin_producer(&mut self) {
        self.topics.begin_anew();
        self.cooled = Instant::now();
    }

    /// Begins a submission.
    pub(crate) fn begin_submission(&mut self) {
        self.topics.rotate();
        if self.cooled.elapsed() > COOLING_INTERVAL {
            self.topics.cool();
            self.cooled = Instant::now();
        }
    }

    /// Remembers what a producer, whose batches held so many bytes at most, has learnt of records and topics.
    pub(crate) fn learn_from(&mut self, failure: &Failure, batch: usize, settings: &Settings) {
        // The progress is written where no row may be: its topic holds nothing up.
        let held = failure.held.iter().filter(|held| Bar::of(&held.topic, settings).is_none());
        held.for_each(|held| self.topics.hold(&held.topic, held.cause));
        self.suspects.add(&failure.refused, batch);
        for to in &failure.stuck {
            let TopicPartition { topic, partition } = self.topics.named(*to);
            tracing::warn!(%topic, partition, "the partition takes no records though Kafka answers: its lanes are held until it does, others flow on");
            self.topics.unavailable.stuck(*to);
        }
        self.has_learnt |= failure.teaches();
        // A limit that was lowered, say.
        failure.refused.iter().for_each(|refused| self.topics.ask_anew(&refused.topic));
    }

    /// Why a record that was to be sent alone is kept back after all, by what was learnt since.
    pub(crate) fn kept_back(&mut self, record: &Record, sending: Sending) -> Option<Outcome> {
        if let TopicState::Held(cause) = self.topics.get(sending.topic).state {
            return Some(Outcome::Held(cause));
        }
        let is_blocked = !self.blocked.is_empty() && record.lane().is_some_and(|lane| self.blocked.contains(&lane));
        is_blocked.then_some(Outcome::Unknown)
    }

    /// Holds a suspect for which there is no time left, and what follows in its lane.
    pub(crate) fn put_off(&mut self, record: &Record) -> Outcome {
        self.topics.keep_back(record, HoldCause::Suspected)
    }

    /// Takes note of what became of a suspect.
    pub(crate) fn judge(&mut self, record: &Record, sending: Sending, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.suspects.delivered(record, sending.partition),
            Outcome::Rejected(_) => {
                self.suspects.refused(record, sending.partition);
                self.suspects.reject(record.id, record.lane());
                self.blocked.extend(record.lane());
            }
            Outcome::Held(cause) => self.topics.hold(&record.topic, *cause),
            Outcome::Unknown => self.blocked.extend(record.lane()),
        }
    }
}
