//! Which rows are new where a database numbers them as they are inserted, and not as they commit: those above the highest
//! id that was read, and those whose ids were not there when higher ones were. The missing ids are the *gaps*.
//!
//! A reader asks for the gaps and for what is above the last id in *one* statement, so that it sees the rows of a key in the
//! order in which they were committed. A gap stays until its row is read, or until it is known that no transaction is
//! left that could fill it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;
use tokio::time::Instant;

/// Gaps that a statement may name. With tens of thousands MySQL and MariaDB give up their plan, and scan the table.
pub const GAPS_AT_MOST: usize = 2_000;

/// Ids that may be between two gaps that become one: what was read in between is found again by each statement.
const MERGED_ACROSS: i64 = 10_000;

/// How far a reader is: everything up to [`last`](Self::last) was read, but for the gaps. Ids are positive.
#[derive(Debug, Clone)]
pub struct GapList {
    /// How many gaps there may be.
    most: usize,
    last: i64,
    /// By their first ids. None touches another.
    gaps: BTreeMap<i64, Gap>,
    /// Ids inside gaps that were read: neighbours became one where there were too many.
    read: RoaringTreemap,
}

#[derive(Debug, Clone, Copy)]
struct Gap {
    last: i64,
    /// When the answer came in which it was missing first.
    seen: Instant,
}

impl GapList {
    /// Goes on where everything up to `last` was read but for these gaps, which are as young as `now`. They are ascending.
    pub fn restore(last: i64, gaps: impl IntoIterator<Item = RangeInclusive<i64>>, now: Instant) -> Self {
        Self::with_gaps_at_most(GAPS_AT_MOST, last, gaps, now)
    }

    fn with_gaps_at_most(
        most: usize,
        last: i64,
        gaps: impl IntoIterator<Item = RangeInclusive<i64>>,
        now: Instant,
    ) -> Self {
        let gaps = gaps.into_iter().map(|gap| (*gap.start(), Gap { last: *gap.end(), seen: now })).collect();
        let mut list = Self { most, last, gaps, read: RoaringTreemap::new() };
        list.merge();
        list
    }

    /// The highest id that was read.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// Everything up to here was read, or can no longer come: no gap is below.
    pub fn floor(&self) -> i64 {
        self.gaps.keys().next().map_or(self.last, |first| first - 1)
    }

    /// The ids that a statement has to ask for besides those above [`last`](Self::last), ascending.
    pub fn gaps(&self) -> impl Iterator<Item = RangeInclusive<i64>> {
        self.gaps.iter().map(|(first, gap)| *first..=gap.last)
    }

    /// Those gaps that were seen before.
    pub fn gaps_before(&self, since: Instant) -> impl Iterator<Item = RangeInclusive<i64>> {
        self.gaps.iter().filter(move |(_, gap)| gap.seen < since).map(|(first, gap)| *first..=gap.last)
    }

