//! Apache Kafka as the tests see it: topics of their own, and what those hold.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, sleep};

use crate::support::database::aside;
use crate::support::wait;

/// How long one question to the broker may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A topic of the test's own, deleted with this value unless the test failed.
pub(crate) struct Topic {
    brokers: String,
    name: String,
    partitions: i32,
    replicas: i32,
}

impl Topic {
    /// Creates a topic and waits until the broker knows it.
    pub(crate) async fn create(brokers: &str, partitions: i32) -> Self {
        let topic = Self::missing(brokers, partitions);
        topic.appear().await;
        topic
    }

    /// Creates a topic that so many brokers keep.
    pub(crate) async fn create_replicated(brokers: &str, partitions: i32, replicas: i32) -> Self {
        let topic = Self::missing_replicated(brokers, partitions, replicas);
        topic.appear().await;
        topic
    }

    /// Thinks of a topic that does not exist yet, and will be kept by so many brokers.
    pub(crate) fn missing_replicated(brokers: &str, partitions: i32, replicas: i32) -> Self {
        let mut topic = Self::missing(brokers, partitions);
        topic.replicas = replicas;
        topic
    }

    /// Creates a topic whose records bear the time at which the broker appended them.
    pub(crate) async fn create_stamped(brokers: &str, partitions: i32) -> Self {
        Self::create_with(brokers, partitions, "message.timestamp.type", "LogAppendTime").await
    }

    /// Creates a topic with a property of its own.
    pub(crate) async fn create_with(brokers: &str, partitions: i32, property: &str, value: &str) -> Self {
        let topic = Self::missing(brokers, partitions);
        topic.make(&[(property, value)]).await;
        topic
    }

    /// Changes one of its properties. The broker that is asked may be about to stop: then another one is.
    pub(crate) async fn set(&self, property: &str, value: &str) {
        wait::until("a broker changes the topic", wait::PATIENCE, async || {
            let change = AlterConfig::new(ResourceSpecifier::Topic(&self.name)).set(property, value);
            match admin(&self.brokers).alter_configs(&[change], &AdminOptions::new()).await {
                Err(KafkaError::AdminOp(RDKafkaErrorCode::BrokerTransportFailure)) => None,
                answered => {
                    answered.expect("the broker answers")[0].as_ref().expect("the broker changes the topic");
                    Some(())
                }
            }
        })
        .await;
    }

    /// Thinks of a topic of this name that does not exist yet.
    pub(crate) fn missing_named(brokers: &str, name: String, partitions: i32) -> Self {
        Self { brokers: brokers.to_owned(), name, partitions, replicas: 1 }
    }

    /// Thinks of a topic that does not exist yet.
    pub(crate) fn missing(brokers: &str, partitions: i32) -> Self {
        Self::missing_named(brokers, format!("outboxd.test.{:016x}", rand::random::<u64>()), partitions)
    }

    /// Creates the topic thought of.
    pub(crate) async fn appear(&self) {
        self.make(&[]).await;
    }

    /// Creates it with these properties and waits until the broker knows it.
    pub(crate) async fn make(&self, properties: &[(&str, &str)]) {
        let mut new = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(self.replicas));
        for (property, value) in properties {
            new = new.set(property, value);
        }
        let created = admin(&self.brokers).create_topics(&[new], &AdminOptions::new()).await;
        created.expect("the broker answers")[0].as_ref().expect("the broker creates the topic");
        wait::until_true("the new topic has leaders", wait::PATIENCE, async || self.exists()).await;
    }

    /// Deletes it. Brokers hear of that one after the other.
    pub(crate) async fn disappear(&self) {
        let deleted = admin(&self.brokers).delete_topics(&[&self.name], &AdminOptions::new()).await;
        deleted.expect("the broker answers")[0].as_ref().expect("the broker deletes the topic");
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its number of partitions.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions
    }

    /// Which broker leads each partition; -1 where none does.
    pub(crate) fn leaders(&self) -> Result<Vec<i32>, KafkaError> {
        let metadata = consumer(&self.brokers).fetch_metadata(None, ANSWER_WITHIN)?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.name);
        Ok(found.map_or(Vec::new(), |topic| topic.partitions().iter().map(|partition| partition.leader()).collect()))
    }

    /// Whether the broker has it, with a leader for each partition. Asks for all topics, so that asking does
    /// not create it.
    pub(crate) fn exists(&self) -> bool {
        let metadata = consumer(&self.brokers).fetch_metadata(None, ANSWER_WITHIN).expect("the broker answers");
        let found = metadata.topics().iter().find(|topic| topic.name() == self.name);
        found.is_some_and(|topic| {
            let led = topic.partitions().iter().filter(|partition| partition.leader() >= 0);
            led.count() == self.partitions as usize
        })
    }

    /// How many records it holds. Nothing is ever removed from a test's topic.
    pub(crate) fn count(&self) -> Result<u64, KafkaError> {
        let consumer = consumer(&self.brokers);
        let ends = (0..self.partitions).map(|partition| {
            consumer.fetch_watermarks(&self.name, partition, ANSWER_WITHIN).map(|(low, high)| (high - low) as u64)
        });
        ends.sum()
    }

    /// Waits until it holds at least so many records; in vain once it has not grown for [`wait::PATIENCE`]. A
    /// broker that is away is waited for as well.
    pub(crate) async fn holds(&self, records: u64) {
        let mut most = 0;
        let mut grown = Instant::now();
        loop {
            let found = self.count();
            let now = *found.as_ref().unwrap_or(&0);
            if now >= records {
                return;
            }
            if now > most {
                (most, grown) = (now, Instant::now());
            }
            let patient = grown.elapsed() < wait::PATIENCE;
            assert!(patient, "{} holds {found:?} of {records} records, and no more come", self.name);
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until just so many records can be read. Offsets, by which [`holds`](Self::holds) counts, count the ends of
    /// transactions too.
    pub(crate) async fn shows(&self, records: u64) {
        wait::until_true("every record has come once", wait::PATIENCE, async || {
            let mut seen = 0;
            self.read(|_| seen += 1).await;
            seen == records
        })
        .await;
    }

    /// Shows every record that it holds now and that is not undone, each partition in the order of its offsets.
    pub(crate) async fn read(&self, mut show: impl FnMut(&BorrowedMessage<'_>)) {
        transactions_ended(&self.brokers, &self.name, self.partitions).await;
        let consumer = self.at_the_beginning();
        let mut left: HashSet<i32> = (0..self.partitions).collect();
        let mut end = Instant::now() + wait::PATIENCE;
        while !left.is_empty() {
            match consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    show(&record);
                    end = Instant::now() + wait::PATIENCE;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(left.remove(&partition)),
                Some(Err(error)) => eprintln!("reading {}: {error}", self.name),
                None => sleep(Duration::from_millis(5)).await,
            }
            assert!(Instant::now() < end, "partitions {left:?} of {} do not come to an end", self.name);
        }
    }

    /// Begins to follow it from its first record on.
    pub(crate) fn follow(&self) -> Tail {
        Tail { consumer: self.at_the_beginning(), seen: Vec::new() }
    }

    /// A consumer of all its partitions, before their first records.
    pub(crate) fn at_the_beginning(&self) -> BaseConsumer {
        let consumer = consumer(&self.brokers);
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition_offset(&self.name, partition, Offset::Beginning).expect("an offset that exists");
        }
        consumer.assign(&list).expect("an assignment");
        consumer
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return eprintln!("topic {} is left for a look", self.name);
        }
        let (brokers, name) = (self.brokers.clone(), self.name.clone());
        aside(async move {
            let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
            let _gone_with_its_broker = admin(&brokers).delete_topics(&[&name], &options).await;
        });
    }
}

