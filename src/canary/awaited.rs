//! Which rows are on their way: a pure state machine, told what happened when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// A row on its way.
#[derive(Debug)]
struct Row {
    /// When writing it began.
    began: Instant,
    /// From when on it is lost; `None` until it is written.
    due: Option<Instant>,
    is_lost: bool,
}

/// The rows that are waited for, the oldest first: their ids begin with a time.
#[derive(Debug)]
pub(super) struct Awaited {
    rows: BTreeMap<Uuid, Row>,
    lost_after: Duration,
    most: usize,
}

impl Awaited {
    /// Waits for rows so long before they are lost, and for as many as these at most: beyond, the oldest are forgotten.
    pub(super) fn new(lost_after: Duration, most: usize) -> Self {
        Self { rows: BTreeMap::new(), lost_after, most }
    }

    /// A row is being written. It may come back before that is known to be done.
    pub(super) fn begins(&mut self, event_id: Uuid, now: Instant) {
        self.rows.insert(event_id, Row { began: now, due: None, is_lost: false });
        while self.rows.len() > self.most {
            self.rows.pop_first();
        }
    }

    /// It is written.
    pub(super) fn written(&mut self, event_id: Uuid, now: Instant) {
        if let Some(row) = self.rows.get_mut(&event_id) {
            row.due = Some(now + self.lost_after);
        }
    }

    /// It is not written, or nobody knows whether it is.
    pub(super) fn is_not_written(&mut self, event_id: Uuid) {
        self.rows.remove(&event_id);
    }

    /// A row came back: how long it took, of one that was waited for.
    pub(super) fn came_back(&mut self, event_id: Uuid, at: Instant) -> Option<Duration> {
        let row = self.rows.remove(&event_id)?;
        Some(at.saturating_duration_since(row.began))
    }

    /// How many rows were lost since this was asked last. They are still waited for.
    pub(super) fn newly_lost(&mut self, now: Instant) -> u64 {
        let is_overdue = |row: &&mut Row| !row.is_lost && row.due.is_some_and(|due| due <= now);
        let overdue = self.rows.values_mut().filter(is_overdue);
        overdue.map(|row| row.is_lost = true).count() as u64
    }

    /// Waits for none of them any more.
    pub(super) fn forget_all(&mut self) {
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// Rows that were written in this order, a second apart, each in no time.
    fn written(rows: u32) -> (Awaited, Vec<Uuid>, Instant) {
        let (mut awaited, began) = (Awaited::new(LOST_AFTER, 3), Instant::now());
        let ids: Vec<Uuid> = (1..=rows).map(|id| Uuid::from_u128(id.into())).collect();
        for (id, after) in ids.iter().zip(0..) {
            awaited.begins(*id, began + after * SECOND);
            awaited.written(*id, began + after * SECOND);
        }
        (awaited, ids, began)
    }

    #[test]
    fn a_row_that_comes_back_tells_how_long_it_took_once() {
        let (mut awaited, ids, began) = written(2);
        assert_eq!(awaited.came_back(ids[1], began + 3 * SECOND), Some(2 * SECOND));
        assert_eq!(awaited.came_back(ids[1], began + 4 * SECOND), None);
        assert_eq!(awaited.came_back(Uuid::from_u128(9), began), None, "the row of another");
    }

    #[test]
    fn a_row_that_does_not_come_in_time_is_lost_once_and_still_waited_for() {
        let (mut awaited, ids, began) = written(2);
        assert_eq!(awaited.newly_lost(began + LOST_AFTER - SECOND), 0);
        assert_eq!(awaited.newly_lost(began + LOST_AFTER), 1);
        assert_eq!(awaited.newly_lost(began + LOST_AFTER), 0);
        assert_eq!(awaited.newly_lost(began + LOST_AFTER + SECOND), 1);
        assert_eq!(awaited.came_back(ids[0], began + 2 * LOST_AFTER), Some(2 * LOST_AFTER));
        assert_eq!(awaited.newly_lost(began + 9 * LOST_AFTER), 0);
    }

    #[test]
    fn a_row_that_is_not_written_is_not_lost() {
        let (mut awaited, began) = (Awaited::new(LOST_AFTER, 3), Instant::now());
        let [slow, refused] = [1, 2].map(Uuid::from_u128);
        awaited.begins(slow, began);
        awaited.begins(refused, began);
        awaited.is_not_written(refused);
        assert_eq!(awaited.newly_lost(began + 2 * LOST_AFTER), 0);
        awaited.written(slow, began + 2 * LOST_AFTER);
        assert_eq!(awaited.newly_lost(began + 3 * LOST_AFTER - SECOND), 0, "it has its time from then on");
        assert_eq!(awaited.newly_lost(began + 3 * LOST_AFTER), 1);
    }

    #[test]
    fn a_row_may_come_back_before_it_is_known_to_be_written() {
        let (mut awaited, began, id) = (Awaited::new(LOST_AFTER, 3), Instant::now(), Uuid::from_u128(1));
        awaited.begins(id, began);
        assert_eq!(awaited.came_back(id, began + SECOND), Some(SECOND));
        awaited.written(id, began + SECOND);
        assert_eq!(awaited.newly_lost(began + 9 * LOST_AFTER), 0);
    }

    #[test]
    fn no_more_rows_are_remembered_than_were_agreed_and_the_oldest_go_first() {
        let (mut awaited, ids, began) = written(5);
        let came_back = |awaited: &mut Awaited, id| awaited.came_back(id, began + 9 * SECOND).is_some();
        let waited_for: Vec<bool> = ids.iter().map(|id| came_back(&mut awaited, *id)).collect();
        assert_eq!(waited_for, [false, false, true, true, true]);
    }

    #[test]
    fn what_is_forgotten_is_neither_lost_nor_back() {
        let (mut awaited, ids, began) = written(2);
        awaited.forget_all();
        assert_eq!(awaited.newly_lost(began + 9 * LOST_AFTER), 0);
        assert_eq!(awaited.came_back(ids[0], began + SECOND), None);
    }
}
