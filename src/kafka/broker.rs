//! The client's own mock broker, in this process: for the demo and for tests.
//!
//! It keeps records and their order, can be taken down, and can be told to answer with errors. It does not check
//! sequence numbers, does not fence, and does not isolate what a transaction aborted.

use std::sync::mpsc;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

type Cluster = MockCluster<'static, DefaultProducerContext>;
type Order = Box<dyn FnOnce(&Cluster) + Send>;

/// Why the in-process broker could not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("the in-process broker failed while {doing}")]
pub struct BrokerError {
    doing: &'static str,
    #[source]
    source: KafkaError,
}

/// An in-process broker. It ends when it is dropped.
///
/// The client's mock cluster is bound to a thread; this handle can be passed around.
pub struct Broker {
    orders: mpsc::Sender<Order>,
    bootstrap: String,
}

impl Broker {
    /// Starts so many brokers on free ports of the loopback interface.
    ///
    /// # Errors
    /// When the client cannot start them.
    pub fn start(brokers: i32) -> Result<Self, BrokerError> {
        let (orders, received) = mpsc::channel::<Order>();
        let (started, start) = mpsc::channel();
        std::thread::spawn(move || {
            let cluster = match MockCluster::new(brokers) {
                Ok(cluster) => cluster,
                Err(source) => {
                    let _ = started.send(Err(source));
                    return;
                }
            };
            let _ = started.send(Ok(cluster.bootstrap_servers()));
            for order in received {
                order(&cluster);
            }
        });
        let doing = "starting";
        let bootstrap = start.recv().unwrap_or(Err(KafkaError::Canceled));
        Ok(Self { orders, bootstrap: bootstrap.map_err(|source| BrokerError { doing, source })? })
    }

    /// Where clients begin: a value for `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic on one broker.
    ///
    /// # Errors
    /// When it exists already.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), BrokerError> {
        let topic = topic.to_owned();
        self.order("creating a topic", move |cluster| cluster.create_topic(&topic, partitions, 1))
    }

    /// Closes all connections of all brokers and accepts none, until [`up`](Self::up).
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn down(&self) -> Result<(), BrokerError> {
        self.order("going down", |cluster| cluster.broker_down(-1))
    }

    /// Accepts connections again.
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn up(&self) -> Result<(), BrokerError> {
        self.order("coming up", |cluster| cluster.broker_up(-1))
    }

    /// As [`down`](Self::down), of one broker, numbered from 1. It goes on leading its partitions.
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn down_one(&self, broker: i32) -> Result<(), BrokerError> {
        self.order("going down", move |cluster| cluster.broker_down(broker))
    }

    /// As [`up`](Self::up), of one broker.
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn up_one(&self, broker: i32) -> Result<(), BrokerError> {
        self.order("coming up", move |cluster| cluster.broker_up(broker))
    }

    /// Lets a broker, numbered from 1, lead a partition.
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn lead(&self, topic: &str, partition: i32, broker: i32) -> Result<(), BrokerError> {
        let topic = topic.to_owned();
        self.order("moving a leader", move |cluster| cluster.partition_leader(&topic, partition, Some(broker)))
    }

    /// Lets every answer take this long.
    ///
    /// # Errors
    /// When the client does not obey.
    pub fn delay(&self, round_trip: std::time::Duration) -> Result<(), BrokerError> {
        self.order("slowing down", move |cluster| cluster.broker_round_trip_time(-1, round_trip))
    }

    /// Answers the next requests to append records with these errors of the Kafka protocol, by their numbers.
    ///
    /// # Errors
    /// When the client does not know a number.
    pub fn refuse_appends(&self, errors: &[i32]) -> Result<(), BrokerError> {
        let errors: Vec<RDKafkaRespErr> =
            errors.iter().filter_map(|error| RDKafkaRespErr::try_from(*error).ok()).collect();
        self.order("preparing errors", move |cluster| {
            cluster.request_errors(RDKafkaApiKey::Produce, &errors);
            Ok(())
        })
    }

    fn order(
        &self,
        doing: &'static str,
        act: impl FnOnce(&Cluster) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), BrokerError> {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |cluster| {
            let _ = answer.send(act(cluster));
        });
        let sent = self.orders.send(order).map_err(|_ended| KafkaError::Canceled);
        let done = sent.and_then(|()| answered.recv().unwrap_or(Err(KafkaError::Canceled)));
        done.map_err(|source| BrokerError { doing, source })
    }
}
