//! A writer's transaction.

use std::sync::Arc;

use crate::memory::shared::Shared;
use crate::outbox::{Message, Record};

/// A transaction that enqueues. Any number may be open at once, and ids are handed out as messages are enqueued, so
/// that a lower id may well become visible after a higher one. Dropping it rolls back.
#[derive(Debug)]
#[must_use = "dropping a transaction rolls it back"]
pub struct Transaction {
    shared: Arc<Shared>,
    records: Vec<Record>,
}

impl Transaction {
    pub(super) fn begin(shared: Arc<Shared>) -> Self {
        Self { shared, records: Vec::new() }
    }

    /// Enqueues a message and returns the id of its row, which no reader sees before [`commit`](Self::commit).
    pub fn enqueue(&mut self, message: &Message) -> i64 {
        let mut state = self.shared.state();
        let record = Record {
            id: state.next_id(),
            event_id: message.event_id(),
            topic: message.topic().into(),
            key: message.key().map(str::to_owned),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: message.headers().iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
            partition: message.partition(),
            created_at: state.now(),
        };
        let id = record.id;
        self.records.push(record);
        id
    }

    /// Makes everything enqueued visible, at once.
    pub fn commit(self) {
        self.shared.change(|state| state.commit(self.records));
        self.shared.committed();
    }

    /// Forgets everything enqueued. Its ids are not handed out again.
    pub fn rollback(self) {}
}
