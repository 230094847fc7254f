//! Whatever writers do and however pages are cut: each committed row is read once, in one go with all that was committed before
//! it, and nothing is forgotten that can still come.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{GapList, MERGED_ACROSS};

/// So few gaps that neighbours are merged all the time.
const MOST: usize = 8;

/// What happens next. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    /// A statement reserves ids, after a hole of some.
    Reserve {
        hole: i64,
        ids: i64,
    },
    /// It inserts its rows, of which other transactions see nothing yet.
    Insert(prop::sample::Index),
    Commit(prop::sample::Index),
    /// Its ids stay missing for ever.
    RollBack(prop::sample::Index),
    /// The reader asks for so many rows.
    Read {
        limit: usize,
    },
    /// The reader forgets what it may, of what it looked at: some of the ids, or all. It knows what runs, or it waited.
    Forget {
        from: i64,
        upto: prop::sample::Index,
        is_known: bool,
    },
    /// The reader ends, and another goes on from what was stored.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0..4_i64, 1..5_i64).prop_map(|(hole, ids)| Event::Reserve { hole, ids }),
        1 => (1_000_000..2_000_000_i64).prop_map(|hole| Event::Reserve { hole, ids: 1 }),
        5 => index().prop_map(Event::Insert),
        5 => index().prop_map(Event::Commit),
        2 => index().prop_map(Event::RollBack),
        6 => (1..12_usize).prop_map(|limit| Event::Read { limit }),
        3 => (0..20_i64, index(), any::<bool>()).prop_map(|(from, upto, is_known)| Event::Forget { from, upto, is_known }),
        1 => Just(Event::Restart),
    ]
}

/// A table and its writers.
#[derive(Default)]
struct Table {
    next: i64,
    /// Statements that reserved ids and run, with when they began.
    running: Vec<(Instant, Vec<i64>)>,
    /// Transactions whose rows are there.
    open: Vec<Vec<i64>>,
    committed: BTreeSet<i64>,
    /// How often ids were far ahead of those before.
    jumps: usize,
}

/// A reader, with what it has found.
struct Reader {
    list: GapList,
    read: BTreeSet<i64>,
}

impl Reader {
    /// Asks once. Returns how many new rows came.
    fn read(&mut self, table: &Table, limit: usize, now: Instant) -> Result<usize, TestCaseError> {
        let is_asked_for = |id: &i64| *id > self.list.last() || self.list.gaps().any(|gap| gap.contains(id));
        let most = limit + self.list.read_again() as usize;
        let answer: Vec<i64> = table.committed.iter().copied().filter(is_asked_for).take(most).collect();
        let is_whole = answer.len() < most;
        let news = self.list.take(answer.iter().copied(), now);
        let new: Vec<i64> = answer.iter().zip(news).filter(|(_, new)| *new).map(|(id, _)| *id).collect();
        for id in &new {
            prop_assert!(self.read.insert(*id), "{id} is read twice");
        }
        if is_whole {
            let left: Vec<_> = table.committed.iter().filter(|id| !self.read.contains(id)).collect();
            prop_assert_eq!(left, Vec::<&i64>::new(), "an answer that is whole leaves nothing");
        } else {
            prop_assert!(!new.is_empty(), "rows that were read already never fill an answer");
        }
        prop_assert!(self.list.gaps().count() <= MOST + table.jumps, "neighbours are merged unless they are far apart");
        Ok(new.len())
    }

    /// What is missing is exactly what was not read, below the highest id; but for what was forgotten, which never comes.
    fn is_right(&self, table: &Table) -> Result<(), TestCaseError> {
        let missing = self.list.missing();
        for pair in missing.windows(2) {
            prop_assert!(*pair[0].end() + 1 < *pair[1].start(), "{missing:?}");
        }
        let begin = self.list.gaps_before(Instant::now() + Duration::from_secs(3600)).collect::<Vec<_>>();
        prop_assert_eq!(begin, self.list.gaps().collect::<Vec<_>>());
        prop_assert_eq!(self.list.has_no_gaps(), missing.is_empty());
        for id in missing.iter().map(|range| *range.end()).chain([self.list.last() + 1]) {
            prop_assert!(self.list.is_missing(id), "{id} was not read");
        }
        for id in &self.read {
            prop_assert!(!self.list.is_missing(*id), "{id} was read");
            prop_assert!(!missing.iter().any(|range| range.contains(id)), "{id} was read");
        }
        let can_come = table.running.iter().map(|(_, ids)| ids).chain(&table.open).flatten().copied();
        let will_come = table.committed.iter().copied().filter(|id| !self.read.contains(id));
        for id in can_come.chain(will_come).filter(|id| *id <= self.list.last()) {
            prop_assert!(missing.iter().any(|range| range.contains(&id)), "{id} can still come, and is forgotten");
        }
        prop_assert_eq!(self.list.floor(), missing.first().map_or(self.list.last(), |range| range.start() - 1));
        Ok(())
    }
}

