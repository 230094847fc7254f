//! How far the release of a held lane is.
//!
//! Two kinds of rows were left out of the main flow: those that it had passed when the release began, which are walked by id,
//! and those that it passes since, which it notes by their ids. The walk comes first, and its rows are those that one view of
//! the table showed; so a row that committed late comes after it, and before none that was begun later. Once both are at
//! their end, nothing of the lane is left that the main flow has passed, and it includes the lane from there on.

use roaring::RoaringTreemap;

use crate::mysql::reading::holds::Rest;
use crate::mysql::reading::position::ReadPosition;
use crate::outbox::Held;
use crate::reading::GapList;

/// Ids that a statement walks over at most.
const IDS_PER_STEP: i64 = 100_000;

/// How far a release is.
#[derive(Debug)]
pub(crate) struct Progress {
    rest: Rest,
    /// What the main flow had passed when it began.
    passed: ReadPosition,
    /// Ids up to here were walked.
    walked_to: i64,
    /// Rows that the main flow has left out since, and that have not come.
    noted: RoaringTreemap,
}

impl Progress {
    /// The release of a lane begins where the main flow is.
    pub(crate) fn begin(held: &Held, list: &GapList) -> Self {
        let rest = Rest::of(held);
        let passed = ReadPosition::of(list, None);
        // Ids are positive.
        let walked_to = rest.from_id.saturating_sub(1).max(0);
        Self { rest, passed, walked_to, noted: RoaringTreemap::new() }
    }

    /// Notes a row that the main flow has left out for this lane alone.
    pub(crate) fn note(&mut self, id: i64) {
        if self.rest.contains(id)
            && let Ok(id) = u64::try_from(id)
        {
            self.noted.insert(id);
        }
    }

    /// Whether the walk brings the lane's row of an id. What was noted comes after it, and not twice.
    pub(crate) fn walks(&self, id: i64) -> bool {
        self.rest.contains(id) && self.passed.contains(id)
    }

    /// Whether the lane's row of an id was noted, and has not come.
    pub(crate) fn is_noted(&self, id: i64) -> bool {
        u64::try_from(id).is_ok_and(|id| self.noted.contains(id))
    }

    /// The step of the walk that is next: the id after which it begins, and the last one. Nothing once it is at its end.
    pub(crate) fn step(&self) -> Option<(i64, i64)> {
        let end = self.walked_to.saturating_add(IDS_PER_STEP).min(self.passed.last);
        (self.walked_to < self.passed.last).then_some((self.walked_to, end))
    }

    /// The walk is at this id.
    pub(crate) fn walked_to(&mut self, id: i64) {
        self.walked_to = self.walked_to.max(id.min(self.passed.last));
    }

    /// The next of the noted rows, so many at most.
    pub(crate) fn next_noted(&self, most: usize) -> Vec<i64> {
        self.noted.iter().take(most).filter_map(|id| i64::try_from(id).ok()).collect()
    }

    /// Noted rows have come up to this id.
    pub(crate) fn noted_came_up_to(&mut self, id: i64) {
        if let Ok(id) = u64::try_from(id) {
            self.noted.remove_range(..=id);
        }
    }

    /// Whether all that was left out has come.
    pub(crate) fn is_over(&self) -> bool {
        self.step().is_none() && self.noted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use tokio::time::Instant;

    use super::*;
    use crate::outbox::{HoldCause, Lane};

    #[test]
    fn a_release_brings_what_was_passed_and_what_is_noted_since_each_once() {
        let (lane, since) = (Lane::topic_of("a"), DateTime::UNIX_EPOCH);
        let held = Held { lane, from_id: 3, after: None, cause: HoldCause::MissingTopic, since };
        let list = GapList::restore(9, [5..=6], Instant::now());
        let mut progress = Progress::begin(&held, &list);
        assert_eq!(progress.step(), Some((2, 9)));
        let walks = |progress: &Progress| (0..13).filter(|id| progress.walks(*id)).collect::<Vec<_>>();
        let noted = |progress: &Progress| (0..13).filter(|id| progress.is_noted(*id)).collect::<Vec<_>>();
        assert_eq!((walks(&progress), noted(&progress)), (vec![3, 4, 7, 8, 9], vec![]));

        progress.note(11);
        progress.note(2);
        progress.note(6);
        assert_eq!((walks(&progress), noted(&progress)), (vec![3, 4, 7, 8, 9], vec![6, 11]), "none in both");
        progress.walked_to(20);
        assert_eq!((progress.step(), progress.is_over()), (None, false));
        assert_eq!(progress.next_noted(1), [6]);
        progress.noted_came_up_to(6);
        assert_eq!(progress.next_noted(9), [11]);
        progress.noted_came_up_to(11);
        assert!(progress.is_over());
    }
}