    /// Whether nothing is missing below [`last`](Self::last).
    pub fn has_no_gaps(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Whether an id was not read: it is above [`last`](Self::last), or missing.
    pub fn is_missing(&self, id: i64) -> bool {
        id > self.last || self.gap_around(id).is_some() && !self.read.contains(number(id))
    }

    /// How many rows such a statement may find that were read already: what it is limited to has to be larger by that.
    pub fn read_again(&self) -> u64 {
        self.read.len()
    }

    /// Exactly those ids that were not read, to be stored: as [`gaps`](Self::gaps), without what was read in them.
    pub fn missing(&self) -> Vec<RangeInclusive<i64>> {
        let mut missing = Vec::with_capacity(self.gaps.len());
        self.gaps.iter().for_each(|(first, gap)| self.add_missing(*first, gap.last, &mut missing));
        missing
    }

    /// Adds what was not read of a gap.
    fn add_missing(&self, first: i64, last: i64, missing: &mut Vec<RangeInclusive<i64>>) {
        // A gap neither begins nor ends with an id that was read.
        let mut from = first;
        let mut read = self.read.iter();
        read.advance_to(number(first));
        for read in read.map(|id| id as i64).take_while(|id| *id < last) {
            if from < read {
                missing.push(from..=read - 1);
            }
            from = read + 1;
        }
        missing.push(from..=last);
    }

    /// Takes in the answer of a statement that asked for the gaps and for what is above, in ascending order: says of each id
    /// whether it is new. An answer that was cut off at its end tells nothing of higher ids.
    pub fn take(&mut self, ids: impl IntoIterator<Item = i64>, now: Instant) -> Vec<bool> {
        let news =
            ids.into_iter().map(|id| if id > self.last { self.above(id, now) } else { self.inside(id) }).collect();
        self.merge();
        news
    }

    fn above(&mut self, id: i64, now: Instant) -> bool {
        if let Some(first) = self.last.checked_add(1).filter(|first| *first < id) {
            self.gaps.insert(first, Gap { last: id - 1, seen: now });
        }
        self.last = id;
        true
    }

    /// The gap that an id is in, by its first id.
    fn gap_around(&self, id: i64) -> Option<(i64, Gap)> {
        let (first, gap) = self.gaps.range(..=id).next_back()?;
        (gap.last >= id).then_some((*first, *gap))
    }

    fn inside(&mut self, id: i64) -> bool {
        let Some((first, gap)) = self.gap_around(id) else { return false };
        if !self.read.insert(number(id)) {
            return false;
        }
        self.gaps.remove(&first);
        // What is left begins and ends with ids that were not read.
        let below = (first..=id).rev().find(|id| !self.read.remove(number(*id)));
        let above = (id..=gap.last).find(|above| *above != id && !self.read.remove(number(*above)));
        if let Some(last) = below {
            self.gaps.insert(first, Gap { last, ..gap });
        }
        if let Some(first) = above {
            self.gaps.insert(first, gap);
        }
        true
    }

    /// Forgets the ids in `probed` that were missing before `since` and are not among those `in_progress`: no transaction is
    /// left that could fill them. Returns how many it forgot.
    ///
    /// `in_progress` are the ids, ascending, of rows that are there, committed or not. The caller knows that no statement runs
    /// that ran before `since`.
    pub fn forget(&mut self, probed: RangeInclusive<i64>, in_progress: &[i64], since: Instant) -> u64 {
        self.forget_but(&probed, since, |missing| {
            let (first, last) = (*missing.start(), *missing.end());
            let (from, end) = (first.max(*probed.start()), last.min(*probed.end()));
            let mut kept = Vec::new();
            if first < from {
                kept.push(first..=last.min(from - 1));
            }
            kept.extend(within(in_progress, from, end).iter().map(|id| *id..=*id));
            if end < last {
                kept.push(first.max(end + 1)..=last);
            }
            kept
        })
    }

    /// As [`forget`](Self::forget), where the caller does not know what runs and has waited long enough: what one statement
    /// may write is forgotten together, if none of it is in progress.
    pub fn forget_whole(&mut self, probed: RangeInclusive<i64>, in_progress: &[i64], since: Instant) -> u64 {
        self.forget_but(&probed, since, |missing| {
            let (first, last) = (*missing.start(), *missing.end());
            let is_probed = probed.contains(&first) && probed.contains(&last);
            let is_over = is_probed && within(in_progress, first, last).is_empty();
            if is_over { Vec::new() } else { vec![missing] }
        })
    }

    /// Forgets ids in gaps that were seen before, but for what is `kept` of each range of them that were not read.
    fn forget_but(
        &mut self,
        probed: &RangeInclusive<i64>,
        since: Instant,
        kept: impl Fn(RangeInclusive<i64>) -> Vec<RangeInclusive<i64>>,
    ) -> u64 {
        let is_concerned = |gap: &Gap| gap.seen < since && gap.last >= *probed.start();
        let up_to_the_end = self.gaps.range(..=*probed.end());
        let old: Vec<(i64, Gap)> =
            up_to_the_end.filter(|(_, gap)| is_concerned(gap)).map(|(first, gap)| (*first, *gap)).collect();
        let mut forgotten = 0;
        for (first, gap) in old {
            let mut missing = Vec::new();
            self.add_missing(first, gap.last, &mut missing);
            self.gaps.remove(&first);
            self.read.remove_range(number(first)..=number(gap.last));
            for missing in missing {
                forgotten += length(&missing);
                for kept in kept(missing) {
                    forgotten -= length(&kept);
                    self.keep(kept, gap.seen);
                }
            }
        }
        self.merge();
        forgotten
    }

    /// Keeps a part of a gap that is forgotten, together with the one that ends before it if there is one.
    fn keep(&mut self, part: RangeInclusive<i64>, seen: Instant) {
        let (first, last) = part.into_inner();
        match self.gaps.range_mut(..first).next_back() {
            Some((_, before)) if before.last == first - 1 => before.last = last,
            _ => {
                self.gaps.insert(first, Gap { last, seen });
            }
        }
    }

    /// Makes one of those neighbours that are closest to each other, if there are too many gaps. Those that are far apart stay.
    fn merge(&mut self) {
        if self.gaps.len() <= self.most {
            return;
        }
        let gaps: Vec<(i64, Gap)> = self.gaps.iter().map(|(first, gap)| (*first, *gap)).collect();
        let apart = gaps.windows(2).enumerate().map(|(at, pair)| (pair[1].0 - pair[0].1.last - 1, at));
        let mut near: Vec<(i64, usize)> = apart.filter(|(apart, _)| *apart <= MERGED_ACROSS).collect();
        near.sort_unstable();
        // Some more than needed, so that not each new gap makes it necessary again.
        near.truncate(gaps.len() - self.most / 4 * 3);
        let mut joined = vec![false; gaps.len()];
        near.iter().for_each(|(_, at)| joined[*at] = true);
        self.gaps.clear();
        let mut open: Option<(i64, Gap)> = None;
        for ((first, gap), joins_the_next) in gaps.into_iter().zip(joined) {
            let (first, gap) = match open.take() {
                Some((start, before)) => {
                    self.read.insert_range(number(before.last + 1)..=number(first - 1));
                    (start, Gap { last: gap.last, seen: before.seen.max(gap.seen) })
                }
                None => (first, gap),
            };
            if joins_the_next {
                open = Some((first, gap));
            } else {
                self.gaps.insert(first, gap);
            }
        }
    }
}

/// Those of the ids, which are ascending, that are not below the one and not above the other.
fn within(ids: &[i64], first: i64, last: i64) -> &[i64] {
    let from = ids.partition_point(|id| *id < first);
    let end = ids.partition_point(|id| *id <= last);
    &ids[from.min(end)..end]
}

/// How many ids there are in a range.
fn length(range: &RangeInclusive<i64>) -> u64 {
    range.start().abs_diff(*range.end()) + 1
}

/// An id as the bitmap has it.
fn number(id: i64) -> u64 {
    u64::try_from(id).expect("ids of a list are positive")
}

#[cfg(test)]
mod properties;
