//! Pausing relays, and making the one that leads step down.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::contract::error::StoreError;
use crate::outbox::{Intent, Orders, Term, TopicPattern};

/// What operators ask of relays. It is kept with the outbox, so that whichever relay leads obeys.
///
/// An operator asks, which a database writes to its [audit log](crate::contract::Operate) in the same transaction; what is
/// asked is durable when the call returns.
#[async_trait]
pub trait Steering: Send + Sync {
    /// What is asked for now. Pauses that ended by themselves, by the database's clock, are left out. Changes nothing.
    async fn orders(&self) -> Result<Orders, StoreError>;

    /// Pauses the topics that a pattern names, until a time if one is given. What is paused by the same pattern already stays
    /// so since then: until when, why and by whom is what was said last.
    async fn pause(
        &self,
        topics: &TopicPattern,
        until: Option<DateTime<Utc>>,
        intent: &Intent,
    ) -> Result<(), StoreError>;

    /// Ends the pause that was asked for by this very pattern. Returns whether there was one that lasted.
    async fn resume(&self, topics: &TopicPattern, intent: &Intent) -> Result<bool, StoreError>;

    /// Asks the leader of this term to step down. Returns whether the term has not been given up. The next term's leader is
    /// not concerned.
    async fn request_step_down(&self, term: Term, intent: &Intent) -> Result<bool, StoreError>;

    /// Notes that the relay of this name is standby now, or is no longer. For people who look: nothing else rests on it.
    async fn attend(&self, holder: &str, is_standby: bool) -> Result<(), StoreError>;

    /// The relays that noted within the last 15 s that they are standby, by name.
    async fn standbys(&self) -> Result<Vec<String>, StoreError>;
}
