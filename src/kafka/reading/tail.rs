//! A topic as it grows, heard on a thread of its own, since the client's calls block.
//!
//! Each partition is read from where it stood, whatever happened to the client meanwhile: offsets are kept here and nowhere else.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::contract::{Heard, Tail as Promise};
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::reading::client::{
    ConsumerError, IsolationLevel, Look, ReadingClient, ask, ask_until, config, connect, failed, look,
};
use crate::observe::chain;
use crate::outbox::{HoldCause, RESERVED_HEADERS};

/// The header by which records are told apart.
const EVENT_ID: &str = RESERVED_HEADERS[0];

/// How long one look for a record takes at most, so that the end of waiting is noticed.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// How often it is asked whether the topic has got more partitions.
const PARTITIONS_INTERVAL: Duration = Duration::from_secs(10);

/// The same while there is no topic.
const MISSING_INTERVAL: Duration = Duration::from_millis(500);

/// How long that question may take. While no broker answers nothing is missed by it.
const PARTITIONS_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Pauses before a client is replaced that could not hear.
const REOPEN_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What was heard and not asked for yet, at most.
const HEARD_AHEAD: usize = 1_000;

/// A topic as it grows. The client ends with it.
pub struct Tail {
    heard: mpsc::Receiver<Heard>,
}

impl Tail {
    /// Begins to read a topic, as soon as a broker answers. Of the properties only those count that say how to reach the brokers.
    pub fn open(properties: &BTreeMap<String, String>, topic: &str) -> Self {
        let mut config = config(properties, IsolationLevel::ReadCommitted);
        config
            // A broker answers at once when there is something; with nothing to read it is asked twice a second.
            .set("fetch.wait.max.ms", "500")
            // What was removed before it was read is passed over, and no more.
            .set("auto.offset.reset", "earliest")
            .set("queued.min.messages", "100")
            .set("queued.max.messages.kbytes", "1024")
            // It hears again soon after the brokers are back.
            .set("reconnect.backoff.max.ms", "1000");
        let (told, heard) = mpsc::channel(HEARD_AHEAD);
        let listener = Listener { config, topic: topic.to_owned(), positions: BTreeMap::new(), has_begun: false, told };
        thread::spawn(move || listener.listen());
        Self { heard }
    }
}

#[async_trait]
impl Promise for Tail {
    async fn hear(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            // The thread has panicked, and has said so.
            None => std::future::pending().await,
        }
    }
}

/// What reads.
struct Listener {
    config: ClientConfig,
    topic: String,
    /// The offset that is read next, by partition.
    positions: BTreeMap<i32, i64>,
    /// Whether it is known where reading began: partitions that are met later are read from their beginning.
    has_begun: bool,
    told: mpsc::Sender<Heard>,
}

impl Listener {
    /// Reads until nobody listens any more, with one client after the other.
    fn listen(mut self) {
        let (first, longest) = REOPEN_PAUSES;
        let mut backoff = Backoff::new(first, longest);
        while let Err(error) = self.read(&mut backoff) {
            self.tell(Heard::Deaf(chain(&error)));
            thread::sleep(backoff.next_wait());
        }
    }

    /// Reads through one client, until nobody listens any more.
    ///
    /// # Errors
    /// When this client can hear nothing more, or nothing that matters.
    fn read(&mut self, backoff: &mut Backoff) -> Result<(), ConsumerError> {
        let client = connect(&self.config).map_err(failed("creating the client"))?;
        let mut behind = self.begin(&client)?;
        let (mut asked_at, mut reads) = (Instant::now(), false);
        while !self.told.is_closed() {
            if !reads && behind.is_empty() {
                reads = true;
                backoff.reset();
                self.tell(Heard::Reads);
            }
            let interval = if self.positions.is_empty() { MISSING_INTERVAL } else { PARTITIONS_INTERVAL };
            if asked_at.elapsed() >= interval {
                self.look_for_partitions(&client)?;
                asked_at = Instant::now();
            }
            match look(&client, POLL_TIMEOUT, is_deafening).map_err(failed("waiting for a record"))? {
                Look::Record(message) => {
                    let (partition, position) = (message.partition(), message.offset() + 1);
                    self.positions.insert(partition, position);
                    behind.retain(|other, end| *other != partition || position < *end);
                    if let Some(event_id) = event_id(&message) {
                        self.tell(Heard::Record { event_id, at: Instant::now() });
                    }
                }
                // What is left before the end are no records, but marks of transactions.
                Look::End(partition) => drop(behind.remove(&partition)),
                Look::Nothing => {}
            }
        }
        Ok(())
    }

