//! Whatever happens in whatever order: nothing that waits is forgotten, and nothing overtakes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::Utc;
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use super::{Before, Command, HeldLaneStates};
use crate::outbox::{HoldCause, Lane, Position, Record};

const KEYS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// A row of this key commits, and the reader reads on.
    Read(usize),
    /// So does one that took its id before so many others did: it has no place in the order of its lane.
    ReadLate(usize, i64),
    /// So many rows that were read are looked at by the publisher.
    Publish(usize),
    /// The oldest row under way is delivered, or refused together with what follows in its lane.
    Settle,
    Refuse,
    /// The publisher releases the lane.
    Release(usize),
    /// The reader hears what it was told.
    Hear,
    /// The reader reads a row of a lane that is being released.
    ReadReleased,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS.len()).prop_map(Step::Read),
        2 => (0..KEYS.len(), 1..6i64).prop_map(|(key, before)| Step::ReadLate(key, before)),
        4 => (1..6usize).prop_map(Step::Publish),
        6 => Just(Step::Settle),
        3 => Just(Step::Refuse),
        2 => (0..KEYS.len()).prop_map(Step::Release),
        3 => Just(Step::Hear),
        4 => Just(Step::ReadReleased),
    ]
}

/// What the reader puts into the stream.
#[derive(Debug)]
enum News {
    Row(i64, usize),
    Open(usize, u64),
    Close(usize, u64),
}

/// The lanes between a reader and a publisher that do as the real ones do.
#[derive(Default)]
struct World {
    lanes: HeldLaneStates,
    rows: BTreeMap<i64, usize>,
    /// Handed over, and not answered yet.
    under_way: VecDeque<(i64, usize)>,
    published: BTreeSet<i64>,
    /// The reader's own view: lanes that it leaves out, from which id on.
    left_out: BTreeMap<usize, i64>,
    /// Lanes whose rows it reads again: the last id that it read, and the command that it heard.
    releasing: VecDeque<(usize, i64, u64)>,
    stream: VecDeque<News>,
}

fn lane(key: usize) -> Lane {
    record(0, key).lane().expect("it has a key")
}

fn record(id: i64, key: usize) -> Record {
    Record {
        id,
        event_id: Uuid::nil(),
        topic: "orders".into(),
        key: Some(KEYS[key].to_owned()),
        payload: None,
        headers: Vec::new(),
        partition: None,
        created_at: Utc::now(),
    }
}

