//! A reading session over the store in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::memory::state::{State, covered, covers, position};
use crate::memory::store::{Row, Shared};
use crate::outbox::{Batch, Fault, Held, Lane, Limit, Position, Proof, Record, Term, Unreadable};

/// Reads rows in the order in which they became visible, which misses none however late it commits.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    held: Vec<Held>,
    holding: Vec<Held>,
    /// The number of the last row that was read or left out.
    last: u64,
    asked: VecDeque<Lane>,
    release: Option<Release>,
    /// Larger rows are not loaded.
    most: usize,
    /// The proof that what was read needs before it is published.
    proof: Proof,
    /// Whether it was made.
    proven: bool,
}

/// A release under way: the ids that were left out and are still to come.
#[derive(Debug)]
struct Release {
    lane: Lane,
    left_out: VecDeque<i64>,
}

impl Session {
    pub(super) fn open(shared: Arc<Shared>) -> Self {
        let stored = shared.state().stored().clone();
        Self {
            shared,
            held: stored.held.clone(),
            holding: stored.held,
            last: stored.position,
            asked: VecDeque::new(),
            release: None,
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
        let mut opened = Vec::new();
        let mut closed = Vec::new();
        opened.extend(self.begin_release(&state));
        if self.release.is_some() {
            closed.extend(self.read_left_out(&state, &mut page));
        } else {
            self.read_new(&state, &mut page);
        }
        let more = page.full || !closed.is_empty() || self.next_release().is_some();
        page.records.sort_by_key(|record| record.id);
        page.unreadable.sort_by_key(|row| row.id);
        let Page { records, unreadable, .. } = page;
        Batch { records, unreadable, end: position(self.last, self.proof), more, token: None, opened, closed }
    }

    /// Takes the next asked-for release in hand, unless one is under way. Everything that the lane left out so
    /// far is found at once, so that its new rows cannot come before.
    fn begin_release(&mut self, state: &State) -> Option<Lane> {
        if self.release.is_some() {
            return None;
        }
        let lane = self.asked.remove(self.next_release()?)?;
        let held = self.holding.iter().find(|held| held.lane == lane)?;
        let is_left_out = |row: &&Row| row.number <= self.last && covers(held, row);
        let left_out = state.rows().filter(is_left_out).map(|row| row.record.id).collect();
        self.release = Some(Release { lane: lane.clone(), left_out });
        Some(lane)
    }

    /// Which of the releases asked for is next: a lane inside a held topic waits for the topic's.
    fn next_release(&self) -> Option<usize> {
        let is_held = |topic: &Lane| self.holding.iter().any(|held| held.lane == *topic);
        let may_begin = |lane: &Lane| {
            let topic = Lane::topic_of(lane.topic());
            *lane == topic || !is_held(&topic)
        };
        self.asked.iter().position(may_begin)
    }

    /// What another held lane keeps back stays back: it comes when that one is released.
    fn read_left_out(&mut self, state: &State, page: &mut Page) -> Option<Lane> {
        let release = self.release.as_mut()?;
        let others: Vec<Held> = self.holding.iter().filter(|held| held.lane != release.lane).cloned().collect();
        while let Some(id) = release.left_out.front() {
            if let Some(row) = state.row(*id).filter(|row| row.sent_at.is_none() && !covered(&others, row))
                && !page.take(row)
            {
                return None;
            }
            release.left_out.pop_front();
        }
        let lane = self.release.take()?.lane;
        self.holding.retain(|held| held.lane != lane);
        Some(lane)
    }

    fn read_new(&mut self, state: &State, page: &mut Page) {
        for row in state.since(self.last) {
            if row.sent_at.is_none() && !covered(&self.holding, row) && !page.take(row) {
                return;
            }
            self.last = row.number;
        }
    }
}

/// A batch being filled.
struct Page {
    limit: Limit,
    most: usize,
    records: Vec<Record>,
    unreadable: Vec<Unreadable>,
    bytes: usize,
    full: bool,
}

impl Page {
    fn new(limit: Limit, most: usize) -> Self {
        Self { limit, most, records: Vec::new(), unreadable: Vec::new(), bytes: 0, full: false }
    }

    /// Takes the row in, unless there is no room for it. The first row always has room.
    fn take(&mut self, row: &Row) -> bool {
        let loaded = load(&row.record, self.most);
        let bytes = loaded.as_ref().map_or(0, Record::footprint);
        let taken = self.records.len() + self.unreadable.len();
        let fits = taken < self.limit.records && self.bytes + bytes <= self.limit.bytes;
        self.full = !(fits || taken == 0);
        if !self.full {
            self.bytes += bytes;
            match loaded {
                Ok(record) => self.records.push(record),
                Err(unreadable) => self.unreadable.push(unreadable),
            }
        }
        !self.full
    }
}

/// A copy of the record, unless it is larger than may be loaded.
#[expect(clippy::result_large_err, reason = "a record is larger")]
pub(super) fn load(record: &Record, most: usize) -> Result<Record, Unreadable> {
    let size = record.size();
    if size > most { Err(record.clone().refused(Fault::too_large(size, most))) } else { Ok(record.clone()) }
}

#[async_trait]
impl Reader for Session {
    fn held(&self) -> &[Held] {
        &self.held
    }

    fn position(&self) -> Position {
        position(self.last, self.proof)
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
        self.asked.retain(|lane| *lane != held.lane);
        let broken_off = self.release.take_if(|release| held.lane.contains(&release.lane));
        // One of a lane in a topic that is held now begins anew after the topic's.
        if let Some(release) = broken_off.filter(|release| release.lane != held.lane) {
            self.asked.push_front(release.lane);
        }
        match self.holding.iter_mut().find(|known| known.lane == held.lane) {
            Some(known) => *known = Held { from_id: known.from_id.min(held.from_id), ..held },
            None => self.holding.push(held),
        }
    }

    fn release(&mut self, lane: &Lane) {
        let is_known = self.holding.iter().any(|held| held.lane == *lane);
        let is_asked = self.asked.contains(lane) || self.release.as_ref().is_some_and(|release| release.lane == *lane);
        if is_known && !is_asked {
            self.asked.push_back(lane.clone());
        }
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.shared.change(|state| state.save(checkpoint))
    }
}
