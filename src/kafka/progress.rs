//! What an exactly-once sink remembers at the broker: how far it is, in one record of a compacted topic, written in
//! the same transactions as the records it tells of.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::contract::SinkError;
use crate::kafka::ask::{Answer, Asker};
use crate::kafka::client_log::ClientLog;
use crate::kafka::config::ProgressTopic;
use crate::kafka::consumer::{Isolation, reading};
use crate::kafka::partition;
use crate::kafka::sink::unavailable;
use crate::outbox::{HoldCause, Position, Progress, Record, Settlement, Term};

/// Rows that are named one by one at most: what fits into a topic's usual `max.message.bytes`.
const ROWS: usize = 16_000;

/// The version of what is written.
const VERSION: u32 = 1;

/// Partitions of the topic when the sink creates it: outboxes that share it seldom wait for each other's transactions.
const PARTITIONS: i32 = 16;

/// How long reading may take before the relay tries again.
const PATIENCE: Duration = Duration::from_secs(60);

const RECALLING: &str = "reading what was published";

/// How long one question to the broker may take.
const ANSWER: Duration = Duration::from_secs(5);

/// How often a question is asked again whose answer is about to change.
const GLANCE: Duration = Duration::from_millis(20);

/// Offsets before the end where reading begins, at first. Then it begins ever further back.
const BACK: i64 = 1_000;

/// What is remembered, and what is about to be.
#[derive(Debug)]
pub(crate) struct Memory {
    topic: String,
    partition: i32,
    key: String,
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
    position: Option<String>,
    beyond: Vec<(i64, Uuid)>,
}

impl Memory {
    /// Reads what is remembered of the outbox. The producer must be initialised: what earlier ones left open is settled
    /// then.
    ///
    /// # Errors
    /// When it cannot be read now.
    pub(crate) async fn recall(seeker: Seeker, term: Term) -> Result<Self, SinkError> {
        let (topic, partition, key) = (seeker.topic.clone(), seeker.partition, seeker.key.clone());
        let sought = aside(move || Ok((seeker.seek()?, seeker))).await;
        let (written, seeker) = sought.map_err(|error| unavailable(RECALLING, error))?;
        // Its clients take a fifth of a second to end.
        std::thread::spawn(move || drop(seeker));
        let found = written.map(|written| read(&written, &topic)).transpose()?;
        let committed = found.as_ref().map_or_else(State::default, |found| State {
            position: found.position.clone(),
            beyond: found.beyond.clone(),
        });
        Ok(Self { topic, partition, key, term, committed, pending: VecDeque::new(), is_stuck: false, found })
    }

    /// What was found when it was read.
    pub(crate) fn found(&self) -> Option<&Progress> {
        self.found.as_ref()
    }

    /// Begins anew with what is committed: the relay knows of every record that is outstanding.
    pub(crate) fn begin_anew(&mut self, term: Term) {
        (self.term, self.is_stuck) = (term, false);
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
        if next.beyond.len() > ROWS {
            let said = format!("{} rows are published out of line; they are to be settled first", next.beyond.len());
            return Err(unavailable("remembering what is published", said));
        }
        Ok(Step { payload: write(&next, self.term), next })
    }

    /// Notes that a transaction is under way that takes this step; returns the payload for [`encode`](Self::encode).
    pub(crate) fn take(&mut self, step: Step) -> Vec<u8> {
        self.pending.push_back(step.next);
        step.payload
    }

    /// The record with this payload, in the client's terms.
    pub(crate) fn encode<'a>(&'a self, payload: &'a [u8], ticket: usize) -> BaseRecord<'a, str, [u8], usize> {
        BaseRecord {
            topic: &self.topic,
            partition: Some(self.partition),
            payload: Some(payload),
            key: Some(&self.key),
            timestamp: None,
            headers: None,
            delivery_opaque: ticket,
        }
    }
}

fn write(state: &State, term: Term) -> Vec<u8> {
    let rows = state.beyond.ids().iter().copied().zip(state.beyond.event_ids().iter().copied());
    let position = state.position.as_ref().map(|position| position.as_str().to_owned());
    let written = Written { version: VERSION, term: term.0, position, beyond: rows.collect() };
    serde_json::to_vec(&written).expect("numbers and text can be written as JSON")
}

/// Runs what blocks on a thread of its own: the runtime would wait for its threads to end.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    let (answer, told) = oneshot::channel();
    std::thread::spawn(move || answer.send(work()));
    told.await.unwrap_or(Err(KafkaError::Canceled))
}

fn read(payload: &[u8], topic: &str) -> Result<Progress, SinkError> {
    let problem = match serde_json::from_slice::<Written>(payload) {
        Ok(written) if written.version == VERSION => {
            let mut beyond = Settlement::with_capacity(written.beyond.len());
            written.beyond.into_iter().for_each(|(id, event_id)| beyond.push_row(id, event_id));
            return Ok(Progress { position: written.position.map(Position::new), beyond, term: Term(written.term) });
        }
        Ok(written) => format!("version {} of it", written.version),
        Err(error) => error.to_string(),
    };
    Err(SinkError::Unusable {
        problem: format!("what topic {topic} says of this outbox's progress cannot be read: {problem}"),
        repair: "run the version of outboxd that wrote it, or name another relay.progress_topic".to_owned(),
        source: None,
    })
}

