//! A reading session over the store in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::memory::position;
use crate::memory::row::{self, Row, is_left};
use crate::memory::shared::Shared;
use crate::memory::state::State;
use crate::outbox::{Batch, Held, Lane, Limit, Position, Proof, Record, Term, Unreadable};
use crate::reading::{Filling, Fit, HeldBack};

/// Reads rows in the order in which they became visible, which misses none however late it commits.
#[derive(Debug)]
pub(super) struct MemoryReader {
    shared: Arc<Shared>,
    held: Vec<Held>,
    /// What is left out; a release has the ids that were, and are still to come.
    held_back: HeldBack<VecDeque<i64>>,
    /// The number of the last row that was read or left out.
    last: u64,
    /// Larger rows are not loaded.
    most: usize,
    /// The proof that what was read needs before it is published.
    proof: Proof,
    /// Whether it was made.
    proven: bool,
}

impl MemoryReader {
    pub(super) fn open(shared: Arc<Shared>) -> Self {
        let stored = shared.state().stored().clone();
        Self {
            shared,
            held_back: HeldBack::new(&stored.held),
            held: stored.held,
            last: stored.position,
            most: usize::MAX,
            proof: Proof::first(),
            proven: false,
        }
    }

    fn read(&mut self, limit: Limit) -> Batch {
        let shared = Arc::clone(&self.shared);
        let state = shared.state();
        if std::mem::take(&mut self.proven) {
            self.proof = self.proof.next();
        }
        let mut page = Page::new(limit, self.most);
        let mut closed = Vec::new();
        let opened = Vec::from_iter(self.begin_release(&state));
        if self.held_back.has_release() {
            closed.extend(self.read_left_out(&state, &mut page));
        } else {
            self.read_new(&state, &mut page);
        }
        let more = page.filling.is_full() || !closed.is_empty() || self.held_back.is_releasing();
        page.records.sort_by_key(|record| record.id);
        page.unreadable.sort_by_key(|row| row.id);
        let Page { records, unreadable, .. } = page;
        Batch { records, unreadable, end: self.position(), more, token: None, opened, closed }
    }

    /// Takes the next asked-for release in hand, unless one is under way. Everything that the lane left out so
    /// far is found at once, so that its new rows cannot come before.
    fn begin_release(&mut self, state: &State) -> Option<Lane> {
        let last = self.last;
        self.held_back.begin_release(|held| {
            let is_left_out = |row: &&Row| row.number <= last && row::covered(std::slice::from_ref(held), row);
            state.rows().filter(is_left_out).map(|row| row.record.id).collect()
        })
    }

    /// What another held lane keeps back stays back: it comes when that one is released.
    fn read_left_out(&mut self, state: &State, page: &mut Page) -> Option<Lane> {
        let mut release = self.held_back.take_release()?;
        while let Some(id) = release.progress.front() {
            let is_due = |row: &&Row| row.sent_at.is_none() && !self.keeps_back(row, Some(&release.lane));
            if state.row(*id).filter(is_due).is_some_and(|row| page.take(row) == Fit::Full) {
                self.held_back.go_on(release);
                return None;
            }
            release.progress.pop_front();
        }
        Some(self.held_back.end(release))
    }

    fn read_new(&mut self, state: &State, page: &mut Page) {
        for row in state.since(self.last) {
            if row.sent_at.is_none() && !self.keeps_back(row, None) && page.take(row) == Fit::Full {
                return;
            }
            self.last = row.number;
        }
    }

    fn keeps_back(&self, row: &Row, except: Option<&Lane>) -> bool {
        let Record { topic, .. } = &row.record;
        self.held_back.keeps_back(topic, row.record.lane(), except, |held| is_left(held, row))
    }
}

/// A batch being filled.
struct Page {
    filling: Filling,
    most: usize,
    records: Vec<Record>,
    unreadable: Vec<Unreadable>,
}

impl Page {
    fn new(limit: Limit, most: usize) -> Self {
        Self { filling: Filling::of(limit), most, records: Vec::new(), unreadable: Vec::new() }
    }

    fn take(&mut self, row: &Row) -> Fit {
        let loaded = row::load(&row.record, self.most);
        let fit = self.filling.take(loaded.as_ref().map_or(0, Record::footprint));
        match loaded {
            _ if fit == Fit::Full => {}
            Ok(record) => self.records.push(record),
            Err(unreadable) => self.unreadable.push(unreadable),
        }
        fit
    }
}

#[async_trait]
impl Reader for MemoryReader {
    fn held(&self) -> &[Held] {
        &self.held
    }

    fn position(&self) -> Position {
        position::written(self.last, self.proof)
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        Ok(self.read(limit))
    }

    async fn prove(&mut self, term: Term) -> Result<(), StoreError> {
        self.shared.change(|state| state.prove(term, self.proof))?;
        self.proven = true;
        Ok(())
    }

    fn hold(&mut self, held: Held) {
        self.held_back.hold(held);
    }

    fn release(&mut self, lane: &Lane) {
        self.held_back.release(lane);
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.shared.change(|state| state.save(checkpoint))
    }
}
