//! The Kafka wing: publishing to a broker, in order, and losing nothing.
//!
//! How [`Sink`] keeps the promises of [`contract::Sink`](crate::contract::Sink):
//! - *Order*: one idempotent producer with the gapless guarantee at a time; every record goes to an explicit
//!   partition, that of the Java clients; the first record on a partition is acknowledged before another follows.
//!   A record that is not delivered puts an end to its producer, so that nothing of its lane can follow.
//! - *Nothing lost*: records wait for room and for the broker as long as it takes; no attempt is counted.
//! - *No topic by accident*: a record is handed to the client only once its topic is known; a topic that is missing,
//!   or to which writing is not allowed, is held.
//! - *Fencing*: with [`Delivery::Fenced`](crate::outbox::Delivery) and `ExactlyOnce` every submission is a transaction
//!   of a producer named after the outbox. Opening the sink makes the broker refuse whatever earlier ones still send.
//! - *Exactly once*: each transaction also says how far it is, and opening the sink reads that back.
//! - *One bad record*: what was refused in a batch is sent again alone, its lane after it and for a while the records of
//!   its partition, and all others as ever. What is refused again is known before anything is submitted with it.
//! - *Sizes* are checked before anything is sent, and batches stay below the smallest topic limit in use, since a
//!   broker refuses whole batches.
//!
//! Every record carries the headers `id`, `outbox-id` and `outbox-source` after the application's own, and the row's
//! `created_at` as its timestamp; where its topic does not take that, the time of publishing, and `outbox-created-at`.
//!
//! [`Consumer`] reads topics back, and [`Broker`] is a broker in this process, for the demo and for tests.
//!
//! Where to find what:
//! - `sink` and `delivery/`: what the relay asks for, and the two ways of doing it, plain and in transactions
//! - `producer/`: one producer, from its configuration to the last delivery report
//! - `topics/`: what is known of topics, and asking the broker about them
//! - `quarantine/`: records that may be what the broker refused; with topics and lanes they are the `knowledge`
//! - `progress/`: what exactly-once remembers at the broker
//! - `reading/`: topics read back, for audits and tests; brokers asked from outside

mod background_drop;
mod broker;
mod client_log;
mod config;
mod contact;
mod delivery;
mod errors;
mod knowledge;
#[cfg(feature = "microbench")]
#[doc(hidden)]
pub mod microbench;
mod producer;
mod progress;
mod properties;
mod quarantine;
mod reading;
mod sink;
mod topics;

pub use broker::{Broker, BrokerError};
pub use config::{OnMissingTopic, ProgressTopic, Settings};
pub use properties::{Complaint, check_properties};
pub use reading::client::{ConsumerError, IsolationLevel};
pub use reading::consumer::{Consumed, Consumer, ReadRange, Start, read_to_end};
pub use reading::probe::Probe;
pub use reading::tail::Tail;
pub use reading::watermarks::{WatermarkSource, Watermarks};
pub use sink::Sink;
pub use topics::scratch::Scratch;