/// The topic's number of partitions, once it is there and as it must be.
async fn partitions_of(asker: &Asker, topic: &ProgressTopic) -> Result<i32, SinkError> {
    let doing = "asking for the topic of the progress";
    let mut answer = asker.look(&topic.name).await.map_err(|error| unavailable(doing, error))?;
    if answer == Answer::Held(HoldCause::MissingTopic) {
        let new = NewTopic::new(&topic.name, PARTITIONS, TopicReplication::Fixed(topic.replication));
        let new = new.set("cleanup.policy", "compact").set("min.cleanable.dirty.ratio", "0.1");
        asker.admin.create(&new).await.map_err(|error| unavailable("creating the topic of the progress", error))?;
        answer = asker.look_again(&topic.name).await.map_err(|error| unavailable(doing, error))?;
    }
    let name = &topic.name;
    let (problem, repair) = match answer {
        Answer::Known { partitions, terms } if terms.compacted != Some(false) => return Ok(partitions),
        Answer::Known { .. } => (
            format!("topic {name}, which is to hold the progress, forgets it after a while"),
            format!("set cleanup.policy=compact on {name}, or name another relay.progress_topic"),
        ),
        Answer::Held(HoldCause::MissingTopic) => (
            format!("topic {name}, which is to hold the progress, is missing and cannot be created"),
            format!("create {name} with cleanup.policy=compact, or let the relay do so"),
        ),
        Answer::Held(_) => (
            format!("topic {name}, which is to hold the progress, may not be written"),
            format!("let the relay read and write {name}"),
        ),
        Answer::Impossible => {
            (format!("{name:?} cannot name a topic"), "give relay.progress_topic another name".to_owned())
        }
    };
    Err(SinkError::Unusable { problem, repair, source: None })
}

/// Finds the last committed record of a key in its partition, with clients that are connected already: that takes half
/// a second, which a takeover has while it waits to be let in.
pub(crate) struct Seeker {
    topic: String,
    partition: i32,
    key: String,
    committed: BaseConsumer<ClientLog>,
    uncommitted: BaseConsumer<ClientLog>,
}

impl Seeker {
    /// Connects to the topic, creating it if it is missing. `source` is the outbox's name.
    ///
    /// # Errors
    /// When the topic is not what is needed, or cannot be read now.
    pub(crate) async fn connect(
        asker: Asker,
        topic: ProgressTopic,
        source: String,
        properties: BTreeMap<String, String>,
    ) -> Result<Self, SinkError> {
        let partitions = partitions_of(&asker, &topic).await?;
        let partition = partition::of_key(source.as_bytes(), partitions);
        let connecting = aside(move || {
            let [committed, uncommitted] = [Isolation::ReadCommitted, Isolation::ReadUncommitted]
                .map(|isolation| consumer(&properties, isolation));
            let (committed, uncommitted) = (committed?, uncommitted?);
            let seeker = Self { topic: topic.name, partition, key: source, committed, uncommitted };
            let deadline = Instant::now() + PATIENCE;
            std::thread::scope(|scope| {
                let other = scope.spawn(|| seeker.watermarks(&seeker.committed, deadline));
                seeker.watermarks(&seeker.uncommitted, deadline)?;
                other.join().unwrap_or(Err(KafkaError::Canceled))
            })?;
            Ok(seeker)
        });
        connecting.await.map_err(|error| unavailable(RECALLING, error))
    }

    /// The payload of the last committed record. Blocks.
    fn seek(&self) -> Result<Option<Vec<u8>>, KafkaError> {
        let deadline = Instant::now() + PATIENCE;
        let (low, end) = self.watermarks(&self.uncommitted, deadline)?;
        // Other outboxes share the partition: what was committed after the beginning of a transaction of theirs that is
        // still open is not shown yet.
        while self.watermarks(&self.committed, deadline)?.1 < end {
            wait_or_give_up(deadline)?;
            std::thread::sleep(GLANCE);
        }
        let mut back = BACK;
        loop {
            let start = (end - back).max(low);
            let found = self.last_from(start, deadline)?;
            if found.is_some() || start == low {
                return Ok(found);
            }
            back *= 16;
        }
    }

    /// The first offset and the one after the last that is shown. A topic that was just created has no leader yet.
    fn watermarks(&self, consumer: &BaseConsumer<ClientLog>, deadline: Instant) -> Result<(i64, i64), KafkaError> {
        use RDKafkaErrorCode as Code;
        loop {
            match consumer.fetch_watermarks(&self.topic, self.partition, ANSWER) {
                Err(KafkaError::MetadataFetch(
                    Code::NotLeaderForPartition
                    | Code::LeaderNotAvailable
                    | Code::UnknownPartition
                    | Code::UnknownTopicOrPartition,
                )) if Instant::now() < deadline => std::thread::sleep(GLANCE),
                answer => return answer,
            }
        }
    }

