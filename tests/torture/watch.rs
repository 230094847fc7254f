//! Consumers of a round's topics.

use std::collections::{HashMap, HashSet};
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
    /// What operators had sent again; not looked at where the numbers of operations come again.
    replays: Option<Replays>,
}

/// Records that were sent again.
#[derive(Default)]
struct Replays {
    /// By topic and the number of the operation.
    auditors: HashMap<(String, String), Auditor>,
    /// How many of them came before their row was sent at all.
    too_early: u64,
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
        let replays = taken_back.is_none().then(Replays::default);
        if let Some(TakenBack { shared, all, .. }) = taken_back {
            auditor.taken_back(shared, all);
        }
        Self { readers: topics.iter().map(reader).collect(), auditor, replays }
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
                reader.read(&mut self.auditor, self.replays.as_mut()).await;
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

    /// What is wrong with what was sent again: rows that never committed, that had not been sent, or that were sent
    /// after a later one of their lane by the same operation.
    pub(crate) fn judge_replays(&self, ledger: &Ledger) -> Vec<String> {
        let Some(Replays { auditors, too_early }) = &self.replays else { return Vec::new() };
        let judged = |((_, operation), auditor): (&(String, String), &Auditor)| {
            let complaints = auditor.judge_replay(ledger).into_iter();
            complaints.map(|complaint| format!("operation {operation}: {complaint}")).collect::<Vec<_>>()
        };
        let early = (*too_early > 0).then(|| format!("{too_early} rows were sent again before they were sent"));
        auditors.iter().flat_map(judged).chain(early).collect()
    }

    /// All that was seen, but for what was sent again.
    pub(crate) fn into_auditor(self) -> Auditor {
        self.auditor
    }
}

impl Reader {
    /// Reads what is there. Probes and other strangers are passed over.
    async fn read(&mut self, auditor: &mut Auditor, mut replays: Option<&mut Replays>) {
        let mut glance = Instant::now() + GLANCE;
        while Instant::now() < glance {
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    self.ended.remove(&rdkafka::Message::partition(&record));
                    if header(&record, "outbox-source").is_some() {
                        auditor.see(&record);
                    }
                    if let (Some(replays), Some(operation)) = (&mut replays, header(&record, "outbox-replay")) {
                        replays.too_early += u64::from(!auditor.knows(&record));
                        let replay = (rdkafka::Message::topic(&record).to_owned(), operation.to_owned());
                        replays.auditors.entry(replay).or_insert_with(Auditor::of_first_occurrences).see_any(&record);
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
