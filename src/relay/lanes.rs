//! Which lanes are held, and how each becomes free again: a pure state machine.
//!
//! A lane is *held* by the publisher or the settler, at the moment a record of it turns out to wait. The
//! reader is told before its next read, and leaves the lane out. When its release is asked for, the reader
//! says in the stream of batches where the lane's records begin to come again (*open*) and where all that
//! was left out has come (*closed*); in between the lane stays in the stored set, so that a crash starts the
//! release over. Commands to the reader are numbered, and what it says counts only if it had heard the
//! lane's latest command by then: the end of a release that was broken off must not end a later one.
//!
//! A topic may be held and a key of it besides. A record of both is in the care of the key's lane: while the topic is held
//! nothing of the key is released either, so that each record is left out by one lane and comes again with that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::Notify;

use crate::outbox::{Held, HoldCause, Lane, Position, Record, Unreadable};
use crate::relay::publisher::Row;
use crate::relay::settler::Frontier;

/// What the reader must be told before its next read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Hold(Held),
    Release(Lane),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its records are left out.
    Held,
    /// Its release was asked for; its records are still left out.
    Releasing,
    /// Its records flow; those left out have not all come and been settled yet.
    Open,
}

/// Where a batch begins.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// The batch's number.
    pub(crate) batch: u64,
    /// The position before it.
    pub(crate) position: Position,
}

#[derive(Debug)]
struct Entry {
    held: Held,
    state: State,
    /// The number of the batch in which it came to be held; 0 in an earlier session.
    batch: u64,
    /// The number of the latest command about this lane.
    commanded: u64,
}

/// The held lanes of a session.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    entries: HashMap<Lane, Entry>,
    commands: VecDeque<Command>,
    /// How many commands were given in all.
    given: u64,
    /// The number of the latest batch of which what waits was taken out.
    looked_at: u64,
    /// The batch that was the latest when a lane was held last: up to it some may hold records of lanes that wait by now.
    under_way: u64,
    /// Signalled when a lane may wait that did not.
    news: Arc<Notify>,
}

impl Lanes {
    /// Begins with what the reader's session found stored.
    pub(crate) fn restore(held: &[Held]) -> Self {
        let entry =
            |held: &Held| (held.lane.clone(), Entry { held: held.clone(), state: State::Held, batch: 0, commanded: 0 });
        Self { entries: held.iter().map(entry).collect(), ..Self::default() }
    }

    /// Whether nothing is held, so that no record needs to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes out of a batch's `records`, and of its rows that are none, what belongs to a held lane, remembering from which
    /// id on it waits.
    pub(crate) fn keep_back(&mut self, batch: u64, records: &mut Vec<Record>, unreadable: &mut Vec<Unreadable>) {
        self.looked_at = batch;
        if !self.is_empty() {
            records.retain(|record| !self.keeps_back(record.id, &record.topic, record.lane()));
            unreadable.retain(|row| !self.keeps_back(row.id, &row.topic, row.lane.clone()));
        }
    }

    /// Takes out of `records`, which are in publishing order, what follows in a lane that was held just now because of
    /// one among them. What comes before it is not concerned.
    pub(crate) fn leave_out(&self, records: &mut Vec<Record>) {
        let follows = |lane: &Lane, id: i64| {
            self.entries.get(lane).is_some_and(|entry| entry.state == State::Held && id >= entry.held.from_id)
        };
        if !self.is_empty() {
            records.retain(|record| !record.lane().is_some_and(|lane| follows(&lane, record.id)));
        }
    }

    /// Whether any lane is being released.
    pub(crate) fn is_releasing(&self) -> bool {
        self.entries.values().any(|entry| entry.state != State::Held)
    }

    /// Whether any of these belongs to a lane that is being released, so that it comes out of line.
    pub(crate) fn is_out_of_line(&self, records: &[Record]) -> bool {
        let is_open = |lane: &Lane| self.entries.get(lane).is_some_and(|entry| entry.state == State::Open);
        self.entries.values().any(|entry| entry.state == State::Open)
            && records.iter().any(|record| {
                is_open(&Lane::Topic { topic: Arc::clone(&record.topic) })
                    || record.lane().is_some_and(|lane| is_open(&lane))
            })
    }

