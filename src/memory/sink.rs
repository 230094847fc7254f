//! The sink: remembers what it was given, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::contract::{BoxFuture, Mandate, Outcome, Receipt, Refusal, Rejection, SinkError};
use crate::outbox::{HoldCause, Lane, Position, Progress, Record, Settlement, Term};

/// Partitions that every topic has.
const PARTITIONS: i32 = 12;

/// A broker in memory. Clones share what was delivered; a topic exists unless [`miss`](Self::miss) says otherwise.
///
/// ```
/// # use outboxd::memory::Sink;
/// let sink = Sink::new();
/// let boxed: Box<dyn outboxd::contract::Sink> = Box::new(sink.clone());
/// // …give `boxed` to a relay, then look:
/// assert_eq!(sink.delivered().len(), 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Sink {
    shared: Arc<Shared>,
}

/// A record that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The record as it was submitted.
    pub record: Record,
    /// The term for which the sink was open.
    pub term: Term,
    /// The partition it went to.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    deliveries: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    term: Option<Term>,
    deliveries: Vec<Delivery>,
    offsets: BTreeMap<(Arc<str>, i32), i64>,
    missing: BTreeMap<String, HoldCause>,
    /// Topics that were answered as held, and about which the relay has not asked since.
    held: BTreeSet<Arc<str>>,
    rejected: BTreeMap<i64, Rejection>,
    refused: BTreeMap<i64, Rejection>,
    /// What is remembered of the progress, where it is.
    memory: Option<Memory>,
    /// Lanes of which a record was rejected since the sink was opened: nothing may follow it.
    broken: BTreeSet<Lane>,
}

/// The progress, as it became visible together with the records.
#[derive(Debug, Clone, Default)]
struct Memory {
    position: Option<Position>,
    beyond: Settlement,
    term: Option<Term>,
    /// Set when a record is outstanding, until the sink is opened anew.
    is_stuck: bool,
}

impl Memory {
    fn note(&mut self, term: Term, records: &[Record], outcomes: &[Outcome], after: Option<&Position>) {
        let is_delivered = |outcome: &Outcome| matches!(outcome, Outcome::Delivered { .. });
        self.term = Some(term);
        self.is_stuck |= !outcomes.iter().all(is_delivered);
        match after.filter(|_| !self.is_stuck) {
            Some(position) => {
                self.position = Some(position.clone());
                self.beyond = Settlement::default();
            }
            None => {
                let delivered = records.iter().zip(outcomes).filter(|(_, outcome)| is_delivered(outcome));
                delivered.for_each(|(record, _)| self.beyond.push(record));
            }
        }
    }
}

impl Sink {
    /// As [`new`](Self::new), and remembering the progress together with the records, for exactly-once delivery.
    pub fn remembering() -> Self {
        let sink = Self::default();
        sink.state().memory = Some(Memory::default());
        sink
    }

    /// A broker that has every topic and takes everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a topic be missing, or forbidden: its records are answered as held.
    pub fn miss(&self, topic: impl Into<String>, cause: HoldCause) {
        self.state().missing.insert(topic.into(), cause);
    }

    /// Lets a topic appear. The relay hears of that by asking [`accepts`](crate::contract::Sink::accepts).
    pub fn appear(&self, topic: &str) {
        self.state().missing.remove(topic);
    }

    /// Rejects the record of this id whenever it is submitted.
    pub fn reject(&self, id: i64, rejection: Rejection) {
        self.state().rejected.insert(id, rejection);
    }

    /// Lets the record of this id be known as impossible before it is submitted.
    pub fn refuse(&self, id: i64, rejection: Rejection) {
        self.state().refused.insert(id, rejection);
    }

    /// Takes the record of this id after all, from now on.
    pub fn relent(&self, id: i64) {
        let mut state = self.state();
        state.rejected.remove(&id);
        state.refused.remove(&id);
    }

    /// Everything delivered so far, in order.
    pub fn delivered(&self) -> Vec<Delivery> {
        self.state().deliveries.clone()
    }

    /// The ids of what was delivered so far, in order.
    pub fn ids(&self) -> Vec<i64> {
        self.state().deliveries.iter().map(|delivery| delivery.record.id).collect()
    }