/// A consumer that remembers what it has seen.
pub(crate) struct Tail {
    consumer: BaseConsumer,
    seen: Vec<OwnedMessage>,
}

impl Tail {
    /// Reads on until what was seen satisfies the condition, and shows all that was seen.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        holds: impl Fn(&[OwnedMessage]) -> bool,
    ) -> &[OwnedMessage] {
        let end = Instant::now() + deadline;
        while !holds(&self.seen) {
            let seen: Vec<_> = self.seen.iter().map(text).collect();
            assert!(Instant::now() < end, "waited {deadline:?} in vain until {what}; seen: {seen:?}");
            self.take().await;
        }
        &self.seen
    }

    /// Reads on until so many records were seen.
    pub(crate) async fn records(&mut self, count: usize) -> &[OwnedMessage] {
        self.until(&format!("{count} records arrive"), wait::PATIENCE, |seen| seen.len() >= count).await
    }

    /// Takes what is there, or waits a moment.
    pub(crate) async fn take(&mut self) {
        match self.consumer.poll(Duration::ZERO) {
            Some(Ok(record)) => self.seen.push(record.detach()),
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => eprintln!("following a topic: {error}"),
            None => sleep(Duration::from_millis(5)).await,
        }
    }

    /// The payloads seen so far.
    pub(crate) fn payloads(&self) -> Vec<String> {
        self.seen.iter().map(text).collect()
    }
}

/// A record's payload as text.
pub(crate) fn text(record: &impl Message) -> String {
    record.payload().map_or("(tombstone)".to_owned(), |payload| String::from_utf8_lossy(payload).into_owned())
}

/// The value of a header.
pub(crate) fn header<'a>(record: &'a impl Message, name: &str) -> Option<&'a str> {
    let headers = record.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

/// Waits until no transaction is open in a topic: what was committed is shown only once the broker has written that down
/// everywhere, which is after it answered.
pub(crate) async fn transactions_ended(brokers: &str, topic: &str, partitions: i32) {
    let shown = consumer(brokers);
    let all = consumer_that_reads(brokers, "read_uncommitted");
    wait::until_true("all transactions have ended", wait::PATIENCE, async || {
        let end_of = |consumer: &BaseConsumer, partition| {
            let marks = consumer.fetch_watermarks(topic, partition, ANSWER_WITHIN);
            marks.expect("the broker answers").1
        };
        (0..partitions).all(|partition| end_of(&shown, partition) == end_of(&all, partition))
    })
    .await;
}

fn consumer(brokers: &str) -> BaseConsumer {
    consumer_that_reads(brokers, "read_committed")
}

/// A consumer that commits nothing and says where a partition ends for now.
fn consumer_that_reads(brokers: &str, isolation: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "outboxd-test").set("enable.auto.commit", "false");
    config.set("allow.auto.create.topics", "false").set("log_level", "3").set("enable.partition.eof", "true");
    // A broker that has nothing new says so after this many milliseconds: tests wait for the end.
    config.set("fetch.wait.max.ms", "50");
    config.set("isolation.level", isolation).create().expect("a consumer can be set up")
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client can be set up")
}
