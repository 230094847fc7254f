//! A submission: what is to become of each record, and then the handing over, in order.

use std::sync::Arc;

use tokio::task::yield_now;

use crate::contract::{Outcome, Receipt, Refusal, Rejection, SinkError};
use crate::kafka::config::{Settings, Shape};
use crate::kafka::delivery::{Spoil, Submission};
use crate::kafka::producer::Producer;
use crate::kafka::sink::{Sink, not_taken, unavailable};
use crate::kafka::topics::{Known, State, Warmth};
use crate::kafka::{encode, partition};
use crate::outbox::{Lane, Record};

/// Bytes that a record's framing and the relay's headers take at most, without the source and the lengths of the
/// application's headers.
const FRAMING: usize = 200;

/// Bytes that the lengths of one header take at most.
const HEADER_FRAMING: usize = 10;

/// So many records are handed over before others get a turn: a relay that has lost its lease meanwhile stops there.
const STRIDE: usize = 250;

/// What is to become of one record.
#[derive(Debug)]
enum Step {
    /// It is sent to this partition.
    Send { topic: usize, partition: i32 },
    /// It is not sent.
    Skip(Outcome),
}

/// What is to become of each record of a submission.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// Lanes of which a record is rejected here.
    pub(crate) blocked: Vec<Lane>,
}

impl Plan {
    /// Plans a submission whose topics are all asked for, and says what shape of producer it needs. Nothing is
    /// sent of a lane after a record of it that is rejected.
    pub(crate) fn make(&mut self, sink: &mut Sink, records: &[Record]) -> Shape {
        self.steps.reserve(records.len());
        for record in records {
            let step = self.step(sink, record);
            self.steps.push(step);
        }
        sink.shape()
    }

    fn step(&mut self, sink: &mut Sink, record: &Record) -> Step {
        let Some(number) = sink.topics.find(&record.topic) else { return Step::Skip(Outcome::Unknown) };
        let known = match &mut sink.topics.get(number).state {
            State::Known(known) => known,
            State::Held(cause) => return Step::Skip(Outcome::Held(*cause)),
            State::Impossible => return self.reject(record, impossible_topic(record)),
        };
        if self.is_blocked(&sink.blocked, record) {
            return Step::Skip(Outcome::Unknown);
        }
        match known.fits(record, &sink.settings) {
            Ok(size) => sink.largest = size.max(sink.largest),
            Err(rejection) => return self.reject(record, rejection),
        }
        let partition = partition::of(record, known.partitions, &mut known.spread);
        Step::Send { topic: number, partition }
    }

    fn is_blocked(&self, before: &std::collections::HashSet<Lane>, record: &Record) -> bool {
        if self.blocked.is_empty() && before.is_empty() {
            return false;
        }
        record.lane().is_some_and(|lane| before.contains(&lane) || self.blocked.contains(&lane))
    }

    fn reject(&mut self, record: &Record, rejection: Rejection) -> Step {
        self.blocked.extend(record.lane());
        Step::Skip(Outcome::Rejected(Box::new(rejection)))
    }
}

impl Known {
    /// The record's size, as far as it matters to the producer; or why the topic can never take it.
    fn fits(&self, record: &Record, settings: &Settings) -> Result<usize, Rejection> {
        match record.partition {
            Some(partition) if !(0..self.partitions).contains(&partition) => {
                Err(impossible_partition(record, partition, self.partitions))
            }
            _ => size_of(record, self, settings),
        }
    }
}

/// The record's size, as far as it matters to the producer; or why it is too large.
fn size_of(record: &Record, known: &Known, settings: &Settings) -> Result<usize, Rejection> {
    let most = record.size() + record.headers.len() * HEADER_FRAMING + settings.source.len() + FRAMING;
    let client_limit = settings.largest_message();
    if most <= client_limit && known.limit.is_none_or(|limit| most <= limit) {
        return Ok(most);
    }
    let size = encode::batch_size(record, &settings.source);
    if size > client_limit {
        return Err(too_large(record, size, client_limit, "message.max.bytes of [kafka]"));
    }
    match known.limit {
        // Compressed it may fit: the broker is the judge, and such a record travels in a batch of its own.
        Some(limit) if size > limit && !settings.compresses() => {
            Err(too_large(record, size, limit, "the topic's max.message.bytes"))
        }
        _ => Ok(most),
    }
}

fn too_large(record: &Record, size: usize, limit: usize, whose: &str) -> Rejection {
    let topic = &record.topic;
    let message = format!(
        "it takes {size} bytes on the wire to topic {topic}, more than the {limit} of {whose}: raise that limit, or store the payload elsewhere and send a reference"
    );
    Rejection { code: "message_too_large", message }
}

