//! Operations: sending rows again.

use crate::contract::{ReplayPage, StoreError};
use crate::memory::row::{Row, load};
use crate::memory::state::State;
use crate::outbox::{Intent, Limit, Operation, OperationProgress, OperationState, Record, Replay, Replayable, Term};
use crate::reading::{Filling, Fit};

/// Ids that one page looks through at most.
const IDS_PER_PAGE: i64 = 1_000;

impl State {
    /// Whether a row was sent, and is meant by a replay.
    fn is_replayed(&self, row: &Row, replay: &Replay) -> bool {
        let Record { topic, key, created_at, .. } = &row.record;
        **topic == *replay.topic
            && (replay.key.is_none() || replay.key == *key)
            && replay.since.is_none_or(|since| *created_at >= since)
            && replay.until.is_none_or(|until| *created_at < until)
            && (row.sent_at.is_some() || self.is_settled(row))
    }

    pub(super) fn replayable(&self, replay: &Replay, look_at: u64) -> Replayable {
        let look_at = usize::try_from(look_at).unwrap_or(usize::MAX);
        let written = |row: &Row| row.record.created_at;
        let all: Vec<&Row> = self.rows().collect();
        let looked_at = &all[all.len().saturating_sub(look_at)..];
        let meant = || looked_at.iter().filter(|row| self.is_replayed(row, replay)).map(|row| written(row));
        Replayable {
            rows: meant().count() as u64,
            is_floor: all.len() >= look_at,
            written: meant().min().zip(meant().max()),
            oldest_kept: all.first().map(|row| written(row)),
        }
    }

    pub(super) fn start_replay(&mut self, replay: &Replay, intent: &Intent) -> i64 {
        let id = self.operations.len() as i64 + 1;
        let ids = || self.rows().map(|row| row.record.id);
        let (first, last) = (ids().min(), ids().max());
        let from_id = first.map_or(0, |first| first - 1);
        let operation = Operation {
            id,
            replay: replay.clone(),
            state: OperationState::Running,
            asked_at: self.now(),
            ended_at: None,
            reason: intent.reason.clone(),
            actor: intent.actor.clone(),
            from_id,
            last_id: last.unwrap_or(0),
            progress: OperationProgress { done_to: from_id, ..OperationProgress::default() },
        };
        self.operations.push(operation);
        id
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(super) fn cancel_operation(&mut self, id: i64) -> bool {
        let now = self.now();
        let Some(operation) = self.running(id) else { return false };
        (operation.state, operation.ended_at) = (OperationState::Cancelled, Some(now));
        true
    }

    pub(super) fn replay_page(&self, operation: &Operation, limit: Limit) -> ReplayPage {
        let after = operation.progress.done_to;
        let last = operation.last_id.min(after.saturating_add(IDS_PER_PAGE));
        let is_meant =
            |row: &&Row| row.record.id > after && row.record.id <= last && self.is_replayed(row, &operation.replay);
        let mut filling = Filling::of(limit);
        let mut page = ReplayPage { done_to: after, ..ReplayPage::default() };
        for row in self.rows().filter(is_meant) {
            let is_full = page.records.len() + page.unreadable.len() == limit.records;
            if is_full || filling.take(row.record.footprint()) == Fit::Full {
                break;
            }
            page.done_to = row.record.id;
            match load(&row.record, limit.bytes) {
                Ok(record) => page.records.push(record),
                Err(unreadable) => page.unreadable.push(unreadable),
            }
        }
        let rest = self.rows().filter(is_meant).any(|row| row.record.id > page.done_to);
        ReplayPage { done_to: if rest { page.done_to } else { last }, ..page }
    }

    pub(super) fn note_progress(
        &mut self,
        term: Term,
        id: i64,
        progress: &OperationProgress,
    ) -> Result<bool, StoreError> {
        self.lease.check(term)?;
        let now = self.now();
        let Some(operation) = self.running(id) else { return Ok(false) };
        operation.progress = progress.clone();
        if progress.is_done {
            (operation.state, operation.ended_at) = (OperationState::Done, Some(now));
        }
        Ok(!progress.is_done)
    }

    fn running(&mut self, id: i64) -> Option<&mut Operation> {
        self.operations.iter_mut().find(|operation| operation.id == id && operation.state == OperationState::Running)
    }
}
