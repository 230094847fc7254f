//! Judging what a broker holds, record by record: duplicates, order inside lanes, and what no committed row explains.
//!
//! Pure, and of bounded memory: a bit for each row, and a few numbers for each lane of one partition, up to a limit.
//! Where a partition has more lanes, it is read again for those that found no room.

use std::collections::HashMap;

use roaring::RoaringTreemap;

use crate::verify::report::{Finding, Report, Where};

/// Lanes of one partition that are followed at once: some 50 MB.
const LANES: usize = 1_000_000;

/// A record of this outbox, as the broker holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The row's id, from the header `outbox-id`.
    pub(crate) id: i64,
    /// A hash of the lane, if the record has one.
    pub(crate) lane: Option<u64>,
    pub(crate) offset: i64,
}

/// What was seen of one lane.
#[derive(Debug, Clone, Copy)]
struct Trail {
    highest: i64,
    last: i64,
    last_offset: i64,
}

/// The part of a partition's lanes that one pass follows: those whose hash leaves `rest` when divided by `parts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    parts: u64,
    rest: u64,
}

impl Part {
    /// All lanes.
    pub(crate) const ALL: Self = Self { parts: 1, rest: 0 };

    fn holds(self, lane: u64) -> bool {
        lane % self.parts == self.rest
    }
}

/// What was seen in all partitions so far.
#[derive(Debug, Default)]
pub(crate) struct Everything {
    rows: RoaringTreemap,
}

impl Everything {
    /// Notes a record; false says that its row was seen before, here or in another partition.
    pub(crate) fn note(&mut self, id: i64) -> bool {
        self.rows.insert(id.unsigned_abs())
    }

    /// Rows that are expected and were not seen.
    pub(crate) fn lost<'a>(&'a self, expected: &'a RoaringTreemap) -> impl Iterator<Item = i64> + 'a {
        (expected - &self.rows).into_iter().map(u64::cast_signed)
    }

    /// How many different rows were seen.
    pub(crate) fn len(&self) -> u64 {
        self.rows.len()
    }
}

/// One pass through one partition.
#[derive(Debug)]
pub(crate) struct Pass {
    part: Part,
    lanes: HashMap<u64, Trail>,
    rows: RoaringTreemap,
    limit: usize,
    /// Parts that found no room.
    left: Vec<Part>,
}

impl Pass {
    /// Begins a pass for a part of the lanes.
    pub(crate) fn begin(part: Part) -> Self {
        Self::with_limit(part, LANES)
    }

    fn with_limit(part: Part, limit: usize) -> Self {
        Self { part, lanes: HashMap::new(), rows: RoaringTreemap::new(), limit, left: Vec::new() }
    }

    /// Follows a record's lane. Reports the first occurrence of a row after that of a later one of its lane.
    pub(crate) fn follow(&mut self, seen: Seen, at: &Where, report: &mut Report) {
        let Some(lane) = seen.lane.filter(|lane| self.part.holds(*lane)) else { return };
        let is_first = self.rows.insert(seen.id.unsigned_abs());
        let fresh = Trail { highest: seen.id, last: seen.id, last_offset: seen.offset };
        let trail = self.lanes.entry(lane).or_insert(fresh);
        if is_first && seen.id < trail.highest {
            report.reordered.add(|| Finding::at(at, seen.offset, seen.id));
        }
        trail.highest = trail.highest.max(seen.id);
        (trail.last, trail.last_offset) = (seen.id, seen.offset);
        if self.lanes.len() > self.limit {
            self.make_room();
        }
    }

    /// Leaves half of the lanes to a later pass.
    fn make_room(&mut self) {
        let Part { parts, rest } = self.part;
        self.part = Part { parts: parts * 2, rest };
        self.left.push(Part { parts: parts * 2, rest: rest + parts });
        let part = self.part;
        self.lanes.retain(|lane, _| part.holds(*lane));
        self.lanes.shrink_to_fit();
    }

    /// Reports lanes that do not end with their highest row, and says which parts are to be passed through yet.
    pub(crate) fn end(self, at: &Where, report: &mut Report) -> Vec<Part> {
        for trail in self.lanes.values().filter(|trail| trail.last != trail.highest) {
            report.stale_last.add(|| Finding::at(at, trail.last_offset, trail.last));
        }
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ids: &[(i64, u64)], limit: usize) -> Report {
        let at = Where { topic: "t".into(), partition: 0 };
        let mut report = Report::default();
        let mut parts = vec![Part::ALL];
        while let Some(part) = parts.pop() {
            let mut pass = Pass::with_limit(part, limit);
            for (offset, (id, lane)) in (0..).zip(ids) {
                pass.follow(Seen { id: *id, lane: Some(*lane), offset }, &at, &mut report);
            }
            parts.extend(pass.end(&at, &mut report));
        }
        report
    }

    fn found(report: &Report) -> (u64, u64) {
        (report.reordered.count, report.stale_last.count)
    }

    #[test]
    fn a_rewind_is_no_disorder_and_a_swap_is() {
        assert_eq!(found(&judged(&[(1, 7), (2, 7), (3, 7), (2, 7), (3, 7), (4, 7)], 10)), (0, 0));
        assert_eq!(found(&judged(&[(1, 7), (3, 7), (2, 7), (4, 7)], 10)), (1, 0));
    }

    #[test]
    fn order_is_promised_inside_a_lane_only() {
        assert_eq!(found(&judged(&[(2, 7), (1, 8), (4, 7), (3, 8)], 10)), (0, 0));
        let at = Where { topic: "t".into(), partition: 0 };
        let (mut pass, mut report) = (Pass::begin(Part::ALL), Report::default());
        for id in [3, 1, 2] {
            pass.follow(Seen { id, lane: None, offset: id }, &at, &mut report);
        }
        pass.end(&at, &mut report);
        assert_eq!(found(&report), (0, 0));
    }

    #[test]
    fn a_stale_record_at_the_end_of_a_lane_is_found() {
        let report = judged(&[(1, 7), (2, 7), (1, 7), (1, 8)], 10);
        assert_eq!(found(&report), (0, 1));
        assert_eq!((report.stale_last.examples[0].offset, report.stale_last.examples[0].id), (Some(2), 1));
    }

    #[test]
    fn lanes_without_room_are_judged_in_later_passes() {
        let lanes: i64 = 100;
        let mut ids: Vec<(i64, u64)> = (0..lanes).map(|lane| (lane + 1, lane.unsigned_abs() * 31)).collect();
        ids.extend((0..lanes).map(|lane| (2 * lanes - lane, (lanes - 1 - lane).unsigned_abs() * 31)));
        assert_eq!(found(&judged(&ids, 7)), (0, 0));
        // One swap and one stale end, wherever they fall.
        ids.push((1_000, 31));
        ids.push((999, 31));
        for limit in [1, 3, 7, 1_000] {
            assert_eq!(found(&judged(&ids, limit)), (1, 1), "{limit}");
        }
    }
}
