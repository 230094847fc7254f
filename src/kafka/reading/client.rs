//! Clients that read: how they are set up, asked, and told where to begin. Their calls block.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::kafka::background_drop::BackgroundDrop;
use crate::kafka::client_log::ClientLog;
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::properties;

/// How long one question about a topic may take, elections and all.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long to wait before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Which records of transactions are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Only those of committed transactions, and those of none.
    #[default]
    ReadCommitted,
    /// All, aborted ones too.
    ReadUncommitted,
}

impl IsolationLevel {
    /// The client's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            IsolationLevel::ReadCommitted => "read_committed",
            IsolationLevel::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// Why a topic could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// The client or the broker said no.
    #[error("reading from Kafka failed while {doing}")]
    Client {
        /// What was being done.
        doing: &'static str,
        /// What was said.
        #[source]
        source: KafkaError,
    },
    /// The thread that read has panicked, or the runtime is shutting down.
    #[error("reading from Kafka was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

/// A client that reads.
pub(crate) type ReadingClient = BackgroundDrop<BaseConsumer<ClientLog>>;

/// A client of this configuration, which connects by itself, when it can.
///
/// # Errors
/// When the client cannot be created like this.
pub(crate) fn connect(config: &ClientConfig) -> Result<ReadingClient, KafkaError> {
    let client: BaseConsumer<ClientLog> = config.create_with_context(ClientLog::default())?;
    Ok(client.into())
}

/// The configuration of a client that reads what it is told to.
pub(crate) fn config(properties: &BTreeMap<String, String>, isolation: IsolationLevel) -> ClientConfig {
    let mut config = properties::connection_config(properties);
    // No group is joined and nothing is committed; the client wants a name for it all the same.
    config
        .set("group.id", "outboxd-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        // A broker that has nothing new yet answers after this many milliseconds: the end is near then.
        .set("fetch.wait.max.ms", "10")
        // So long does the client wait before it asks for a topic that it meets for the first time.
        .set("topic.metadata.refresh.fast.interval.ms", "10")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", isolation.as_str());
    config
}

/// Where reading begins: at the same place in each of these partitions.
///
/// # Errors
/// When the client does not take it.
pub(crate) fn assignment(
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    start: Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        assignment.add_partition_offset(topic, partition, start)?;
    }
    Ok(assignment)
}

/// What one look for a record came to.
pub(crate) enum Look<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// This partition was read to what is its end by now.
    End(i32),
    /// Nothing came in time, or what kept it from coming passes by itself.
    Nothing,
}

/// Looks for the next record, for so long at most.
///
/// # Errors
/// When the client has failed for good, or what it says will not pass by itself.
pub(crate) fn look(
    client: &ReadingClient,
    wait: Duration,
    lasts: impl Fn(&KafkaError) -> bool,
) -> Result<Look<'_>, KafkaError> {
    match client.poll(wait) {
        Some(Ok(message)) => Ok(Look::Record(message)),
        Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Look::End(partition)),
        Some(Err(error)) if matches!(error, KafkaError::MessageConsumptionFatal(_)) || lasts(&error) => Err(error),
        Some(Err(error)) => {
            tracing::debug!(error = %error, "reading goes on");
            Ok(Look::Nothing)
        }
        None => Ok(Look::Nothing),
    }
}

/// Asks brokers until one answers: a partition may be without a leader for a moment, or the one that is asked may have
/// ceased to lead. The question is told how long it may take.
///
/// # Errors
/// When none does in time, or refuses to.
pub(crate) fn ask<T>(
    doing: &'static str,
    question: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, ConsumerError> {
    let passes = |error: &KafkaError| errors::code(error).is_none_or(|code| errors::classify(code) == ErrorClass::Wait);
    ask_until(Instant::now() + CONSUMER_TIMEOUT, RETRY_PAUSE, passes, question).map_err(failed(doing))
}

/// Asks until the deadline, with pauses, for as long as what is said instead of an answer passes by itself.
///
/// # Errors
/// What was said last.
pub(crate) fn ask_until<T>(
    deadline: Instant,
    pause: Duration,
    passes: impl Fn(&KafkaError) -> bool,
    question: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    loop {
        match question(deadline.saturating_duration_since(Instant::now())) {
            Err(error) if passes(&error) && Instant::now() + pause < deadline => std::thread::sleep(pause),
            answer => return answer,
        }
    }
}

/// What a failure comes to while this was done.
pub(crate) fn failed(doing: &'static str) -> impl Fn(KafkaError) -> ConsumerError {
    move |source| ConsumerError::Client { doing, source }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    fn asked_in_vain(times: u32, code: Code) -> (Result<(), ConsumerError>, u32) {
        let asked = Cell::new(0);
        let answer = ask("asking", |_| {
            asked.set(asked.get() + 1);
            if asked.get() > times { Ok(()) } else { Err(KafkaError::MetadataFetch(code)) }
        });
        (answer, asked.get())
    }

    #[test]
    fn an_election_is_waited_out_and_a_refusal_is_told_at_once() {
        let (answer, asked) = asked_in_vain(2, Code::NotLeaderForPartition);
        assert!(answer.is_ok() && asked == 3, "{answer:?} after {asked} questions");
        let (answer, asked) = asked_in_vain(2, Code::TopicAuthorizationFailed);
        assert!(answer.is_err() && asked == 1, "{answer:?} after {asked} questions");
    }
}