    /// Whether any of these rows, of a batch that was under way when a lane was held, belongs to a lane that waits or that is
    /// being released.
    pub(crate) fn came_to_wait(&self, batch: u64, rows: &[Row]) -> bool {
        let waits = |row: &Row| {
            self.entries.contains_key(&Lane::Topic { topic: Arc::clone(&row.topic) })
                || row.lane().is_some_and(|lane| self.entries.contains_key(&lane))
        };
        !self.is_empty() && batch <= self.under_way && rows.iter().any(waits)
    }

    fn keeps_back(&mut self, id: i64, topic: &Arc<str>, lane: Option<Lane>) -> bool {
        let topic = Lane::Topic { topic: Arc::clone(topic) };
        let waits = |lane: &Lane| self.entries.get(lane).is_some_and(|entry| entry.state != State::Open);
        if !waits(&topic) && !lane.as_ref().is_some_and(waits) {
            return false;
        }
        let keeper = lane.filter(|lane| self.entries.contains_key(lane)).unwrap_or(topic);
        self.keep(&keeper, id);
        true
    }

    /// Sees to it that a lane that is known waits for the record of this id too. That ends a release that has come so far
    /// or begins above it; who asked for it is heard again.
    fn keep(&mut self, lane: &Lane, id: i64) {
        let is_news = |entry: &&mut Entry| entry.state == State::Open || id < entry.held.from_id;
        if let Some(entry) = self.entries.get_mut(lane).filter(is_news) {
            entry.held.from_id = entry.held.from_id.min(id);
            self.commands.push_back(Command::Hold(entry.held.clone()));
            self.given += 1;
            entry.commanded = self.given;
            // The reader breaks a release off when it hears of a hold.
            entry.state = State::Held;
            self.news.notify_one();
        }
    }

    /// Lets a lane that is known begin no later than there: its records of that batch were still under way when it was held.
    fn begin_no_later_than(&mut self, lane: &Lane, before: &Before) {
        if let Some(entry) = self.entries.get_mut(lane).filter(|entry| before.batch < entry.batch) {
            entry.batch = before.batch;
            entry.held.after = Some(before.position.clone());
            self.commands.push_back(Command::Hold(entry.held.clone()));
            self.given += 1;
            entry.commanded = self.given;
            entry.state = State::Held;
            self.news.notify_one();
        }
    }

    /// Holds the topic of a record that waits. Says whether it was not held before.
    pub(crate) fn hold_topic_of(&mut self, row: &Row, cause: HoldCause, before: &Before) -> bool {
        if let Some(lane) = row.lane() {
            self.begin_no_later_than(&lane, before);
            self.keep(&lane, row.id);
        }
        self.hold(Lane::Topic { topic: Arc::clone(&row.topic) }, row.id, cause, before)
    }

    /// Holds a lane from this id on, because of a record of a batch that begins there. Says whether it was not held before.
    pub(crate) fn hold(&mut self, lane: Lane, from_id: i64, cause: HoldCause, before: &Before) -> bool {
        self.under_way = self.looked_at;
        self.begin_no_later_than(&lane, before);
        let (batch, after) = self.beginning_of(&lane, before);
        let fresh = || Entry {
            held: Held { lane: lane.clone(), from_id, after, cause, since: now() },
            state: State::Open,
            batch,
            commanded: 0,
        };
        let entry = self.entries.entry(lane.clone()).or_insert_with(fresh);
        let news = entry.state != State::Held;
        if news || from_id < entry.held.from_id {
            if news {
                entry.held.since = now();
                self.news.notify_one();
            }
            entry.state = State::Held;
            entry.held.cause = cause;
            entry.held.from_id = entry.held.from_id.min(from_id);
            self.commands.push_back(Command::Hold(entry.held.clone()));
            self.given += 1;
            entry.commanded = self.given;
        }
        news
    }

    /// The batch in which a lane comes to be held, and the position before it. What is left of a topic comes out of line,
    /// so that a lane in it begins where the topic does: no later position tells whether its records were published.
    fn beginning_of(&self, lane: &Lane, before: &Before) -> (u64, Option<Position>) {
        let of_topic = self.entries.get(&Lane::topic_of(lane.topic())).filter(|entry| entry.batch <= before.batch);
        of_topic.map_or_else(
            || (before.batch, Some(before.position.clone())),
            |entry| (entry.batch, entry.held.after.clone()),
        )
    }

