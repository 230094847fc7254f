//! How far a reader is, and what that tells of a row, in SQL. Pure.
//!
//! A position is the highest id that was read and the ids below it that were not. It is written as JSON, in which the
//! missing ids are told by their distances, so that millions that follow a pattern take a few bytes: with an
//! `auto_increment_increment` of 3 two of three ids are missing.

use std::cmp::Reverse;
use std::fmt::Write;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::contract::StoreError;
use crate::mysql::errors::incompatible;
use crate::outbox::{Position, Proof};
use crate::reading::GapList;

/// Ranges of missing ids that a position may tell of.
const MISSING_AT_MOST: usize = 2_000_000;

/// How far a reader is: rows up to `last` were read but for those in the gaps; no other was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReadPosition {
    /// The highest id that was read; 0 before the first.
    pub(crate) last: i64,
    /// What was not read below, ascending; none touches another.
    pub(crate) gaps: Vec<RangeInclusive<i64>>,
    /// The proof on which it may be published.
    pub(crate) proof: Option<Proof>,
}

/// A position as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    last: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    gaps: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

/// Text that is no position.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidPosition {
    #[error("it is no JSON of a position")]
    NotJson(#[from] serde_json::Error),
    #[error("its ids contradict each other")]
    Contradictory,
}

impl ReadPosition {
    /// Where a list of gaps is.
    pub(crate) fn of(list: &GapList, proof: Option<Proof>) -> Self {
        Self { last: list.last(), gaps: list.missing(), proof }
    }

    /// Whether the row of an id was read.
    pub(crate) fn contains(&self, id: i64) -> bool {
        id <= self.last && !self.is_in_a_gap(id)
    }

    fn is_in_a_gap(&self, id: i64) -> bool {
        let beyond = self.gaps.partition_point(|gap| *gap.start() <= id);
        beyond > 0 && *self.gaps[beyond - 1].end() >= id
    }

    /// Everything up to here was read, or can no longer come: no gap is below.
    pub(crate) fn floor(&self) -> i64 {
        self.gaps.first().map_or(self.last, |gap| gap.start() - 1)
    }

    /// Whether more was read here than there. Both must be of one succession of sessions, each begun where the one before
    /// had stored that it was.
    pub(crate) fn is_after(&self, other: &Self) -> bool {
        let place = |at: &Self| (at.last, Reverse(at.missing()));
        place(self) > place(other)
    }

    /// How many ids are missing.
    fn missing(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.start().abs_diff(*gap.end()) + 1).sum()
    }

    /// What the relay carries around and stores.
    pub(crate) fn to_position(&self) -> Position {
        let written = Written { last: self.last, gaps: written(&self.gaps), proof: self.proof };
        Position::new(serde_json::to_string(&written).expect("numbers and text are always JSON"))
    }

    /// Reads back what [`to_position`](Self::to_position) wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidPosition> {
        let Written { last, gaps, proof } = serde_json::from_str(text)?;
        let gaps = read(&gaps, last).ok_or(InvalidPosition::Contradictory)?;
        Ok(Self { last, gaps, proof })
    }

    /// Reads back what is stored.
    pub(crate) fn from_stored(text: &str) -> Result<Self, StoreError> {
        Self::parse(text).map_err(|error| StoreError::Incompatible {
            problem: "the stored checkpoint cannot be read".to_owned(),
            repair: "run the version of outboxd that wrote it, or a newer one".to_owned(),
            source: Some(Box::new(error)),
        })
    }

    /// Reads what the relay hands over.
    pub(crate) fn from_position(position: &Position) -> Result<Self, StoreError> {
        Self::parse(position.as_str()).map_err(|error| {
            let problem = format!("what is said to be a position in this outbox is none: {error}");
            incompatible(problem, "run the version of outboxd that wrote it, or a newer one")
        })
    }
}

/// The gaps in words, each `SKIP+MORE*TIMES`: a gap begins so many ids after the end of the one before, has so many more ids
/// than one, and is followed by others of the same kind. What is 0, or 1 of the times, is left out.
fn written(gaps: &[RangeInclusive<i64>]) -> String {
    let mut text = String::new();
    let mut end = 0;
    let steps = gaps.iter().map(|gap| {
        let step = (gap.start() - end, gap.end() - gap.start());
        end = *gap.end();
        step
    });
    let mut same: Option<((i64, i64), u64)> = None;
    for step in steps {
        same = match same {
            Some((before, times)) if before == step => Some((step, times + 1)),
            Some((before, times)) => {
                write_word(&mut text, before, times);
                Some((step, 1))
            }
            None => Some((step, 1)),
        };
    }
    if let Some((step, times)) = same {
        write_word(&mut text, step, times);
    }
    text
}

fn write_word(text: &mut String, (skip, more): (i64, i64), times: u64) {
    if !text.is_empty() {
        text.push(' ');
    }
    let mut add = |sign: &str, number: String| {
        text.push_str(sign);
        text.push_str(&number);
    };
    add("", skip.to_string());
    if more > 0 {
        add("+", more.to_string());
    }
    if times > 1 {
        add("*", times.to_string());
    }
}

