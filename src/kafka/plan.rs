//! A submission: what is to become of each record, and then the handing over, in order.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rdkafka::producer::BaseRecord;
use tokio::task::yield_now;

use crate::contract::{Outcome, Refusal, Rejection, SinkError};
use crate::kafka::config::{ProducerLimits, Settings};
use crate::kafka::errors::{MESSAGE_TOO_LARGE, not_taken};
use crate::kafka::ledger::{Destination, Failure, Submission};
use crate::kafka::producer::Producer;
use crate::kafka::sink::Sink;
use crate::kafka::topics::{Known, State, Topics, Warmth};
use crate::kafka::{encode, partition};
use crate::outbox::{HoldCause, Lane, Record};

/// Bytes that a record's framing and the relay's headers take at most, without the source and the lengths of the
/// application's headers.
const RECORD_FRAMING: usize = 200;

/// Bytes that the lengths of one header take at most.
const HEADER_FRAMING: usize = 10;

/// So many records are handed over before others get a turn: a relay that has lost its lease meanwhile stops there, after
/// a few milliseconds. The client makes larger requests of records that come in a rush.
const YIELD_EVERY: usize = 2_500;

/// A record that is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending {
    /// Its place in the submission.
    pub(crate) index: usize,
    /// Its topic's number.
    pub(crate) topic: usize,
    pub(crate) partition: i32,
    /// Whether the topic does not take the time at which its row was written.
    pub(crate) is_untimely: bool,
}

impl Sending {
    fn destination(&self) -> Destination {
        Destination { topic: self.topic as u32, partition: self.partition }
    }
}

/// What is to become of each record of a submission.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Those that go at once.
    pub(crate) together: Vec<Sending>,
    /// Those that are suspected, or whose lanes are: see [`Suspects`](crate::kafka::suspects::Suspects).
    pub(crate) alone: Vec<Sending>,
    /// Those that are not sent.
    pub(crate) kept: Vec<(usize, Outcome)>,
    /// Lanes of which a record is rejected here.
    pub(crate) blocked: Vec<Lane>,
}

impl Plan {
    /// Plans a submission whose topics are all asked for, and says which limits its producer needs. Nothing is
    /// sent of a lane after a record of it that is rejected.
    pub(crate) fn make(&mut self, sink: &mut Sink, records: &[Record]) -> ProducerLimits {
        self.together.reserve(records.len());
        let now = Utc::now();
        for (index, record) in records.iter().enumerate() {
            if let Err(outcome) = self.place(sink, index, record, now) {
                self.kept.push((index, outcome));
            }
        }
        sink.producer_limits()
    }

    /// Plans to send a record, or says why it is not sent.
    fn place(&mut self, sink: &mut Sink, index: usize, record: &Record, now: DateTime<Utc>) -> Result<(), Outcome> {
        if let Some(outcome) = sink.ahead.get(&record.id) {
            return Err(outcome.clone());
        }
        let topic = sink.topics.find(&record.topic).ok_or(Outcome::Unknown)?;
        if let Some(cause) = sink.topics.keeps_back(record) {
            return Err(Outcome::Held(cause));
        }
        let known = match &mut sink.topics.get(topic).state {
            State::Known(known) => known,
            State::Unasked => return Err(Outcome::Unknown),
            State::Held(cause) => return Err(Outcome::Held(*cause)),
            State::Impossible => return Err(self.reject(record, impossible_topic(record))),
            State::Barred(bar) => return Err(self.reject(record, bar.rejection(&record.topic))),
        };
        let is_watched = !sink.suspects.is_empty();
        let is_blocked = !self.blocked.is_empty() || !sink.blocked.is_empty();
        let lane = if is_watched || is_blocked { record.lane() } else { None };
        if lane.as_ref().is_some_and(|lane| sink.blocked.contains(lane) || self.blocked.contains(lane)) {
            return Err(Outcome::Unknown);
        }
        match known.fits(record, &sink.settings) {
            Ok(size) => sink.largest = size.max(sink.largest),
            Err(rejection) => return Err(self.reject(record, rejection)),
        }
        let is_untimely = !known.limits.takes_timestamp(record.created_at, now);
        let partition = partition::of(record, known.count(), &mut known.spread);
        let Some(to) = sink.topics.available(record, Destination { topic: topic as u32, partition }) else {
            return Err(Outcome::Held(HoldCause::UnavailablePartition));
        };
        let partition = to.partition;
        let is_suspected = is_watched && sink.suspects.concerns(record, lane.as_ref(), partition);
        let way = if is_suspected { &mut self.alone } else { &mut self.together };
        way.push(Sending { index, topic, partition, is_untimely });
        Ok(())
    }