    /// Asks for the release of a lane, unless it was held anew since somebody wished for that.
    pub(crate) fn release_as_requested(&mut self, held: &Held) -> bool {
        let is_meant = |entry: &Entry| entry.state == State::Held && entry.held.since == held.since;
        let meant = self.entries.get(&held.lane).is_some_and(is_meant);
        if meant {
            self.release(&held.lane);
        }
        meant
    }

    /// Asks for the release of a held lane.
    pub(crate) fn release(&mut self, lane: &Lane) {
        if let Some(entry) = self.entries.get_mut(lane).filter(|entry| entry.state == State::Held) {
            entry.state = State::Releasing;
            self.commands.push_back(Command::Release(lane.clone()));
            self.given += 1;
            entry.commanded = self.given;
        }
    }

    /// The reader, having heard `heard` commands, says that the lane's records come from here on.
    pub(crate) fn open(&mut self, lane: &Lane, heard: u64) {
        let meant = |entry: &&mut Entry| entry.state == State::Releasing && entry.commanded <= heard;
        if let Some(entry) = self.entries.get_mut(lane).filter(meant) {
            entry.state = State::Open;
        }
    }

    /// All that was left out of the lane, said the reader having heard `heard` commands, has come and is
    /// settled. A lane that is held again stays held.
    pub(crate) fn close(&mut self, lane: &Lane, heard: u64) {
        let meant = |entry: &Entry| entry.state == State::Open && entry.commanded <= heard;
        if self.entries.get(lane).is_some_and(meant) {
            self.entries.remove(lane);
        }
    }

    /// What the reader must be told before its next read, in order, and how many commands it has heard then.
    pub(crate) fn take_commands(&mut self) -> (VecDeque<Command>, u64) {
        (std::mem::take(&mut self.commands), self.given)
    }

    /// Lanes whose release nobody has asked for yet.
    pub(crate) fn waiting(&self) -> Vec<Lane> {
        let waits = |entry: &&Entry| entry.state == State::Held;
        self.entries.values().filter(waits).map(|entry| entry.held.lane.clone()).collect()
    }

    /// Signalled when one of these may have been added.
    pub(crate) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// Every lane of which something may be unsettled.
    pub(crate) fn held(&self) -> Vec<Held> {
        Self::sorted(self.entries.values().map(|entry| entry.held.clone()))
    }

    /// What must be stored beside a checkpoint at which everything is settled up to there. What is under way may not arrive:
    /// a lane that came to be held because of a later batch flows at this checkpoint, and one that did so in the next
    /// batch has nothing published after it.
    pub(crate) fn stored(&self, settled: &Frontier) -> Vec<Held> {
        let next = settled.stands_after + 1;
        let told = self.entries.values().filter(|entry| entry.batch <= next);
        Self::sorted(told.map(|entry| match entry.batch == next {
            true => Held { after: Some(settled.position.clone()), ..entry.held.clone() },
            false => entry.held.clone(),
        }))
    }

    fn sorted(held: impl Iterator<Item = Held>) -> Vec<Held> {
        let mut held: Vec<Held> = held.collect();
        held.sort_by(|a, b| a.lane.cmp(&b.lane));
        held
    }
}