fn impossible_topic(record: &Record) -> Rejection {
    let message = format!(
        "{:?} cannot name a topic: correct the row; names have 1 to 249 of the letters a-z, A-Z, 0-9, '.', '_' and '-'",
        record.topic
    );
    Rejection { code: "invalid_topic", message }
}

fn impossible_partition(record: &Record, partition: i32, partitions: i32) -> Rejection {
    let topic = &record.topic;
    let message = format!(
        "its row names partition {partition} of topic {topic}, which has {partitions}, numbered from 0: add partitions, or correct the row"
    );
    Rejection { code: "unknown_partition", message }
}

impl Sink {
    /// Records that can never be published as they are, by what is known of their topics.
    pub(crate) fn refusals(&mut self, records: &[Record]) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for (index, record) in records.iter().enumerate() {
            if let Some(rejection) = self.refusal(record) {
                refusals.push(Refusal { index, rejection });
            }
        }
        refusals
    }

    fn refusal(&mut self, record: &Record) -> Option<Rejection> {
        let number = self.topics.find(&record.topic)?;
        match &self.topics.get(number).state {
            State::Known(known) => known.fits(record, &self.settings).err(),
            State::Impossible => Some(impossible_topic(record)),
            State::Held(_) => None,
        }
    }

    /// Hands the records over as planned. Of a cold partition one record goes first and alone; the others of that
    /// partition follow, in order, once it is acknowledged.
    pub(crate) async fn hand_over(&mut self, records: &[Record], plan: Plan) -> Result<Receipt, SinkError> {
        let Self { producer, topics, settings, .. } = self;
        let Some(producer) = producer else { return Err(unavailable("publishing", "the sink is not open")) };
        let (submission, receipt) = producer.ledger.begin(records.len());
        let mut writer = Writer { producer, submission, source: &settings.source, records };
        let mut deferred: Vec<(usize, i32)> = Vec::new();
        let mut is_warming = false;
        for (index, step) in plan.steps.into_iter().enumerate() {
            if index % STRIDE == STRIDE - 1 {
                yield_now().await;
            }
            let (topic, partition) = match step {
                Step::Send { topic, partition } => (topic, partition),
                Step::Skip(outcome) => {
                    writer.submission.set(index, outcome);
                    continue;
                }
            };
            let State::Known(known) = &mut topics.get(topic).state else { continue };
            match &mut known.warmth[partition as usize] {
                Warmth::Warm => writer.send(index, partition).await?,
                Warmth::Warming => deferred.push((index, partition)),
                cold @ Warmth::Cold => {
                    *cold = Warmth::Warming;
                    is_warming = true;
                    writer.send_first(index, partition).await?;
                }
            }
        }
        if is_warming || !deferred.is_empty() {
            writer.warmed().await?;
            topics.warmed();
        }
        for (index, partition) in deferred {
            writer.send(index, partition).await?;
        }
        Ok(receipt)
    }
}

/// Writes one submission.
struct Writer<'a> {
    producer: &'a mut Producer,
    submission: Submission,
    source: &'a str,
    records: &'a [Record],
}

impl Writer<'_> {
    async fn send(&mut self, index: usize, partition: i32) -> Result<(), SinkError> {
        let ticket = self.submission.ticket(index);
        self.send_with(index, partition, ticket).await
    }

    async fn send_first(&mut self, index: usize, partition: i32) -> Result<(), SinkError> {
        let ticket = self.submission.first_ticket(index);
        self.send_with(index, partition, ticket).await
    }

    async fn send_with(&mut self, index: usize, partition: i32, ticket: usize) -> Result<(), SinkError> {
        let record = encode::encode(&self.records[index], partition, self.source, ticket);
        if let Err(error) = self.producer.send(record).await {
            let reason = format!("the client does not take a record of topic {}: {error}", self.records[index].topic);
            self.producer.ledger.spoil(Spoil { reason, ..Spoil::default() });
            return Err(not_taken(error));
        }
        self.submission.sent();
        Ok(())
    }

    /// Waits until the first records of cold partitions are acknowledged.
    async fn warmed(&self) -> Result<(), SinkError> {
        let ledger = Arc::clone(&self.producer.ledger);
        ledger.warmed().await;
        match ledger.spoiled() {
            Some(spoil) => Err(unavailable("waiting for the first acknowledgement of a partition", spoil.reason)),
            None if ledger.is_sound() => Ok(()),
            None => Err(unavailable("publishing", "the sink is not open")),
        }
    }
}
