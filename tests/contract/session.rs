//! A reading session as the tests hold it: every batch is judged as it comes.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{Bid, Checkpoint, LeaseSession, Reader, Store};
use outboxd::outbox::{Batch, Held, HoldCause, Lane, Limit, Position, Record, Settlement, Term};
use uuid::Uuid;

/// No limit that matters.
pub(crate) const ALL: usize = 1_000_000;

pub(crate) struct Session {
    pub(crate) reader: Box<dyn Reader>,
    /// The position after the last batch.
    pub(crate) end: Option<Position>,
    pub(crate) opened: Vec<Lane>,
    pub(crate) closed: Vec<Lane>,
}

impl Session {
    pub(crate) async fn open(store: &Arc<dyn Store>) -> Self {
        let reader = store.open().await.expect("a session opens");
        Self { reader, end: None, opened: Vec::new(), closed: Vec::new() }
    }

    /// One fetch of up to so many records.
    pub(crate) async fn next(&mut self, records: usize) -> Batch {
        let batch = self.reader.fetch(Limit { records, bytes: usize::MAX }).await.expect("a fetch");
        assert!(batch.records.len() <= records, "{} records of {records}", batch.records.len());
        assert!(batch.records.is_sorted_by_key(|record| record.id), "inside a batch rows are in id order");
        self.end = Some(batch.end.clone());
        self.opened.extend(batch.opened.iter().cloned());
        self.closed.extend(batch.closed.iter().cloned());
        batch
    }

    /// The next batch that holds anything, or the one that says that nothing is new.
    pub(crate) async fn some(&mut self, records: usize) -> Batch {
        for _ in 0..10 {
            let batch = self.next(records).await;
            if !batch.is_empty() || !batch.more {
                return batch;
            }
        }
        panic!("ten empty batches said that there was more");
    }

    /// Reads, so many at a time, until nothing is new.
    pub(crate) async fn read(&mut self, at_a_time: usize) -> Vec<Record> {
        let mut records = Vec::new();
        loop {
            let batch = self.next(at_a_time).await;
            if batch.records.is_empty() && !batch.more {
                return records;
            }
            records.extend(batch.records);
        }
    }

    /// Stores the position after the last batch as the checkpoint.
    pub(crate) async fn save(&mut self, term: Term, held: Vec<Held>) {
        let checkpoint = self.checkpoint(term, held);
        self.reader.save(&checkpoint).await.expect("the checkpoint is stored");
    }

    pub(crate) fn checkpoint(&self, term: Term, held: Vec<Held>) -> Checkpoint {
        let position = self.end.clone().expect("a batch was fetched");
        Checkpoint { term, read_to: position.clone(), position, held }
    }
}

/// Becomes leader, for longer than any test takes.
pub(crate) async fn lead(store: &Arc<dyn Store>) -> (Box<dyn LeaseSession>, Term) {
    let mut session = store.lease("contract", Duration::from_secs(60)).await.expect("a lease session opens");
    match session.bid().await.expect("a bid") {
        Bid::Won(term) => (session, term),
        other => panic!("a free lease is won at once, and this bid was {other:?}"),
    }
}

pub(crate) async fn settle(store: &Arc<dyn Store>, records: &[Record]) {
    let mut settlement = Settlement::with_capacity(records.len());
    records.iter().for_each(|record| settlement.push(record));
    store.settle(&settlement).await.expect("a settlement");
}

/// Holds the lane from this id on.
pub(crate) fn held(lane: Lane, from_id: i64) -> Held {
    let since = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time");
    Held { lane, from_id, after: None, cause: HoldCause::MissingTopic, since }
}

pub(crate) fn key_lane(topic: &str, key: &str) -> Lane {
    Lane::from_columns(topic, Some(key), None)
}

pub(crate) fn events(records: &[Record]) -> Vec<Uuid> {
    records.iter().map(|record| record.event_id).collect()
}
