//! How a relay ends, and why it cannot go on.

use std::sync::Arc;

use uuid::Uuid;

use crate::contract::{Rejection, SinkError, StoreError};

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was in flight was settled.
    Graceful,
    /// The deadline passed first: some records may be published and not settled, and will come again.
    CutOff,
}

/// Why a relay cannot go on by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the database holds is not for this process.
    #[error("the relay stops: the outbox cannot be used")]
    Store(#[source] StoreError),
    /// The broker's client is not what is needed.
    #[error("the relay stops: the broker cannot be used")]
    Sink(#[source] SinkError),
    /// A record can never be published.
    #[error(
        "the relay stops: record {id} (event {}) of topic {topic} can never be published; make its topic accept it, or correct or delete the row, and start again",
        .event_id.map_or_else(|| "unknown".to_owned(), |event_id| event_id.to_string())
    )]
    Rejected {
        /// The row's id.
        id: i64,
        /// The event's identity, if the row has one that can be read.
        event_id: Option<Uuid>,
        /// The topic.
        topic: Arc<str>,
        /// Why.
        #[source]
        rejection: Box<Rejection>,
    },
    /// A part of the relay broke.
    #[error("the relay stops: its {0} panicked")]
    Panicked(&'static str),
}