    fn reject(&mut self, record: &Record, rejection: Rejection) -> Outcome {
        self.blocked.extend(record.lane());
        Outcome::Rejected(Box::new(rejection))
    }
}

impl Known {
    /// The record's size, as far as it matters to the producer; or why the topic can never take it.
    fn fits(&self, record: &Record, settings: &Settings) -> Result<usize, Rejection> {
        match record.partition {
            Some(partition) if !(0..self.count()).contains(&partition) => {
                Err(impossible_partition(record, partition, self.count()))
            }
            _ if record.key.is_none() && self.limits.compacted == Some(true) => Err(missing_key(record)),
            _ => size_of(record, self, settings),
        }
    }
}

/// The record's size, as far as it matters to the producer; or why it is too large.
fn size_of(record: &Record, known: &Known, settings: &Settings) -> Result<usize, Rejection> {
    let most = record.size() + record.headers.len() * HEADER_FRAMING + settings.source.len() + RECORD_FRAMING;
    let client_limit = settings.largest_message();
    if most <= client_limit && known.limits.message_bytes.is_none_or(|limit| most <= limit) {
        return Ok(most);
    }
    let size = encode::batch_size(record, &settings.source);
    if size > client_limit {
        return Err(too_large(record, size, client_limit, "message.max.bytes of [kafka]"));
    }
    match known.limits.message_bytes {
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
    Rejection { code: MESSAGE_TOO_LARGE, message }
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

fn missing_key(record: &Record) -> Rejection {
    let topic = &record.topic;
    let message =
        format!("it has no key, and topic {topic} is compacted: give it one, or change the topic's cleanup.policy");
    Rejection { code: "missing_key", message }
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
            State::Barred(bar) => Some(bar.rejection(&record.topic)),
            State::Held(_) | State::Unasked => None,
        }
    }
}

/// Writes one submission.
pub(crate) struct Writer<'a> {
    pub(crate) producer: &'a mut Producer,
    pub(crate) submission: Submission,
    pub(crate) source: &'a str,
    pub(crate) records: &'a [Record],
}

impl Writer<'_> {
    /// Hands records over, in order; the place of one in `sendings` is its place in the submission if the submission
    /// is of these records alone. Of a cold partition one record goes first and alone; the others of that partition
    /// follow, in order, once it is acknowledged.
    pub(crate) async fn write(
        &mut self,
        topics: &mut Topics,
        sendings: impl Iterator<Item = (usize, Sending)>,
    ) -> Result<(), SinkError> {
        let mut deferred: Vec<(usize, Sending)> = Vec::new();
        let mut is_warming = false;
        let turn = self.producer.turn();
        for (count, (place, sending)) in sendings.enumerate() {
            if count % YIELD_EVERY == YIELD_EVERY - 1 {
                yield_now().await;
            }
            let State::Known(known) = &mut topics.get(sending.topic).state else { continue };
            match &mut known.warmth[sending.partition as usize][turn] {
                Warmth::Warm => self.send(place, sending).await?,
                Warmth::Warming => deferred.push((place, sending)),
                cold @ Warmth::Cold => {
                    *cold = Warmth::Warming;
                    is_warming = true;
                    let ticket = self.submission.first_ticket(place);
                    self.send_with(place, sending, ticket).await?;
                }
            }
        }
        if is_warming || !deferred.is_empty() {
            self.submission.tell_destinations();
            self.warmed().await?;
            topics.warmed();
        }
        for (place, sending) in deferred {
            self.send(place, sending).await?;
        }
        Ok(())
    }

    /// Hands one record over.
    pub(crate) async fn send(&mut self, place: usize, sending: Sending) -> Result<(), SinkError> {
        let ticket = self.submission.ticket(place);
        self.send_with(place, sending, ticket).await
    }

    async fn send_with(&mut self, place: usize, sending: Sending, ticket: usize) -> Result<(), SinkError> {
        let record = encode::encode(&self.records[sending.index], sending, self.source, ticket);
        self.put(record).await?;
        self.submission.went_to(place, sending.destination());
        Ok(())
    }

    /// Hands over what is in the client's terms already.
    pub(crate) async fn put(&mut self, record: BaseRecord<'_, str, [u8], usize>) -> Result<(), SinkError> {
        let topic = record.topic;
        if let Err(error) = self.producer.send(record).await {
            let reason = format!("the client does not take a record of topic {topic}: {error}");
            self.producer.ledger.fail(Failure::because(reason));
            return Err(not_taken(error));
        }
        self.submission.sent();
        Ok(())
    }

    /// Waits until the first records of cold partitions are acknowledged.
    async fn warmed(&self) -> Result<(), SinkError> {
        let ledger = Arc::clone(&self.producer.ledger);
        ledger.warmed().await;
        ledger.check("waiting for the first acknowledgement of a partition")
    }
}
