//! The Kafka wing: publishing to a broker, in order, and losing nothing.
//!
//! How [`Sink`] keeps the promises of [`contract::Sink`](crate::contract::Sink):
//! - *Order*: one idempotent producer with the gapless guarantee at a time; every record goes to an explicit
//!   partition, that of the Java clients; the first record on a partition is acknowledged before another follows.
//!   A record that is not delivered puts an end to its producer, so that nothing of its lane can follow.
//! - *Nothing lost*: records wait for room and for the broker as long as it takes; no attempt is counted.
//! - *No topic by accident*: a record is handed to the client only once its topic is known; a topic that is missing,
//!   or to which writing is not allowed, is held.
//! - *Sizes* are checked before anything is sent, and batches stay below the smallest topic limit in use, since a
//!   broker refuses whole batches.
//!
//! Every record carries the headers `id`, `outbox-id` and `outbox-source` after the application's own, and the row's
//! `created_at` as its timestamp. Does not do: transactions, and telling the one bad record of a batch from the others
//! without sending the batch again, one by one.
//!
//! [`Consumer`] reads topics back, and [`Broker`] is a broker in this process, for the demo and for tests.

mod ask;
mod broker;
mod client_log;
mod config;
mod consumer;
mod delivery;
mod encode;
mod errors;
mod partition;
mod plan;
mod producer;
mod properties;
mod sink;
mod topics;

pub use broker::{Broker, BrokerError};
pub use config::{OnMissingTopic, Settings};
pub use consumer::{Consumed, Consumer, ConsumerError, Isolation, partitions_of, read_to_end};
pub use properties::{Complaint, check_properties};
pub use sink::Sink;
