//! Finding the progress of an outbox: its last committed record, in whichever partition that is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::Offset;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::contract::SinkError;
use crate::kafka::config::ProgressTopic;
use crate::kafka::errors::{self, ErrorClass, unavailable, unusable};
use crate::kafka::reading::client::{
    IsolationLevel, Look, ReadingClient, ask_until, assignment, config, connect, look,
};
use crate::kafka::topics::admin::new_topic;
use crate::kafka::topics::answer::{Answer, count};
use crate::kafka::topics::lookup::TopicLookup;
use crate::kafka::topics::partition;
use crate::outbox::HoldCause;

/// Partitions of the topic when the sink creates it: outboxes that share it seldom wait for each other's transactions.
const PROGRESS_PARTITIONS: i32 = 16;

/// How long reading may take before the relay tries again.
const SEEK_TIMEOUT: Duration = Duration::from_secs(60);

const RECALLING: &str = "reading what was published";

/// How long one question to the broker may take.
const SEEK_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one look for a record takes at most.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// How often a question is asked again whose answer is about to change.
const SEEK_POLL: Duration = Duration::from_millis(20);

/// Offsets before the end where reading begins, at first. Then it begins ever further back.
const RECORDS_BACK: i64 = 1_000;

/// Where the progress of an outbox is.
#[derive(Debug, Clone)]
pub(crate) struct ProgressLocation {
    pub(crate) topic: String,
    /// The outbox's name.
    pub(crate) key: String,
    /// How many partitions the topic has.
    pub(crate) partitions: i32,
}

impl ProgressLocation {
    /// The partition to which it is written.
    pub(crate) fn partition(&self) -> i32 {
        partition::of_key(self.key.as_bytes(), self.partitions)
    }

    /// The other partitions to which it was written while there were fewer.
    fn former(&self) -> BTreeSet<i32> {
        let with = |partitions| partition::of_key(self.key.as_bytes(), partitions);
        (1..self.partitions).map(with).filter(|former| *former != self.partition()).collect()
    }
}

/// A record of the progress.
#[derive(Debug)]
pub(crate) struct Found {
    /// `None` is a tombstone: it was removed.
    pub(crate) payload: Option<Vec<u8>>,
    /// When it was written, in milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

/// Finds the last committed record of a key, with clients that are connected already: that takes half a second, which a
/// takeover has while it waits to be let in.
pub(crate) struct Seeker {
    place: ProgressLocation,
    committed: ReadingClient,
    uncommitted: ReadingClient,
}

impl Seeker {
    /// Connects to the topic, creating it if it is missing. `source` is the outbox's name.
    ///
    /// # Errors
    /// When the topic is not what is needed, or cannot be read now.
    pub(crate) async fn connect(
        lookup: TopicLookup,
        topic: ProgressTopic,
        source: String,
        properties: BTreeMap<String, String>,
    ) -> Result<Self, SinkError> {
        let partitions = partitions_of(&lookup, &topic).await?;
        let connecting = aside(move || {
            let committed = consumer(&properties, IsolationLevel::ReadCommitted)?;
            let uncommitted = consumer(&properties, IsolationLevel::ReadUncommitted)?;
            let place = ProgressLocation { topic: topic.name, key: source, partitions };
            let seeker = Self { place, committed, uncommitted };
            let partition = seeker.place.partition();
            let deadline = Instant::now() + SEEK_TIMEOUT;
            std::thread::scope(|scope| {
                let other = scope.spawn(|| seeker.watermarks(&seeker.committed, partition, deadline));
                seeker.watermarks(&seeker.uncommitted, partition, deadline)?;
                other.join().unwrap_or(Err(KafkaError::Canceled))
            })?;
            Ok(seeker)
        });
        connecting.await.map_err(|error| unavailable(RECALLING, error))
    }

    /// Where it looks.
    pub(crate) fn place(&self) -> &ProgressLocation {
        &self.place
    }

    /// The last committed record of the partition to which the progress is written now, if that `is_latest`; otherwise
    /// those of all partitions to which it was ever written.
    ///
    /// # Errors
    /// When they cannot be read now.
    pub(crate) async fn seek(
        self,
        is_latest: impl FnOnce(&Found) -> bool + Send + 'static,
    ) -> Result<Vec<Found>, SinkError> {
        let sought = aside(move || {
            let deadline = Instant::now() + SEEK_TIMEOUT;
            let mut found = Vec::from_iter(self.last_of(self.place.partition(), deadline)?);
            if !found.first().is_some_and(is_latest) {
                for partition in self.place.former() {
                    found.extend(self.last_of(partition, deadline)?);
                }
            }
            Ok(found)
        });
        sought.await.map_err(|error| unavailable(RECALLING, error))
    }

