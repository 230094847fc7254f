//! What can go wrong at the seams, sorted by what the relay does about it.

use crate::outbox::Term;

/// The cause of an error, kept in the chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database is away, busy or being restarted. The relay waits and tries again, for ever.
    #[error("the database is not available while {doing}")]
    Unavailable {
        /// What the store was doing.
        doing: &'static str,
        /// What the driver said.
        #[source]
        source: BoxError,
    },
    /// The database answers, and what it holds or allows is not what is needed: an operator has to change that. A relay
    /// that starts ends; one that runs keeps its lease, publishes nothing more, and goes on once it is changed.
    #[error("{problem}; {repair}")]
    Unusable {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        repair: String,
        /// What the driver said, if it said anything.
        #[source]
        source: Option<BoxError>,
    },
    /// What the database holds is not for this process: it takes another version, other settings, or a decision about
    /// what was published before. The relay ends, and nothing else that a store says ends it.
    #[error("{problem}; {repair}")]
    Incompatible {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        repair: String,
        /// What the driver said, if it said anything.
        #[source]
        source: Option<BoxError>,
    },
    /// The database crashed and forgot settlements that it had acknowledged. What was delivered after them must not be
    /// settled: rows are delivered again from the first forgotten one on, and a gap would show an old row last. The
    /// relay reads on from the checkpoint.
    #[error("the database crashed and forgot what was settled last: it is delivered again")]
    Forgotten,
    /// Another relay leads by now. The relay stops leading and waits as standby.
    #[error("term {term} is over: another relay leads")]
    TermOver {
        /// The term that was given as one's own.
        term: Term,
    },
}

impl StoreError {
    /// Whether waiting helps.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// Whether an operator has to change something, and the same process goes on once that is done.
    pub fn is_refusal(&self) -> bool {
        matches!(self, StoreError::Unusable { .. })
    }
}

/// Why a sink could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The broker is away, or the sink must be opened anew. The relay opens it again and reads on from what
    /// the store knows, for ever.
    #[error("the broker is not available while {doing}")]
    Unavailable {
        /// What the sink was doing.
        doing: &'static str,
        /// What the client said.
        #[source]
        source: BoxError,
    },
    /// The sink can never work as it is set up. The relay stops.
    #[error("{problem}; {repair}")]
    Unusable {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        repair: String,
        /// What the client said, if it said anything.
        #[source]
        source: Option<BoxError>,
    },
    /// Another relay leads by now, or may. The relay stops leading and waits as standby.
    #[error("the term is over: another relay leads, or may")]
    TermOver,
}
