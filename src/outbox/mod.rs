//! The words: what an application writes, what the relay reads, what is written back.
//!
//! Nothing here does I/O and nothing is async. Every other room speaks in these types; see
//! `docs/architecture.md` for the vocabulary.

mod batch;
mod dead;
mod delivery;
mod filter;
mod held;
mod intent;
mod message;
mod notify;
mod operation;
mod pause;
mod position;
mod proof;
mod record;
mod reject;
mod row;
mod settlement;
mod state;
mod table;
mod term;
mod word;

pub use batch::{Batch, Limit};
pub use dead::{DeadLetter, DeadLetterTopic, InvalidDeadLetterTopic, SKIPPED};
pub use delivery::{Delivery, Progress};
pub use filter::MessageFilter;
pub use held::{Held, HeldChanges, HeldLane, HoldCause, Lane};
pub use intent::Intent;
#[cfg(feature = "relay")]
pub(crate) use message::REPLAY_HEADER;
#[cfg(feature = "kafka")]
pub(crate) use message::RESERVED_HEADERS;
pub use message::{Draft, InvalidMessage, Message, REQUEUED_HEADER, is_topic_name};
pub use notify::{Notify, PreparedTransactions};
pub use operation::{Operation, OperationProgress, OperationState, Replay, Replayable};
pub use pause::{Orders, Pause};
pub use position::Position;
pub use proof::{InvalidPlace, Proof, Proofs, ProvenPosition};
pub use record::{Headers, InvalidHeaders, Record, headers_from_json};
pub use reject::{InvalidTopicPattern, OnReject, RejectPolicy, TopicPattern};
pub use row::{Content, Fault, Head, LONGEST_TOPIC, Unreadable, partition_of};
pub use settlement::{ReadToken, RecordMetadata, Settle, Settlement};
pub use state::MessageState;
pub use table::{InvalidTable, Table};
pub use term::Term;
pub use word::UnknownWord;