proptest! {
    #[test]
    fn each_committed_row_is_read_once_and_nothing_is_forgotten_that_can_come(events in vec(event(), 1..120)) {
        let begin = Instant::now();
        let (mut table, mut reader) = (Table::default(), Reader { list: GapList::with_gaps_at_most(MOST, 0, [], begin), read: BTreeSet::new() });
        let mut now = begin;
        for event in events {
            now += Duration::from_millis(1);
            match event {
                Event::Reserve { hole, ids } => {
                    table.jumps += usize::from(hole > MERGED_ACROSS);
                    let first = table.next + hole + 1;
                    table.next = first + ids - 1;
                    table.running.push((now, (first..first + ids).collect()));
                }
                Event::Insert(index) if !table.running.is_empty() => {
                    let (_, ids) = table.running.swap_remove(index.index(table.running.len()));
                    table.open.push(ids);
                }
                Event::Commit(index) if !table.open.is_empty() => {
                    let ids = table.open.swap_remove(index.index(table.open.len()));
                    table.committed.extend(ids);
                }
                Event::RollBack(index) if !table.open.is_empty() => {
                    table.open.swap_remove(index.index(table.open.len()));
                }
                Event::Read { limit } => drop(reader.read(&table, limit, now)?),
                Event::Forget { from, upto, is_known } => {
                    // First the statements that run, then the rows that are there: as a reader has to ask.
                    let since = table.running.iter().map(|(began, _)| *began).min().unwrap_or(now);
                    let upto = from + upto.index(2 * table.next as usize + 1) as i64;
                    let there: BTreeSet<i64> = table.open.iter().flatten().chain(table.committed.iter()).copied().collect();
                    let there: Vec<i64> = there.into_iter().filter(|id| (from..=upto).contains(id)).collect();
                    match is_known {
                        true => reader.list.forget(from..=upto, &there, since),
                        false => reader.list.forget_whole(from..=upto, &there, since),
                    };
                }
                Event::Restart => {
                    let (last, missing) = (reader.list.last(), reader.list.missing());
                    reader.list = GapList::with_gaps_at_most(MOST, last, missing, now);
                }
                _ => {}
            }
            reader.is_right(&table)?;
        }
        while reader.read(&table, 5, now)? > 0 {}
        prop_assert_eq!(&reader.read, &table.committed);

        // Once all is over everything is forgotten.
        table.running.clear();
        table.open.clear();
        let there: Vec<i64> = table.committed.iter().copied().collect();
        reader.list.forget(1..=i64::MAX, &there, now + Duration::from_millis(1));
        prop_assert_eq!(reader.list.missing(), vec![]);
        prop_assert_eq!(reader.list.floor(), reader.list.last());
    }
}

#[test]
fn what_one_statement_may_write_is_forgotten_together() {
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_millis(1));
    let mut list = GapList::restore(20, [2..=5, 8..=9, 15..=15], now);
    assert_eq!(list.forget_whole(1..=9, &[4], later), 2);
    assert_eq!(list.missing(), [2..=5, 15..=15]);
    assert_eq!(list.forget_whole(3..=i64::MAX, &[], later), 1, "of what begins before no more is known than a part");
    assert_eq!(list.forget(3..=4, &[], later), 2);
    assert_eq!(list.missing(), [2..=2, 5..=5]);
    assert_eq!(list.forget(1..=i64::MAX, &[2], later), 1);
    assert_eq!(list.missing(), [2..=2]);
}

#[test]
fn the_largest_ids_are_no_special_case() {
    let now = Instant::now();
    let mut list = GapList::restore(0, [], now);
    assert_eq!(list.take([i64::MAX], now), [true]);
    assert_eq!(list.missing(), [1..=i64::MAX - 1]);
    assert_eq!(list.take([i64::MAX - 1, i64::MAX], now), [true, false]);
    assert_eq!(list.missing(), [1..=i64::MAX - 2]);
    assert_eq!(list.forget(1..=i64::MAX, &[], now + Duration::from_millis(1)), (i64::MAX - 2) as u64);
    assert_eq!((list.floor(), list.last()), (i64::MAX, i64::MAX));
}