    fn tell(&self, heard: Heard) {
        let _nobody_listens = self.told.blocking_send(heard);
    }

    /// Begins to read with a new client, each partition where it stood, and tells the ends of those that have gone on meanwhile.
    fn begin(&mut self, client: &ReadingClient) -> Result<BTreeMap<i32, i64>, ConsumerError> {
        let (mut positions, mut behind) = (BTreeMap::new(), BTreeMap::new());
        for partition in self.partitions(client).or_else(none_if_missing).map_err(failed("asking for a topic"))? {
            let end = self.end_of(client, partition)?;
            let position = self.position_of(partition).unwrap_or(end);
            positions.insert(partition, position);
            if position < end {
                behind.insert(partition, end);
            }
        }
        self.has_begun = true;
        self.assign(client, positions)?;
        Ok(behind)
    }

    /// Asks whether there are other partitions by now, and reads those, too.
    fn look_for_partitions(&mut self, client: &ReadingClient) -> Result<(), ConsumerError> {
        let found = match self.partitions(client).or_else(none_if_missing) {
            Ok(found) => found,
            Err(error) if is_deafening(&error) => return Err(failed("asking for a topic")(error)),
            // No broker answers: what is read is read on.
            Err(_) => return Ok(()),
        };
        if found.iter().eq(self.positions.keys()) {
            return Ok(());
        }
        let position = |partition: i32| (partition, self.position_of(partition).unwrap_or_default());
        let positions = found.into_iter().map(position).collect();
        self.assign(client, positions)
    }

    /// Where a partition is read from; `None` where reading begins at its end.
    fn position_of(&self, partition: i32) -> Option<i64> {
        self.positions.get(&partition).copied().or(self.has_begun.then_some(0))
    }

    fn assign(&mut self, client: &ReadingClient, positions: BTreeMap<i32, i64>) -> Result<(), ConsumerError> {
        self.positions = positions;
        let assignment = self.assignment().map_err(failed("choosing where to begin"))?;
        client.assign(&assignment).map_err(failed("assigning partitions"))
    }

    fn partitions(&self, client: &ReadingClient) -> Result<Vec<i32>, KafkaError> {
        let passes =
            |error: &KafkaError| errors::code(error).is_none_or(|code| errors::classify(code) == ErrorClass::Wait);
        ask_until(Instant::now() + PARTITIONS_PATIENCE, RETRY_PAUSE, passes, |patience| {
            let metadata = client.fetch_metadata(Some(&self.topic), patience)?;
            let found = metadata.topics().iter().find(|found| found.name() == self.topic);
            match found.and_then(|found| found.error()) {
                Some(error) => Err(KafkaError::MetadataFetch(error.into())),
                None => {
                    let mut partitions: Vec<i32> =
                        found.into_iter().flat_map(|found| found.partitions()).map(|found| found.id()).collect();
                    partitions.sort_unstable();
                    Ok(partitions)
                }
            }
        })
    }

    /// How far a partition reaches for consumers with `read_committed`.
    fn end_of(&self, client: &ReadingClient, partition: i32) -> Result<i64, ConsumerError> {
        let reach = |patience| client.fetch_watermarks(&self.topic, partition, patience);
        ask("asking how far a partition reaches", reach).map(|(_, end)| end)
    }

    fn assignment(&self) -> Result<TopicPartitionList, KafkaError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, position) in &self.positions {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(*position))?;
        }
        Ok(assignment)
    }
}

/// A topic that does not exist has no partitions.
fn none_if_missing(error: KafkaError) -> Result<Vec<i32>, KafkaError> {
    match errors::code(&error).map(errors::classify) {
        Some(ErrorClass::Hold(HoldCause::MissingTopic)) => Ok(Vec::new()),
        _ => Err(error),
    }
}

/// Whether nothing can be heard until something is changed. Outages pass by themselves, in the same client.
fn is_deafening(error: &KafkaError) -> bool {
    let class = errors::code(error).map(errors::classify);
    matches!(class, Some(ErrorClass::Hold(HoldCause::NotAuthorised) | ErrorClass::Fatal))
}

/// The last header of its name, as consumers read it.
fn event_id(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    let headers = message.headers()?;
    let value = headers.iter().filter(|header| header.key == EVENT_ID).last()?.value?;
    Uuid::try_parse_ascii(value).ok()
}