/// The time as databases keep it, so that it compares equal when it is read back.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use uuid::Uuid;

    const CAUSE: HoldCause = HoldCause::MissingTopic;

    fn record(id: i64, topic: &str, key: &str) -> Record {
        Record {
            id,
            event_id: Uuid::nil(),
            topic: topic.into(),
            key: Some(key.to_owned()),
            payload: None,
            headers: Vec::new(),
            partition: None,
            created_at: Utc::now(),
        }
    }

    fn before(batch: u64) -> Before {
        Before { batch, position: Position::new(format!("before {batch}")) }
    }

    fn kept_back(lanes: &mut Lanes, records: &[Record]) -> Vec<i64> {
        let mut left = records.to_vec();
        lanes.keep_back(1, &mut left, &mut Vec::new());
        let kept = |record: &&Record| !left.iter().any(|other| other.id == record.id);
        records.iter().filter(kept).map(|record| record.id).collect()
    }

    #[test]
    fn a_held_topic_keeps_back_its_records_and_no_others() {
        let mut lanes = Lanes::default();
        assert!(lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(1)));
        assert!(!lanes.hold(Lane::topic_of("a"), 7, CAUSE, &before(1)), "it was held before");
        let records = [record(6, "a", "k"), record(7, "b", "k"), record(8, "a", "j")];
        assert_eq!(kept_back(&mut lanes, &records), [6, 8]);
    }

    #[test]
    fn a_held_key_keeps_back_its_own_records_only() {
        let mut lanes = Lanes::default();
        lanes.hold(record(5, "a", "k").lane().expect("a lane"), 5, CAUSE, &before(1));
        let records = [record(6, "a", "k"), record(7, "a", "j"), record(8, "b", "k")];
        assert_eq!(kept_back(&mut lanes, &records), [6]);
    }

    #[test]
    fn a_late_record_of_a_held_lane_lowers_where_its_release_begins() {
        let mut lanes = Lanes::default();
        lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(1));
        lanes.take_commands();
        assert_eq!(kept_back(&mut lanes, &[record(3, "a", "k")]), [3]);
        assert_eq!(lanes.held()[0].from_id, 3);
        let (told, _) = lanes.take_commands();
        assert!(matches!(&told[0], Command::Hold(held) if held.from_id == 3), "{told:?}");
    }

    #[test]
    fn a_lane_that_waits_or_waits_again_is_news() {
        let mut lanes = Lanes::default();
        let (lane, news) = (Lane::topic_of("a"), lanes.news());
        let is_news = || news.notified().now_or_never().is_some();
        assert!(!is_news());
        lanes.hold(lane.clone(), 5, CAUSE, &before(1));
        assert!(is_news());
        lanes.release(&lane);
        assert!(!is_news() && lanes.waiting().is_empty());
        kept_back(&mut lanes, &[record(3, "a", "k")]);
        assert!(is_news() && lanes.waiting() == [lane]);
    }

    #[test]
    fn a_released_lane_flows_once_opened_and_is_stored_until_closed() {
        let mut lanes = Lanes::default();
        let lane = Lane::topic_of("a");
        lanes.hold(lane.clone(), 5, CAUSE, &before(1));
        lanes.release(&lane);
        assert_eq!(kept_back(&mut lanes, &[record(9, "a", "k")]), [9], "read before the release began");
        assert!(lanes.waiting().is_empty());
        let (_, heard) = lanes.take_commands();
        lanes.open(&lane, heard);
        assert!(kept_back(&mut lanes, &[record(5, "a", "k")]).is_empty());
        assert_eq!(lanes.held().len(), 1, "a crash now must release it again");
        lanes.close(&lane, heard);
        assert!(lanes.held().is_empty());
    }

    #[test]
    fn a_lane_held_again_during_its_release_stays_held_when_the_old_release_closes() {
        let mut lanes = Lanes::default();
        let lane = Lane::topic_of("a");
        lanes.hold(lane.clone(), 5, CAUSE, &before(1));
        lanes.release(&lane);
        let (_, heard) = lanes.take_commands();
        lanes.open(&lane, heard);
        assert!(lanes.hold(lane.clone(), 8, CAUSE, &before(1)));
        lanes.close(&lane, heard);
        assert_eq!(lanes.held()[0].from_id, 5, "what was left out before may be unsettled still");
        assert_eq!(kept_back(&mut lanes, &[record(9, "a", "k")]), [9]);
    }

    #[test]
    fn the_end_of_a_release_that_was_broken_off_does_not_end_a_later_one() {
        let mut lanes = Lanes::default();
        let lane = Lane::topic_of("a");
        lanes.hold(lane.clone(), 5, CAUSE, &before(1));
        lanes.release(&lane);
        let (_, first) = lanes.take_commands();
        lanes.hold(lane.clone(), 5, CAUSE, &before(1));
        lanes.release(&lane);
        lanes.open(&lane, first);
        lanes.close(&lane, first);
        assert_eq!(lanes.held().len(), 1, "nothing of the second release has come yet");
        let (_, second) = lanes.take_commands();
        lanes.open(&lane, second);
        lanes.close(&lane, second);
        assert!(lanes.held().is_empty());
    }

    fn after(lanes: &Lanes, lane: &Lane) -> Option<Position> {
        lanes.held().into_iter().find(|held| held.lane == *lane).and_then(|held| held.after)
    }

    #[test]
    fn a_lane_held_anew_keeps_the_position_before_it_was_held_first() {
        let mut lanes = Lanes::default();
        let lane = Lane::topic_of("a");
        lanes.hold(lane.clone(), 5, CAUSE, &before(3));
        lanes.hold(lane.clone(), 4, CAUSE, &before(8));
        lanes.release(&lane);
        let (_, heard) = lanes.take_commands();
        lanes.open(&lane, heard);
        lanes.hold(lane.clone(), 7, CAUSE, &before(9));
        assert_eq!(after(&lanes, &lane), Some(before(3).position));
    }

    #[test]
    fn what_was_under_way_when_its_lane_was_held_is_no_longer_called_read() {
        let mut lanes = Lanes::default();
        let key = record(7, "a", "k").lane().expect("a lane");
        lanes.hold(key.clone(), 7, HoldCause::Rejected, &before(8));
        lanes.hold_topic_of(&Row::from(record(5, "a", "k")), CAUSE, &before(6));
        assert_eq!(after(&lanes, &key), Some(before(6).position));
        lanes.hold(key.clone(), 4, HoldCause::Rejected, &before(5));
        assert_eq!(after(&lanes, &key), Some(before(5).position));
        let told = lanes.take_commands().0.into_iter().rev();
        let last = told.filter_map(|command| if let Command::Hold(held) = command { Some(held) } else { None });
        assert_eq!(
            last.into_iter().find(|held| held.lane == key).and_then(|held| held.after),
            Some(before(5).position)
        );
    }

    #[test]
    fn a_key_of_a_held_topic_begins_where_the_topic_does() {
        let mut lanes = Lanes::default();
        let key = record(7, "a", "k").lane().expect("a lane");
        lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(3));
        lanes.hold(key.clone(), 7, HoldCause::Rejected, &before(8));
        assert_eq!(after(&lanes, &key), Some(before(3).position), "what comes out of line is read at any later one");
    }

    #[test]
    fn what_waits_for_its_topic_is_in_the_care_of_its_own_lane() {
        let mut lanes = Lanes::default();
        let (topic, key) = (Lane::topic_of("a"), record(7, "a", "k").lane().expect("a lane"));
        lanes.hold(key.clone(), 4, HoldCause::Rejected, &before(3));
        let since = lanes.held()[0].since;
        lanes.release(&key);
        let (_, heard) = lanes.take_commands();
        lanes.open(&key, heard);
        lanes.hold_topic_of(&Row::from(record(4, "a", "k")), CAUSE, &before(8));
        assert_eq!(kept_back(&mut lanes, &[record(6, "a", "k"), record(3, "a", "k")]), [6, 3]);
        let held: Vec<(Lane, i64)> = lanes.held().into_iter().map(|held| (held.lane, held.from_id)).collect();
        assert_eq!(held, [(topic, 4), (key.clone(), 3)]);
        lanes.close(&key, heard);
        let requested = lanes.held()[1].clone();
        assert!(requested.since == since && lanes.release_as_requested(&requested), "who asked is heard again");
    }

    #[test]
    fn a_checkpoint_tells_of_lanes_as_they_are_there() {
        let mut lanes = Lanes::default();
        let settled = |number: u64| Frontier::after(number, Position::new(format!("after {number}")));
        lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(3));
        assert_eq!(lanes.stored(&settled(1)), [], "it flows there still");
        let stored = |settled: &Frontier| lanes.stored(settled)[0].after.clone();
        assert_eq!(stored(&settled(2)), Some(settled(2).position));
        assert_eq!(stored(&settled(3)), Some(before(3).position));
        // A position that stands still is before rows that cannot be recorded, however many batches came after them.
        assert_eq!(lanes.stored(&settled(1).still(7)), []);
        assert_eq!(stored(&settled(2).still(7)), Some(settled(2).position));
    }
}
