//! How strong the delivery is, and what an exactly-once sink remembers of it.

use std::fmt;
use std::str::FromStr;

use crate::outbox::{Position, Settlement, Term};

/// How strong the delivery is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delivery {
    /// No record is lost; after a failure some may come twice.
    #[default]
    AtLeastOnce,
    /// As `AtLeastOnce`, and the broker refuses whatever an earlier leader still has to send.
    Fenced,
    /// Consumers that read only what is committed see every record once.
    ExactlyOnce,
}

/// A word that is no way to deliver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no way to deliver: use at-least-once, fenced or exactly-once")]
pub struct UnknownDelivery {
    word: String,
}

impl Delivery {
    /// All ways to deliver.
    pub const ALL: [Delivery; 3] = [Delivery::AtLeastOnce, Delivery::Fenced, Delivery::ExactlyOnce];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Delivery::AtLeastOnce => "at-least-once",
            Delivery::Fenced => "fenced",
            Delivery::ExactlyOnce => "exactly-once",
        }
    }

    /// Whether opening the sink makes the broker refuse what an earlier leader still has to send.
    pub fn fences(self) -> bool {
        self != Delivery::AtLeastOnce
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Delivery {
    type Err = UnknownDelivery;

    fn from_str(word: &str) -> Result<Self, UnknownDelivery> {
        let found = Self::ALL.into_iter().find(|delivery| delivery.as_str() == word);
        found.ok_or_else(|| UnknownDelivery { word: word.to_owned() })
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
