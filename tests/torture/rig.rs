//! The services of a run: they live through all rounds, and are broken in each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{block_in_place, spawn_blocking};

use crate::support::throwaway::{Kafka, Postgres};
use crate::support::wait::PATIENCE;

/// A database and three brokers of one's own. Faults of one of them wait for each other.
pub(crate) struct Rig {
    pub(crate) postgres: Arc<Mutex<Postgres>>,
    pub(crate) kafka: Arc<Mutex<Kafka>>,
    /// Where the brokers listen.
    pub(crate) brokers: String,
    prepared: AtomicBool,
}

/// Brokers that notice soon that another is gone, and lead again soon after they came back.
const BROKERS: &[&str] = &[
    "broker.session.timeout.ms=2000",
    "broker.heartbeat.interval.ms=500",
    "replica.lag.time.max.ms=3000",
    "leader.imbalance.check.interval.seconds=1",
];

impl Rig {
    /// Starts both.
    pub(crate) fn start() -> Self {
        let (postgres, kafka) = (Postgres::start(), Kafka::start_three(BROKERS));
        let brokers = kafka.brokers().to_owned();
        Self {
            postgres: Arc::new(Mutex::new(postgres)),
            kafka: Arc::new(Mutex::new(kafka)),
            brokers,
            prepared: AtomicBool::new(false),
        }
    }

    /// Whether this is the first call: some settings of the server are made once.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.prepared.swap(true, Ordering::Relaxed)
    }

    /// Removes what the brokers remember of an outbox's progress.
    pub(crate) fn forget_progress(&self, source: &str) {
        let mut config = ClientConfig::new();
        // As outboxd and Java's clients choose a key's partition.
        config.set("bootstrap.servers", &self.brokers).set("partitioner", "murmur2_random").set("acks", "all");
        let producer: BaseProducer = config.create().expect("a producer can be set up");
        let tombstone = BaseRecord::<str, [u8]>::to("outboxd-progress").key(source);
        producer.send(tombstone).map_err(|(error, _)| error).expect("the client takes a record");
        block_in_place(|| producer.flush(PATIENCE)).expect("the brokers take a record");
    }

    /// One broker's address, whichever number.
    pub(crate) fn broker(&self, number: usize) -> &str {
        self.brokers.split(',').nth(number % 3).expect("three brokers")
    }
}

/// Does something to a service that takes long and blocks, while everything else goes on. No other task touches the
/// service meanwhile; the guard comes back for a caller that has more to do to it.
pub(crate) async fn aside<S: Send + 'static>(
    service: OwnedMutexGuard<S>,
    act: impl FnOnce(&S) + Send + 'static,
) -> OwnedMutexGuard<S> {
    aside_for(service, act).await.0
}

/// The same, for what comes of it.
pub(crate) async fn aside_for<S: Send + 'static, T: Send + 'static>(
    service: OwnedMutexGuard<S>,
    act: impl FnOnce(&S) -> T + Send + 'static,
) -> (OwnedMutexGuard<S>, T) {
    let acting = spawn_blocking(move || {
        let came = act(&service);
        (service, came)
    });
    acting.await.expect("a script of the testbed does what it says")
}
