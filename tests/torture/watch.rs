//! Consumers of a round's topics.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use tokio::time::{Instant, sleep};

use crate::support::audit::{Auditor, GivenUp};
use crate::support::kafka::{Topic, header};
use crate::support::ledger::Ledger;
use crate::torture::history::TakenBack;

/// How long a topic without news is looked at before the next one.
const GLANCE: Duration = Duration::from_millis(20);

/// Reads topics from their beginning, and audits what it sees.
pub(crate) struct Watch {
    readers: Vec<Reader>,
    auditor: Auditor,
}

/// A consumer of one topic: where a partition ends it says by the partition's number alone.
struct Reader {
    consumer: BaseConsumer,
    partitions: usize,
    /// Partitions that were read to the end that they had then.
    ended: HashSet<i32>,
}

impl Watch {
    /// Begins before the first record of these topics, and minds what commits after `before`, but not what a database
    /// that was taken back forgot.
    pub(crate) fn begin(topics: &[&Topic], before: Ledger, taken_back: Option<TakenBack>) -> Self {
        let reader = |topic: &&Topic| Reader {
            consumer: topic.at_the_beginning(),
            partitions: topic.partitions() as usize,
            ended: HashSet::new(),
        };
        let mut auditor = Auditor::of_first_occurrences();
        auditor.begin_after(before);
        if let Some(TakenBack { shared, all, .. }) = taken_back {
            auditor.taken_back(shared, all);
        }
        Self { readers: topics.iter().map(reader).collect(), auditor }
    }

    /// Reads until every committed row was seen, apart from those given up, and every partition was read to its end.
    /// Says whether it came to that in time.
    pub(crate) async fn until_all(
        &mut self,
        ledger: &Ledger,
        topics: &[&str],
        given_up: impl AsyncFn() -> GivenUp,
        patience: Duration,
    ) -> bool {
        let end = Instant::now() + patience;
        loop {
            for reader in &mut self.readers {
                reader.read(&mut self.auditor).await;
            }
            let is_at_end = self.readers.iter().all(|reader| reader.ended.len() == reader.partitions);
            if is_at_end && self.auditor.has_all(ledger, topics, &given_up().await) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
        }
    }

    /// All that was seen.
    pub(crate) fn into_auditor(self) -> Auditor {
        self.auditor
    }
}

impl Reader {
    /// Reads what is there. Probes and other strangers are passed over.
    async fn read(&mut self, auditor: &mut Auditor) {
        let mut glance = Instant::now() + GLANCE;
        while Instant::now() < glance {
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    self.ended.remove(&rdkafka::Message::partition(&record));
                    if header(&record, "outbox-source").is_some() {
                        auditor.see(&record);
                    }
                    glance = Instant::now() + GLANCE;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(self.ended.insert(partition)),
                // A broker that is away, or a leader that moved.
                Some(Err(_)) => {}
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    }
}
