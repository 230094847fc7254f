//! How strong the delivery is, and what an exactly-once sink remembers of it.

use crate::outbox::position::Position;
use crate::outbox::settlement::Settlement;
use crate::outbox::term::Term;
use crate::outbox::word::words;

words! {
    /// How strong the delivery is.
    #[derive(Default)]
    pub enum Delivery else "no way to deliver" {
        /// No record is lost; after a failure some may come twice.
        #[default]
        AtLeastOnce = "at-least-once",
        /// As `AtLeastOnce`, and the broker refuses whatever an earlier leader still has to send.
        Fenced = "fenced",
        /// Consumers that read only what is committed see every record once.
        ExactlyOnce = "exactly-once",
    }
}

impl Delivery {
    /// Whether opening the sink makes the broker refuse what an earlier leader still has to send.
    pub fn fences(self) -> bool {
        self != Delivery::AtLeastOnce
    }
}

/// What is published, as the broker itself remembers it: written in one transaction with the records it tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is published, but for what the database knows better: held lanes and dead letters.
    pub position: Option<Position>,
    /// Rows that are published as well.
    pub beyond: Settlement,
    /// The term that published last.
    pub term: Term,
}
