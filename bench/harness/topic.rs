//! The other end: topics, and what arrived in them.

use std::collections::HashMap;
use std::mem::replace;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::Fallible;
use crate::rig::Rig;

pub(crate) const PARTITIONS: i32 = 12;

/// How long the broker may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Topics of one measurement, which are deleted with this value.
pub(crate) struct Topics {
    brokers: String,
    names: Vec<String>,
    partitions: i32,
}

/// What a topic holds, read from its beginning.
pub(crate) struct Contents {
    /// Times at which the broker appended records, in milliseconds, in order.
    pub(crate) appended: Vec<i64>,
    pub(crate) distinct: u64,
    /// Records below the highest of their key.
    pub(crate) out_of_order: u64,
}

impl Topics {
    /// Makes one, or so many that are named after it. The broker stamps records when it appends them.
    pub(crate) async fn create(rig: &Rig, name: &str, count: u64) -> Fallible<Self> {
        // Thousands of partitions say nothing about relays.
        let partitions = if count == 1 { PARTITIONS } else { 1 };
        let names: Vec<String> =
            if count == 1 { vec![name.to_owned()] } else { (0..count).map(|n| format!("{name}-{n}")).collect() };
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                NewTopic::new(name, partitions, TopicReplication::Fixed(1))
                    .set("message.timestamp.type", "LogAppendTime")
                    .set("max.message.bytes", "4194304")
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER));
        for result in admin(&rig.brokers)?.create_topics(&topics, &options).await? {
            result.map_err(|(name, code)| format!("{name}: {code}"))?;
        }
        Ok(Self { brokers: rig.brokers.clone(), names, partitions })
    }

    pub(crate) async fn delete(self) -> Fallible<()> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        admin(&self.brokers)?.delete_topics(&names, &AdminOptions::new()).await?;
        Ok(())
    }

    /// Who only asks about topics.
    pub(crate) fn watcher(&self) -> Fallible<BaseConsumer> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.min.bytes", "1")
            .set("isolation.level", "read_committed")
            .create()?)
    }

    /// A consumer of all partitions from their beginning, which is told of a record as soon as it can be read.
    pub(crate) fn consumer(&self) -> Fallible<BaseConsumer> {
        let consumer = self.watcher()?;
        let mut assignment = TopicPartitionList::new();
        for name in &self.names {
            for partition in 0..self.partitions {
                assignment.add_partition_offset(name, partition, Offset::Beginning)?;
            }
        }
        consumer.assign(&assignment)?;
        Ok(consumer)
    }

    /// Offsets that were given out: as many as there are records and ends of transactions.
    pub(crate) fn appended(&self, watcher: &BaseConsumer) -> Fallible<u64> {
        let mut sum = 0;
        for name in &self.names {
            for partition in 0..self.partitions {
                sum += end_of(watcher, name, partition)?.max(0) as u64;
            }
        }
        Ok(sum)
    }

    /// Reads everything: until `rows` different ones were seen and nothing more comes, or nothing has come for long.
    pub(crate) fn read(&self, rows: u64, patience: Duration) -> Fallible<Contents> {
        let consumer = self.consumer()?;
        let mut seen = vec![false; rows as usize + 1];
        let mut highest = HashMap::<Vec<u8>, u64>::new();
        let mut contents = Contents { appended: Vec::with_capacity(rows as usize), distinct: 0, out_of_order: 0 };
        let mut last = Instant::now();
        loop {
            let Some(polled) = consumer.poll(Duration::from_millis(100)) else {
                let quiet = last.elapsed();
                let is_complete = contents.distinct == rows && quiet > Duration::from_secs(1);
                if is_complete || quiet > patience {
                    break;
                }
                continue;
            };
            let record = polled?;
            last = Instant::now();
            let number = number_in(record.payload().unwrap_or_default(), "seq").ok_or("a record without a number")?;
            let number_seen = seen.get_mut(number as usize).ok_or("a record that was never written")?;
            contents.distinct += u64::from(!replace(number_seen, true));
            contents.appended.push(record.timestamp().to_millis().unwrap_or_default());
            let highest = highest.entry(record.key().unwrap_or_default().to_vec()).or_default();
            contents.out_of_order += u64::from(number < *highest);
            *highest = number.max(*highest);
        }
        contents.appended.sort_unstable();
        Ok(contents)
    }
}

/// The end of a partition. One that was just made has no leader yet, or the broker does not know of it.
fn end_of(watcher: &BaseConsumer, topic: &str, partition: i32) -> Fallible<i64> {
    use RDKafkaErrorCode as Code;
    let deadline = Instant::now() + ANSWER;
    loop {
        match watcher.fetch_watermarks(topic, partition, ANSWER) {
            Err(KafkaError::MetadataFetch(
                Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownPartition
                | Code::UnknownTopicOrPartition,
            )) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            answer => return Ok(answer?.1),
        }
    }
}

/// A whole number in a payload, by its name. Contestants may have rewritten the JSON.
pub(crate) fn number_in(payload: &[u8], name: &str) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let after = text.split_once(&format!("\"{name}\":"))?.1.trim_start();
    after[..after.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

fn admin(brokers: &str) -> Fallible<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", brokers).create()?)
}
