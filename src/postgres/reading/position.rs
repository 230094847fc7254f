//! Snapshots and positions: which transactions a reading session has seen. Pure.
//!
//! A row is new if it is visible now and was not visible in an earlier snapshot. For a visible row, "not
//! visible in the snapshot `xmin:xmax:xip`" is exactly `xid >= xmax or xid = any(xip)`, which an index serves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::contract::StoreError;
use crate::outbox::{Position, Proof};

/// What `pg_current_snapshot()` returns: ids of 64 bits, which do not wrap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Snapshot {
    /// Every transaction below was over.
    pub xmin: u64,
    /// No transaction from here on was over.
    pub xmax: u64,
    /// Those in between that were still open, ascending.
    pub open: Vec<u64>,
}

/// Text that is no snapshot.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no snapshot of PostgreSQL")]
pub(crate) struct InvalidSnapshot {
    text: String,
}

impl Snapshot {
    /// The snapshot before everything: nothing is visible in it.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    /// Whether nothing is visible in it.
    pub(crate) fn is_nothing(&self) -> bool {
        self.xmax == 0
    }

    /// What PostgreSQL reads: no snapshot that begins at 0. In one that begins and ends at 1 nothing of ours is visible
    /// either.
    pub(crate) fn shown(&self) -> String {
        if self.is_nothing() { "1:1:".to_owned() } else { self.to_string() }
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshot> {
        parse(text).ok_or_else(|| InvalidSnapshot { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Snapshot> {
    let mut parts = text.splitn(3, ':');
    let xmin: u64 = parts.next()?.parse().ok()?;
    let xmax: u64 = parts.next()?.parse().ok()?;
    let list = parts.next()?;
    let open: Vec<u64> = match list {
        "" => Vec::new(),
        list => list.split(',').map(|xid| xid.parse().ok()).collect::<Option<_>>()?,
    };
    let inside = open.iter().all(|xid| (xmin..xmax).contains(xid));
    let is_ascending = open.is_sorted_by(|one, next| one < next);
    // Transactions are numbered from 1; only the snapshot before everything is at 0.
    let begins = xmin > 0 || xmax == 0;
    (xmin <= xmax && begins && inside && is_ascending).then_some(Snapshot { xmin, xmax, open })
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.open.iter().enumerate() {
            write!(f, "{}{xid}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.to_string()
    }
}

impl TryFrom<String> for Snapshot {
    type Error = InvalidSnapshot;

    fn try_from(text: String) -> Result<Self, InvalidSnapshot> {
        text.parse()
    }
}

/// How far a reader is. It tells of every row whether it was read: rows visible in `prev` were; of the rows
/// visible in `frozen.cur` those up to `frozen.last` were; no other was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadPosition {
    /// Everything visible in it was read.
    pub prev: Snapshot,
    /// A window that is larger than a batch, while it is being paged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
    /// The highest id ever read.
    pub highest: i64,
    /// The cluster in which the snapshots mean something; empty where the role may not ask.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// The proof on which it may be published; none in positions of versions that did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// A window from `prev` to `cur` that is read in pages, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frozen {
    /// Where the window ends.
    pub cur: Snapshot,
    /// Its rows up to this id were read.
    pub last: i64,
}

impl ReadPosition {
    /// The next snapshot at which no window is open: where everything visible was read.
    pub(crate) fn boundary(&self) -> &Snapshot {
        self.frozen.as_ref().map_or(&self.prev, |frozen| &frozen.cur)
    }

    /// Whether the same was read there and here.
    pub(crate) fn is_level_with(&self, other: &ReadPosition) -> bool {
        self.prev == other.prev && self.frozen == other.frozen
    }

    /// Whether both are inside one window.
    pub(crate) fn is_in_the_window_of(&self, other: &ReadPosition) -> bool {
        let end = |at: &ReadPosition| at.frozen.as_ref().map(|frozen| frozen.cur.clone());
        self.prev == other.prev && self.frozen.is_some() && end(self) == end(other)
    }

    /// Whether everything that was read there was read here, and more. Both must be of one succession of sessions,
    /// each begun where the one before had stored that it was.
    pub(crate) fn is_after(&self, other: &ReadPosition) -> bool {
        // Of two snapshots that end at the same id the later one has fewer transactions open.
        let place = |at: &ReadPosition| {
            let last = at.frozen.as_ref().map(|frozen| frozen.last);
            (at.prev.xmax, std::cmp::Reverse(at.prev.open.len()), last)
        };
        place(self) > place(other)
    }

    /// What the relay carries around and stores.
    pub(crate) fn to_position(&self) -> Position {
        Position::new(serde_json::to_string(self).expect("snapshots and numbers are always JSON"))
    }

    /// Reads back what is stored.
    pub(crate) fn from_stored(text: &str) -> Result<Self, StoreError> {
        Self::from_position(text).map_err(|error| StoreError::Incompatible {
            problem: "the stored checkpoint cannot be read".to_owned(),
            repair: "run the version of outboxd that wrote it, or a newer one".to_owned(),
            source: Some(Box::new(error)),
        })
    }

    /// Reads back what [`to_position`](Self::to_position) wrote.
    pub(crate) fn from_position(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_read_as_postgresql_writes_them() {
        let snapshot: Snapshot = "738:741:738,740".parse().expect("a snapshot");
        assert_eq!(snapshot, Snapshot { xmin: 738, xmax: 741, open: vec![738, 740] });
        assert_eq!(snapshot.to_string(), "738:741:738,740");
        let none: Snapshot = "741:741:".parse().expect("a snapshot");
        assert!(none.open.is_empty() && !none.is_nothing());
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1:2", "2:1:", "1:3:3", "1:4:2,x", "1:9:5,4", "1:9:4,4", "0:9:", "-1:2:", "1:2:,"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_position_survives_being_stored() {
        let frozen = Frozen { cur: "5:9:6".parse().expect("a snapshot"), last: 12 };
        let at =
            ReadPosition { prev: Snapshot::nothing(), frozen: Some(frozen), highest: 40, ..ReadPosition::default() };
        let text = at.to_position();
        assert_eq!(ReadPosition::from_position(text.as_str()).expect("a position"), at);
        assert_eq!(text.as_str(), r#"{"prev":"0:0:","frozen":{"cur":"5:9:6","last":12},"highest":40}"#);
        assert!(ReadPosition::from_position("{}").is_err());
    }

    #[test]
    fn positions_of_one_succession_follow_each_other() {
        let at = |prev: &str, frozen: Option<i64>| ReadPosition {
            prev: prev.parse().expect("a snapshot"),
            frozen: frozen.map(|last| Frozen { cur: "9:9:".parse().expect("a snapshot"), last }),
            ..ReadPosition::default()
        };
        let succession = [
            ReadPosition::default(),
            at("5:8:5,6", None),
            at("5:8:5", None),
            at("5:8:5", Some(3)),
            at("5:8:5", Some(7)),
            at("9:9:", None),
        ];
        for (number, earlier) in succession.iter().enumerate() {
            assert!(!earlier.is_after(earlier));
            assert!(succession[number + 1..].iter().all(|later| later.is_after(earlier) && !earlier.is_after(later)));
        }
    }
}
