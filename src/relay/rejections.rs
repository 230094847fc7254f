//! What becomes of records that can never be published.
//!
//! Whatever it is, it is decided before anything that follows in the record's lane is published: a dead letter is
//! durable when [`Rejections::decide`] returns, and a held lane is left out from then on.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use crate::contract::{Rejection, Store};
use crate::observe::metrics;
use crate::outbox::{DeadLetter, DeadLetterTopic, HoldCause, Lane, OnReject, RejectPolicy, Unreadable};
use crate::relay::error::Error;
use crate::relay::flow::{Before, Ending, Row, SessionEnd};
use crate::relay::lanes::HeldLaneStates;
use crate::relay::probation::Probation;

/// A row whose record can never be published, and why.
pub(crate) struct Rejected {
    pub(crate) id: i64,
    event_id: Option<Uuid>,
    topic: Arc<str>,
    lane: Option<Lane>,
    rejection: Rejection,
}

impl Rejected {
    /// One that the sink rejects.
    pub(crate) fn of(row: &Row, rejection: Rejection) -> Self {
        let topic = Arc::clone(&row.topic);
        Self { id: row.id, event_id: Some(row.event_id), topic, lane: row.lane(), rejection }
    }
}

impl From<Unreadable> for Rejected {
    fn from(row: Unreadable) -> Self {
        let Unreadable { id, event_id, topic, lane, code, why } = row;
        Self { id, event_id, topic, lane, rejection: Rejection { code, message: why } }
    }
}

/// Decides about rejected records.
#[derive(Clone)]
pub(crate) struct Rejections {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) policy: RejectPolicy,
    /// Where dead letters are published, if anywhere.
    pub(crate) topic: Option<DeadLetterTopic>,
    pub(crate) lanes: Arc<Mutex<HeldLaneStates>>,
    /// Signalled when there are dead letters to publish.
    pub(crate) dead_lettered: Arc<Notify>,
    pub(crate) probation: Probation,
    pub(crate) ending: Ending,
}

impl Rejections {
    /// Decides about records, given in the order of their submission, of batches that began there. Says whether any lane
    /// is held because of them.
    ///
    /// # Errors
    /// When the relay is to stop because of one, or a dead letter was not stored.
    pub(crate) async fn decide(&self, rejected: Vec<Rejected>, before: &Before) -> Result<bool, SessionEnd> {
        let (mut held, mut letters) = (Vec::new(), Vec::new());
        let (mut holds, mut halt) = (false, None);
        for row in rejected {
            metrics::count_rejected(&row.topic, row.rejection.code);
            match (self.policy.of(&row.topic), &row.lane) {
                (OnReject::Halt, _) => {
                    halt.get_or_insert(row);
                }
                (OnReject::BlockKey, Some(lane)) => {
                    holds = true;
                    let mut lanes = self.lanes.lock();
                    if lanes.hold(lane.clone(), row.id, HoldCause::Rejected, before) {
                        held.push(row);
                    }
                }
                (OnReject::DeadLetter, _) | (OnReject::BlockKey, None) => letters.push(self.letter(row)),
            }
        }
        if let Some(Rejected { id, lane: Some(lane), rejection, .. }) = held.first() {
            tracing::warn!(lanes = held.len(), %lane, from_id = id, error = %rejection, "held until it is released: a record can never be published as it is; the first one is named here, and `outboxd held` lists and releases lanes");
        }
        self.dead_letter(letters).await?;
        match halt {
            None => Ok(holds),
            Some(Rejected { id, event_id, topic, rejection, .. }) => {
                let rejection = Box::new(rejection);
                Err(SessionEnd::Failed(Error::Rejected { id, event_id, topic, rejection }))
            }
        }
    }

    fn letter(&self, row: Rejected) -> DeadLetter {
        let Rejection { code, message } = row.rejection;
        let topic = self.topic.as_ref().and_then(|topic| topic.of(&row.topic));
        DeadLetter { id: row.id, event_id: row.event_id, code: code.to_owned(), message, topic }
    }

    async fn dead_letter(&self, letters: Vec<DeadLetter>) -> Result<(), SessionEnd> {
        let Some(first) = letters.first() else { return Ok(()) };
        while let Err(error) = self.store.dead_letter(&letters).await {
            if !error.is_refusal() || self.ending.soft.is_cancelled() {
                return Err(error.into());
            }
            // Another session would read, judge and publish again what is delivered or rejected by now.
            let pause = self.probation.refused(&error);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.ending.soft.cancelled() => {}
            }
        }
        tracing::warn!(
            records = letters.len(),
            id = first.id,
            event_id = first.event_id.map(display),
            code = first.code,
            error = first.message,
            "gave up records that can never be published: they are dead letters; the first one is named here"
        );
        if letters.iter().any(|letter| letter.topic.is_some()) {
            self.dead_lettered.notify_one();
        }
        Ok(())
    }
}