    /// What was delivered of a lane, or of a whole topic, in order.
    pub fn of(&self, lane: &Lane) -> Vec<Delivery> {
        let is_of = |delivery: &&Delivery| match lane {
            Lane::Topic { topic } => delivery.record.topic == *topic,
            lane => delivery.record.lane().as_ref() == Some(lane),
        };
        self.state().deliveries.iter().filter(is_of).cloned().collect()
    }

    /// Waits until this many records were delivered, duplicates included. Put it under a timeout.
    pub async fn until(&self, deliveries: usize) {
        let mut count = self.shared.deliveries.subscribe();
        // Fails only without a sender, and the sender is part of `self`.
        let _ = count.wait_for(|count| *count >= deliveries).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    fn accept(&self, records: &[Record], after: Option<&Position>) -> Result<Vec<Outcome>, SinkError> {
        let mut state = self.state();
        let Some(term) = state.term else {
            let source = "it was not opened, or was aborted".into();
            return Err(SinkError::Unavailable { doing: "submitting to the sink in memory", source });
        };
        let outcomes: Vec<Outcome> = records.iter().map(|record| state.take(record, term)).collect();
        if let Some(memory) = &mut state.memory {
            memory.note(term, records, &outcomes, after);
        }
        self.shared.deliveries.send_replace(state.deliveries.len());
        Ok(outcomes)
    }
}

impl State {
    fn take(&mut self, record: &Record, term: Term) -> Outcome {
        if let Some(cause) = self.missing.get(&*record.topic) {
            self.held.insert(Arc::clone(&record.topic));
            return Outcome::Held(*cause);
        }
        if self.held.contains(&record.topic) {
            return Outcome::Held(HoldCause::MissingTopic);
        }
        let lane = record.lane();
        if lane.as_ref().is_some_and(|lane| self.broken.contains(lane)) {
            return Outcome::Unknown;
        }
        if let Some(rejection) = self.rejected.get(&record.id) {
            self.broken.extend(lane);
            return Outcome::Rejected(Box::new(rejection.clone()));
        }
        let partition = record.partition.unwrap_or_else(|| self.partition_of(record));
        let next = self.offsets.entry((Arc::clone(&record.topic), partition)).or_default();
        let offset = *next;
        *next += 1;
        self.deliveries.push(Delivery { record: record.clone(), term, partition, offset });
        Outcome::Delivered { partition, offset }
    }

    /// By key, and in turn where there is none.
    fn partition_of(&self, record: &Record) -> i32 {
        let Some(key) = &record.key else { return (self.deliveries.len() % PARTITIONS as usize) as i32 };
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        (hasher.finish() % PARTITIONS as u64) as i32
    }
}

#[async_trait]
impl crate::contract::Sink for Sink {
    async fn open(&mut self, term: Term, _mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        let mut state = self.state();
        state.term = Some(term);
        state.held.clear();
        state.broken.clear();
        let Some(memory) = &mut state.memory else { return Ok(None) };
        memory.is_stuck = false;
        let Memory { position, beyond, term, .. } = memory.clone();
        Ok(term.map(|term| Progress { position, beyond, term }))
    }

    async fn prepare(&mut self, _records: &[Record]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        let state = self.state();
        let refusal = |(index, record): (usize, &Record)| {
            let rejection = state.refused.get(&record.id)?.clone();
            Some(Refusal { index, rejection })
        };
        Ok(records.iter().enumerate().filter_map(refusal).collect())
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        let outcomes = self.accept(records, after)?;
        Ok(Box::pin(std::future::ready(outcomes)))
    }

    fn fence(&self) -> Option<&str> {
        None
    }

    fn progress_stored(&mut self) {
        if let Some(memory) = &mut self.state().memory {
            memory.beyond = Settlement::default();
        }
    }

    fn accepts(&self, mut lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        let mut state = self.state();
        lanes.retain(|lane| !state.missing.contains_key(lane.topic()));
        for lane in &lanes {
            state.held.remove(lane.topic());
        }
        Box::pin(std::future::ready(Ok(lanes)))
    }

    fn has_learnt(&mut self) -> bool {
        false
    }

    fn abort(&mut self) {
        self.state().term = None;
    }

    async fn close(&mut self, _deadline: Duration) {
        self.abort();
    }
}
