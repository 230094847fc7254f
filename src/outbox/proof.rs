//! Proofs that what is published is in the database: they tell one history of an outbox from another, which ids cannot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A flushed commit, made after what a position tells of had been read: whatever database has the proof has all of
/// that, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The history that it belongs to: each reading session begins one, under a name drawn at random.
    pub history: Uuid,
    /// Its number in that history, from 1.
    pub number: i64,
}

impl Proof {
    /// The first of a new history.
    pub fn first() -> Self {
        Self { history: Uuid::new_v4(), number: 1 }
    }

    /// The one that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

/// The last proofs that a database has: of the latest history, and of the one that the broker told of before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proofs {
    /// Of the latest.
    pub latest: Option<Proof>,
    /// Of the earlier.
    pub earlier: Option<Proof>,
}

impl Proofs {
    /// The last proof of the history that a proof belongs to, if the database has that history as far as the proof.
    pub fn last_of(&self, proof: Proof) -> Option<Proof> {
        let has = |last: &Proof| last.history == proof.history && last.number >= proof.number;
        [self.latest, self.earlier].into_iter().flatten().find(has)
    }
}

/// A number that tells how far a reader is, and the proof on which what it tells of may be published; none in what a
/// version wrote that made no proofs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvenPosition<N> {
    /// How far.
    pub at: N,
    /// On which proof.
    pub proof: Option<Proof>,
}

impl<N: fmt::Display> fmt::Display for ProvenPosition<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.at.fmt(f)?;
        match self.proof {
            Some(Proof { history, number }) => write!(f, " {history} {number}"),
            None => Ok(()),
        }
    }
}

/// What is no place.
#[derive(Debug, thiserror::Error)]
#[error("a place is a number, and a history and another number behind it where it was proven")]
pub struct InvalidPlace;

impl<N: FromStr> FromStr for ProvenPosition<N> {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let words: Vec<&str> = text.split(' ').collect();
        let (at, proof) = match words[..] {
            [at] => (at, None),
            [at, history, number] => {
                let history = Uuid::try_parse(history).map_err(|_| InvalidPlace)?;
                let number = number.parse().map_err(|_| InvalidPlace)?;
                (at, Some(Proof { history, number }))
            }
            _ => return Err(InvalidPlace),
        };
        Ok(Self { at: at.parse().map_err(|_| InvalidPlace)?, proof })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_as_it_was_written_with_and_without_a_proof() {
        for place in
            [ProvenPosition { at: 17, proof: None }, ProvenPosition { at: -1, proof: Some(Proof::first().next()) }]
        {
            assert_eq!(place.to_string().parse::<ProvenPosition<i64>>().expect("a place"), place);
        }
        assert_eq!(ProvenPosition { at: 17, proof: None }.to_string(), "17");
        for text in ["", "x", "1 2", "1 2 3", "1 00000000-0000-4000-8000-000000000000 x"] {
            assert!(text.parse::<ProvenPosition<i64>>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_proof_is_known_by_its_history_as_far_as_the_database_has_it() {
        let (one, other) = (Proof::first(), Proof::first());
        let proofs = Proofs { latest: Some(one.next()), earlier: Some(other) };
        assert_eq!(proofs.last_of(one), Some(one.next()));
        assert_eq!(proofs.last_of(one.next()), Some(one.next()));
        assert_eq!(proofs.last_of(one.next().next()), None);
        assert_eq!(proofs.last_of(other), Some(other));
        assert_eq!(proofs.last_of(Proof::first()), None);
    }
}