    /// The last record of the key from this offset on.
    fn last_from(&self, start: i64, deadline: Instant) -> Result<Option<Vec<u8>>, KafkaError> {
        let consumer = &self.committed;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, self.partition, Offset::Offset(start))?;
        consumer.assign(&assignment)?;
        let mut last = None;
        loop {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.key() == Some(self.key.as_bytes()) => {
                    last = message.payload().map(<[u8]>::to_vec);
                }
                Some(Ok(_)) | None => {}
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(error),
                Some(Err(error)) => tracing::debug!(error = %error, "reading goes on"),
            }
            wait_or_give_up(deadline)?;
        }
    }
}

fn consumer(
    properties: &BTreeMap<String, String>,
    isolation: Isolation,
) -> Result<BaseConsumer<ClientLog>, KafkaError> {
    let mut config = reading(properties, isolation);
    // What was there a moment ago may be compacted away.
    config.set("auto.offset.reset", "earliest");
    config.create_with_context(ClientLog::default())
}

fn wait_or_give_up(deadline: Instant) -> Result<(), KafkaError> {
    if Instant::now() < deadline { Ok(()) } else { Err(KafkaError::Canceled) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let committed = State { position: Some(Position::new("5:9")), beyond: Settlement::default() };
        let (topic, key) = ("p".to_owned(), "shop".to_owned());
        let pending = VecDeque::new();
        Memory { topic, partition: 0, key, term: Term(3), committed, pending, is_stuck: false, found: None }
    }

    /// Begins a transaction.
    fn begin(memory: &mut Memory, ids: std::ops::Range<i64>, position: Option<&str>) -> Progress {
        let records: Vec<Record> = ids.map(record).collect();
        let step = memory.after(records.iter(), position.map(Position::new).as_ref()).expect("few rows");
        read(&memory.take(step), "progress").expect("what was written can be read")
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

    fn after(memory: &mut Memory, ids: std::ops::Range<i64>, position: Option<&str>) -> Progress {
        let progress = begin(memory, ids, position);
        memory.commit(1);
        progress
    }

    #[test]
    fn a_whole_submission_moves_the_position_and_forgets_the_rows_before_it() {
        let mut memory = memory();
        assert_eq!(after(&mut memory, 1..3, None).beyond.ids(), [1, 2]);
        let progress = after(&mut memory, 3..5, None);
        assert_eq!((progress.position, progress.term), (Some(Position::new("5:9")), Term(3)));
        assert_eq!(progress.beyond.ids(), [1, 2, 3, 4]);
        assert_eq!(progress.beyond.event_ids()[3], Uuid::from_u128(4));
        let progress = after(&mut memory, 5..7, Some("9:9"));
        assert_eq!((progress.position, progress.beyond.len()), (Some(Position::new("9:9")), 0));
    }

    #[test]
    fn an_outstanding_record_keeps_the_position_until_all_begins_anew() {
        let mut memory = memory();
        memory.stick();
        let progress = after(&mut memory, 1..3, Some("9:9"));
        assert_eq!((progress.position, progress.beyond.ids()), (Some(Position::new("5:9")), &[1, 2][..]));
        memory.begin_anew(Term(4));
        assert_eq!(memory.found().map(|found| found.beyond.len()), Some(2));
        assert_eq!(after(&mut memory, 3..4, Some("9:9")).position, Some(Position::new("9:9")));
    }

    #[test]
    fn a_transaction_that_was_not_committed_is_not_remembered() {
        let mut memory = memory();
        begin(&mut memory, 1..2, None);
        assert_eq!(begin(&mut memory, 2..3, None).beyond.ids(), [1, 2]);
        memory.commit(1);
        memory.undo();
        assert_eq!(after(&mut memory, 3..4, None).beyond.ids(), [1, 3]);
    }

    #[test]
    fn rows_are_named_one_by_one_only_up_to_what_a_record_holds() {
        let memory = memory();
        let most: Vec<Record> = (0..ROWS as i64).map(|id| record(i64::MAX - id)).collect();
        let Step { payload, .. } = memory.after(most.iter(), None).expect("just fits");
        assert!(payload.len() < 1_000_000, "{} bytes", payload.len());
        let more = most.iter().chain([&most[0]]);
        let error = memory.after(more, None).map(drop).expect_err("one row more");
        assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    }

    #[test]
    fn what_another_version_wrote_is_not_taken_for_nothing() {
        for payload in [&b"{\"version\":2,\"term\":1,\"position\":null,\"beyond\":[]}"[..], b"", b"{}"] {
            assert!(matches!(read(payload, "progress"), Err(SinkError::Unusable { .. })));
        }
    }
}