/// Reads gaps back; nothing where the text is none of them, or they are not below `last`.
fn read(text: &str, last: i64) -> Option<Vec<RangeInclusive<i64>>> {
    let mut gaps: Vec<RangeInclusive<i64>> = Vec::new();
    let mut end = 0_i64;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let (step, times) = word.split_once('*').unwrap_or((word, "1"));
        let (skip, more) = step.split_once('+').unwrap_or((step, "0"));
        let (skip, more, times): (i64, i64, usize) = (skip.parse().ok()?, more.parse().ok()?, times.parse().ok()?);
        if skip < 1 || more < 0 || times > MISSING_AT_MOST - gaps.len() {
            return None;
        }
        for _ in 0..times {
            let first = end.checked_add(skip).filter(|first| gaps.is_empty() || first - end > 1)?;
            end = first.checked_add(more).filter(|end| *end < last)?;
            gaps.push(first..=end);
        }
    }
    (last >= 0).then_some(gaps)
}

/// The condition that an id is in one of these ranges, in SQL; false without any.
pub(crate) fn is_among(ranges: impl IntoIterator<Item = RangeInclusive<i64>>, id: &str) -> String {
    let (mut single, mut text) = (String::new(), String::new());
    for range in ranges {
        let (first, last) = range.into_inner();
        let written = match first == last {
            true => write!(single, "{}{first}", if single.is_empty() { "" } else { "," }),
            false => {
                write!(text, "{}{id} between {first} and {last}", if text.is_empty() { "" } else { " or " })
            }
        };
        written.expect("a string takes everything");
    }
    match (single.is_empty(), text.is_empty()) {
        (true, true) => "false".to_owned(),
        (true, false) => format!("({text})"),
        (false, true) => format!("{id} in ({single})"),
        (false, false) => format!("({id} in ({single}) or {text})"),
    }
}

/// The condition that a position calls the row of an id read, in SQL. Without a position it is false; it is never null.
pub(crate) fn is_read(at: Option<&ReadPosition>, id: &str) -> String {
    match at {
        None => "false".to_owned(),
        Some(at) if at.gaps.is_empty() => format!("{id} <= {}", at.last),
        Some(at) => format!("({id} <= {} and not {})", at.last, is_among(at.gaps.iter().cloned(), id)),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: i64, gaps: &[RangeInclusive<i64>]) -> ReadPosition {
        ReadPosition { last, gaps: gaps.to_vec(), proof: None }
    }

    #[test]
    fn a_position_tells_of_every_row_whether_it_was_read() {
        let place = at(10, &[3..=3, 7..=8]);
        let read: Vec<i64> = (1..13).filter(|id| place.contains(*id)).collect();
        assert_eq!(read, [1, 2, 4, 5, 6, 9, 10]);
        assert_eq!((place.floor(), at(10, &[]).floor(), ReadPosition::default().floor()), (2, 10, 0));
        assert_eq!(is_read(Some(&place), "id"), "(id <= 10 and not (id in (3) or id between 7 and 8))");
        assert_eq!(is_read(Some(&at(10, &[])), "id"), "id <= 10");
        assert_eq!(is_read(None, "id"), "false");
    }

    #[test]
    fn missing_ids_that_follow_a_pattern_take_a_few_bytes() {
        let gaps: Vec<_> = (0..300_000).map(|number| 3 * number + 2..=3 * number + 3).collect();
        let place = at(1_000_000, &gaps);
        assert_eq!(place.to_position().as_str(), r#"{"last":1000000,"gaps":"2+1*300000"}"#);
        assert_eq!(ReadPosition::parse(place.to_position().as_str()).expect("a position"), place);
        let place = at(99, &[1..=1, 5..=9, 50..=50]);
        assert_eq!(place.to_position().as_str(), r#"{"last":99,"gaps":"1 4+4 41"}"#);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for text in ["{}", "7", r#"{"last":-1}"#, r#"{"last":9,"gaps":"9"}"#, r#"{"last":9,"gaps":"3+2 1"}"#] {
            assert!(ReadPosition::parse(text).is_err(), "{text}");
        }
        for gaps in ["0", "-1", "2+-1", "x", "2*9000000000", "2*", "9223372036854775807 9223372036854775807"] {
            let text = format!(r#"{{"last":9223372036854775807,"gaps":"{gaps}"}}"#);
            assert!(ReadPosition::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn positions_of_one_succession_follow_each_other() {
        let succession = [at(0, &[]), at(9, &[2..=4, 7..=7]), at(9, &[2..=4]), at(9, &[]), at(12, &[10..=11])];
        for (number, earlier) in succession.iter().enumerate() {
            assert!(!earlier.is_after(earlier));
            assert!(succession[number + 1..].iter().all(|later| later.is_after(earlier) && !earlier.is_after(later)));
        }
    }
}
