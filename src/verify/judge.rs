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

/// What is wrong with the order of one lane.
#[derive(Debug, Clone, Copy)]
struct Disorder {
    records: u64,
    first: Seen,
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
    hidden: RoaringTreemap,
    /// What was sent again, by topic.
    replayed: HashMap<String, RoaringTreemap>,
}

impl Everything {
    /// Notes a record; false says that its row was seen before, here or in another partition.
    pub(crate) fn note(&mut self, id: i64) -> bool {
        self.rows.insert(id.unsigned_abs())
    }

    /// Notes a record that no `read_committed` consumer sees, because a transaction before it is open.
    pub(crate) fn note_hidden(&mut self, id: i64) {
        self.hidden.insert(id.unsigned_abs());
    }

    /// Notes a record of a row that was sent again to this topic.
    pub(crate) fn note_replayed(&mut self, topic: &str, id: i64) {
        self.replayed.entry(topic.to_owned()).or_default().insert(id.unsigned_abs());
    }

    /// Whether the topic holds a record of the row that was sent again.
    pub(crate) fn is_replayed(&self, topic: &str, id: i64) -> bool {
        self.replayed.get(topic).is_some_and(|rows| rows.contains(id.unsigned_abs()))
    }

    /// What is expected and was not seen: rows that the broker does not hold, and those that it still hides.
    pub(crate) fn missing(&self, expected: RoaringTreemap) -> (RoaringTreemap, RoaringTreemap) {
        let missing = expected - &self.rows;
        let hidden = &missing & &self.hidden;
        (missing - &hidden, hidden)
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
    /// Of lanes out of order; kept apart from the many that are not. A lane that is left to a later pass takes what
    /// was found with it, since that pass finds it again.
    disorder: HashMap<u64, Disorder>,
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
        Self {
            part,
            lanes: HashMap::new(),
            disorder: HashMap::new(),
            rows: RoaringTreemap::new(),
            limit,
            left: Vec::new(),
        }
    }

    /// Follows a record's lane. What is wrong is the first occurrence of a row after that of a later one of its lane.
    pub(crate) fn follow(&mut self, seen: Seen) {
        let Some(lane) = seen.lane.filter(|lane| self.part.holds(*lane)) else { return };
        let is_first = self.rows.insert(seen.id.unsigned_abs());
        let fresh = Trail { highest: seen.id, last: seen.id, last_offset: seen.offset };
        let trail = self.lanes.entry(lane).or_insert(fresh);
        if is_first && seen.id < trail.highest {
            self.disorder.entry(lane).or_insert(Disorder { records: 0, first: seen }).records += 1;
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
        self.disorder.retain(|lane, _| part.holds(*lane));
    }

    /// Reports disorder inside lanes, with one example of each, and lanes that do not end with their highest row. Says
    /// which parts are to be passed through yet.
    pub(crate) fn end(self, at: &Where, report: &mut Report) -> Vec<Part> {
        let mut disorder: Vec<_> = self.disorder.into_values().collect();
        disorder.sort_unstable_by_key(|disorder| disorder.first.offset);
        for Disorder { records, first } in disorder {
            report.reordered.add_many(records, || Finding::at(at, first.offset, first.id));
        }
        let mut stale: Vec<_> = self.lanes.into_values().filter(|trail| trail.last != trail.highest).collect();
        stale.sort_unstable_by_key(|trail| trail.last_offset);
        for trail in stale {
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
                pass.follow(Seen { id: *id, lane: Some(*lane), offset });
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
            pass.follow(Seen { id, lane: None, offset: id });
        }
        pass.end(&at, &mut report);
        assert_eq!(found(&report), (0, 0));
    }

    #[test]
    fn a_stale_record_at_the_end_of_a_lane_is_found() {
        let report = judged(&[(1, 7), (2, 7), (1, 7), (1, 8)], 10);
        assert_eq!(found(&report), (0, 1));
        assert_eq!((report.stale_last.examples[0].offset, report.stale_last.examples[0].id), (Some(2), Some(1)));
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

    #[test]
    fn disorder_in_a_lane_that_is_left_to_a_later_pass_is_counted_once() {
        // Each lane has a swap before there is no room for it any more.
        let ids: Vec<(i64, u64)> = (0..40_u64)
            .flat_map(|lane| {
                [(10, lane), (30, lane), (20, lane)].map(|(id, lane)| (id + 100 * lane.cast_signed(), lane))
            })
            .collect();
        for limit in [1, 3, 7, 1_000] {
            assert_eq!(found(&judged(&ids, limit)), (40, 40), "{limit}");
        }
    }
}
