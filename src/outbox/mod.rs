//! The words: what an application writes, what the relay reads, what is written back.
//!
//! Nothing here does I/O and nothing is async. Every other room speaks in these types; see
//! `docs/architecture.md` for the vocabulary.

mod batch;
mod dead;
mod delivery;
mod held;
mod message;
mod proof;
mod record;
mod reject;
mod row;
mod settlement;
mod table;

pub use batch::{Batch, Limit, Position};
pub use dead::{DeadLetter, DeadLetterTopic, InvalidDeadLetterTopic};
pub use delivery::{Delivery, Progress, UnknownDelivery};
pub use held::{Held, HeldChanges, HeldLane, HoldCause, Lane};
#[cfg(feature = "kafka")]
pub(crate) use message::RESERVED_HEADERS;
pub use message::{Draft, InvalidMessage, Message, is_topic_name};
pub use proof::{InvalidPlace, Proof, Proofs, ProvenPosition};
pub use record::{Headers, InvalidHeaders, Record, headers_from_json};
pub use reject::{InvalidTopicPattern, OnReject, RejectPolicy, TopicPattern, UnknownOnReject};
pub use row::{Content, Fault, Head, LONGEST_TOPIC, Unreadable, partition_of};
pub use settlement::{ReadToken, Settle, Settlement, UnknownSettle};
pub use table::{InvalidTable, Table};

/// The number of a leadership. It grows by one at each takeover of one outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub i64);

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