    /// The last committed record of the key in a partition. Blocks.
    fn last_of(&self, partition: i32, deadline: Instant) -> Result<Option<Found>, KafkaError> {
        let (low, end) = self.watermarks(&self.uncommitted, partition, deadline)?;
        // Other outboxes share the partition: what was committed after the beginning of a transaction of theirs that is
        // still open is not shown yet.
        while self.watermarks(&self.committed, partition, deadline)?.1 < end {
            wait_or_give_up(deadline)?;
            std::thread::sleep(SEEK_POLL);
        }
        let mut back = RECORDS_BACK;
        loop {
            let start = (end - back).max(low);
            let found = self.last_from(partition, start, deadline)?;
            if found.is_some() || start == low {
                return Ok(found);
            }
            back *= 16;
        }
    }

    /// The first offset and the one after the last that is shown. A topic that was just created has no leader yet.
    fn watermarks(
        &self,
        consumer: &ReadingClient,
        partition: i32,
        deadline: Instant,
    ) -> Result<(i64, i64), KafkaError> {
        ask_until(deadline, SEEK_POLL, has_no_leader, |_left| {
            consumer.fetch_watermarks(&self.place.topic, partition, SEEK_ANSWER_TIMEOUT)
        })
    }

    /// The last record of the key in a partition from this offset on.
    fn last_from(&self, partition: i32, start: i64, deadline: Instant) -> Result<Option<Found>, KafkaError> {
        let consumer = &self.committed;
        consumer.assign(&assignment(&self.place.topic, [partition], Offset::Offset(start))?)?;
        let mut last = None;
        loop {
            match look(consumer, POLL_TIMEOUT, is_refused)? {
                Look::Record(message)
                    if message.partition() == partition && message.key() == Some(self.place.key.as_bytes()) =>
                {
                    let timestamp = message.timestamp().to_millis();
                    last = Some(Found { payload: message.payload().map(<[u8]>::to_vec), timestamp });
                }
                Look::End(ended) if ended == partition => return Ok(last),
                Look::Record(_) | Look::End(_) | Look::Nothing => {}
            }
            wait_or_give_up(deadline)?;
        }
    }
}

/// Whether reading will not go on before an operator allows it.
fn is_refused(error: &KafkaError) -> bool {
    errors::code(error).map(errors::classify) == Some(ErrorClass::Hold(HoldCause::NotAuthorised))
}

/// Whether a partition has no leader yet, as far as the broker that was asked knows.
fn has_no_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error,
        KafkaError::MetadataFetch(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition
        )
    )
}

/// The topic's number of partitions, once it is there and as it must be.
async fn partitions_of(lookup: &TopicLookup, topic: &ProgressTopic) -> Result<i32, SinkError> {
    let doing = "asking for the topic of the progress";
    let mut answer = lookup.look(&topic.name).await.map_err(|error| unavailable(doing, error))?;
    if answer == Answer::Held(HoldCause::MissingTopic) {
        let new = new_topic(&topic.name, PROGRESS_PARTITIONS, topic.replication);
        let new = new.set("cleanup.policy", "compact").set("min.cleanable.dirty.ratio", "0.1");
        answer = lookup.create(new).await.map_err(|error| unavailable("creating the topic of the progress", error))?;
    }
    let name = &topic.name;
    Err(match answer {
        Answer::Known { partitions, limits } if limits.compacted != Some(false) => return Ok(count(&partitions)),
        Answer::Known { .. } => unusable(
            format!("topic {name}, which is to hold the progress, forgets it after a while"),
            format!("set cleanup.policy=compact on {name}, or name another relay.progress_topic"),
        ),
        Answer::Held(HoldCause::MissingTopic) => unusable(
            format!("topic {name}, which is to hold the progress, is missing and cannot be created"),
            format!("create {name} with cleanup.policy=compact, or let the relay do so"),
        ),
        // Rights that were taken may be given back.
        Answer::Held(_) => {
            let said = format!(
                "topic {name}, which is to hold the progress, is not authorised: let the relay read and write it"
            );
            unavailable(doing, said)
        }
        Answer::Impossible => {
            unusable(format!("{name:?} cannot name a topic"), "give relay.progress_topic another name")
        }
    })
}

/// Runs what blocks on a thread of its own: the runtime would wait for its threads to end.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    let (answer, told) = oneshot::channel();
    std::thread::spawn(move || answer.send(work()));
    told.await.unwrap_or(Err(KafkaError::Canceled))
}

fn consumer(properties: &BTreeMap<String, String>, isolation: IsolationLevel) -> Result<ReadingClient, KafkaError> {
    let mut config = config(properties, isolation);
    // What was there a moment ago may be compacted away.
    connect(config.set("auto.offset.reset", "earliest"))
}

fn wait_or_give_up(deadline: Instant) -> Result<(), KafkaError> {
    if Instant::now() < deadline { Ok(()) } else { Err(KafkaError::Canceled) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_knows_every_partition_that_its_key_ever_had() {
        let at = |partitions| ProgressLocation { topic: "p".to_owned(), key: "shop".to_owned(), partitions };
        let now = at(16);
        let had: BTreeSet<i32> = (1..=16).map(|partitions| at(partitions).partition()).collect();
        let known: BTreeSet<i32> = now.former().into_iter().chain([now.partition()]).collect();
        assert_eq!(known, had);
        assert!(at(1).former().is_empty());
    }
}
