//! Whether the position that the broker remembers moves with what is published.

use crate::outbox::{Delivery, Position};

/// How many rows may be published in a session after its position has come to stand still: the broker remembers them
/// one by one.
const ONE_BY_ONE: usize = 10_000;

/// Follows the position that the broker remembers. Once something was kept back or came out of line it stands still, until
/// the database knows of all that and a new session begins.
#[derive(Debug)]
pub(crate) struct ProgressTracker(State);

#[derive(Debug, Clone, Copy)]
enum State {
    /// The broker remembers no position.
    Nowhere,
    /// It moves.
    Moving,
    /// It stands still, and so many rows were published since.
    Still(usize),
}

impl ProgressTracker {
    /// At the beginning of a session.
    pub(crate) fn of(delivery: Delivery) -> Self {
        Self(if delivery == Delivery::ExactlyOnce { State::Moving } else { State::Nowhere })
    }

    /// So many rows are about to be submitted together. An exceptional submission is one of which no position tells all.
    pub(crate) fn advance(&mut self, rows: usize, is_exceptional: bool) {
        self.0 = match self.0 {
            State::Moving if is_exceptional => State::Still(rows),
            State::Still(before) => State::Still(before + rows),
            unmoved => unmoved,
        };
    }

    /// The position that is to be remembered with a submission that ends there, if any is.
    pub(crate) fn position<'a>(&self, end: &'a Position) -> Option<&'a Position> {
        matches!(self.0, State::Moving).then_some(end)
    }

    /// Whether rows are remembered one by one.
    pub(crate) fn is_still(&self) -> bool {
        matches!(self.0, State::Still(_))
    }

    /// Whether as many rows are remembered one by one as may be.
    pub(crate) fn wants_another_session(&self) -> bool {
        matches!(self.0, State::Still(rows) if rows >= ONE_BY_ONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_moves_until_something_is_exceptional_and_then_no_more() {
        let end = Position::new("end");
        let mut tracker = ProgressTracker::of(Delivery::ExactlyOnce);
        tracker.advance(5, false);
        assert_eq!(tracker.position(&end), Some(&end));
        tracker.advance(1, true);
        tracker.advance(ONE_BY_ONE - 2, false);
        assert!(tracker.is_still() && tracker.position(&end).is_none() && !tracker.wants_another_session());
        tracker.advance(1, false);
        assert!(tracker.wants_another_session());
    }

    #[test]
    fn without_progress_at_the_broker_nothing_stands_still() {
        for delivery in [Delivery::AtLeastOnce, Delivery::Fenced] {
            let mut tracker = ProgressTracker::of(delivery);
            tracker.advance(ONE_BY_ONE, true);
            assert!(!tracker.is_still() && tracker.position(&Position::new("end")).is_none());
        }
    }
}