impl World {
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Read(key) => self.read(2 * self.rows.len() as i64 + 2, key),
            Step::ReadLate(key, before) => {
                let id = 2 * (self.rows.len() as i64 - before).max(0) + 1;
                if !self.rows.contains_key(&id) {
                    self.read(id, key);
                }
            }
            Step::Publish(rows) => (0..rows).for_each(|_| self.publish()),
            Step::Settle => self.published.extend(self.under_way.pop_front().map(|(id, _)| id)),
            Step::Refuse => {
                let before = Before { batch: 1, position: Position::new("start") };
                if let Some(key) = self.under_way.front().map(|(_, key)| *key) {
                    for (id, _) in self.under_way.iter().filter(|(_, other)| *other == key) {
                        self.lanes.hold(lane(key), *id, HoldCause::MissingTopic, &before);
                    }
                    self.under_way.retain(|(_, other)| *other != key);
                }
            }
            Step::Release(key) => self.lanes.release(&lane(key)),
            Step::Hear => self.hear(),
            Step::ReadReleased => self.read_released(),
        }
    }

    /// Rows of a lane that is left out are read below where that begins, and otherwise when it is released.
    fn read(&mut self, id: i64, key: usize) {
        self.rows.insert(id, key);
        if self.left_out.get(&key).is_none_or(|from| id < *from) {
            self.stream.push_back(News::Row(id, key));
        } else if let Some((_, last, _)) = self.releasing.iter_mut().find(|(other, ..)| *other == key) {
            *last = id.min(*last + 1) - 1;
        }
    }

    fn publish(&mut self) {
        match self.stream.pop_front() {
            Some(News::Row(id, key)) => {
                let mut records = vec![record(id, key)];
                self.lanes.keep_back(1, &mut records, &mut Vec::new());
                if records.is_empty() {
                    return;
                }
                let is_before = |other: &i64| self.published.contains(other) || self.is_under_way(*other);
                let is_in_line = |id: i64| id % 2 == 0;
                let mut earlier =
                    self.rows.iter().filter(|(other, of)| **of == key && **other < id && is_in_line(**other));
                assert!(
                    !is_in_line(id) || earlier.all(|(other, _)| is_before(other)),
                    "{id} of {} overtook another",
                    KEYS[key]
                );
                if !self.is_under_way(id) {
                    self.under_way.push_back((id, key));
                }
            }
            Some(News::Open(key, heard)) => self.lanes.open(&lane(key), heard),
            Some(News::Close(key, heard)) => self.lanes.close(&lane(key), heard),
            None => {}
        }
    }

    fn is_under_way(&self, id: i64) -> bool {
        self.under_way.iter().any(|(other, _)| *other == id)
    }

    fn hear(&mut self) {
        let (commands, heard) = self.lanes.take_commands();
        for command in commands {
            let of = |lane: &Lane| (0..KEYS.len()).find(|key| *lane == self::lane(*key)).expect("one of ours");
            match command {
                Command::Hold(held) => {
                    let key = of(&held.lane);
                    let from = self.left_out.entry(key).or_insert(held.from_id);
                    *from = held.from_id.min(*from);
                    self.releasing.retain(|(other, ..)| *other != key);
                }
                Command::Release(lane) => {
                    let key = of(&lane);
                    self.releasing.push_back((key, self.left_out[&key] - 1, heard));
                    self.stream.push_back(News::Open(key, heard));
                }
            }
        }
    }

    fn read_released(&mut self) {
        let Some((key, last, heard)) = self.releasing.front().copied() else { return };
        match self.rows.range(last + 1..).find(|(_, of)| **of == key) {
            Some((id, _)) => {
                self.stream.push_back(News::Row(*id, key));
                self.releasing[0].1 = *id;
            }
            None => {
                self.stream.push_back(News::Close(key, heard));
                self.releasing.pop_front();
                self.left_out.remove(&key);
            }
        }
    }

    /// What a crash now would read again tells of every row that neither flows nor was published.
    fn forgets_nothing(&self) {
        let flows: BTreeSet<i64> =
            self.stream.iter().filter_map(|news| if let News::Row(id, _) = news { Some(*id) } else { None }).collect();
        let stored = self.lanes.held();
        for (id, key) in self.rows.iter().filter(|(id, _)| !self.published.contains(id)) {
            if flows.contains(id) || self.is_under_way(*id) {
                continue;
            }
            let is_stored = stored.iter().any(|held| held.lane == lane(*key) && held.from_id <= *id);
            assert!(is_stored, "row {id} of {} waits, and nobody would know after a crash", KEYS[*key]);
        }
    }

    /// The broker refuses nothing any more, and every lane is released until all is published.
    fn calm(&mut self) {
        for _ in 0..self.rows.len() + 3 * KEYS.len() {
            (0..KEYS.len()).for_each(|key| self.lanes.release(&lane(key)));
            self.hear();
            while !self.releasing.is_empty() {
                self.read_released();
            }
            while !self.stream.is_empty() {
                self.publish();
            }
            self.published.extend(self.under_way.drain(..).map(|(id, _)| id));
            if self.published.len() == self.rows.len() && self.lanes.is_empty() {
                return;
            }
        }
        panic!("{} of {} rows are published; held are {:?}", self.published.len(), self.rows.len(), self.lanes.held());
    }
}

proptest! {
    #[test]
    fn nothing_that_waits_is_forgotten_or_overtaken(steps in vec(step(), 1..200)) {
        let mut world = World::default();
        for step in &steps {
            world.take(step);
            world.forgets_nothing();
        }
        world.calm();
    }
}
