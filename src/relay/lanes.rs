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

use crate::outbox::{Batch, Held, HoldCause, Lane, Position, Record, Unreadable};
use crate::relay::flow::{Before, Frontier, Row};

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
pub(crate) struct HeldLaneStates {
    entries: HashMap<Lane, Entry>,
    /// How many of them are being released.
    releasing: usize,
    /// How often what is held has changed.
    changes: u64,
    /// The last change after which it was told.
    told: Option<u64>,
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

impl HeldLaneStates {
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

    /// Holds the topics that are paused of a batch that begins there, before anything is [kept back](Self::keep_back). Returns
    /// those that were not held, with the ids from which on they are.
    pub(crate) fn hold_paused(
        &mut self,
        before: &Before,
        batch: &Batch,
        is_paused: impl Fn(&str) -> bool,
    ) -> Vec<(Arc<str>, i64)> {
        self.looked_at = before.batch;
        let records = batch.records.iter().map(|record| (&record.topic, record.id));
        let rows = records.chain(batch.unreadable.iter().map(|row| (&row.topic, row.id)));
        let mut held = Vec::new();
        for (topic, id) in rows.filter(|(topic, _)| is_paused(topic)) {
            let lane = Lane::Topic { topic: Arc::clone(topic) };
            if !self.waits(&lane) {
                self.hold(lane, id, HoldCause::Paused, before);
                held.push((Arc::clone(topic), id));
            }
        }
        held
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
        self.releasing > 0
    }

    /// Whether any of these belongs to a lane that is being released, so that it comes out of line.
    pub(crate) fn is_out_of_line(&self, records: &[Record]) -> bool {
        let is_open = |lane: &Lane| self.entries.get(lane).is_some_and(|entry| entry.state == State::Open);
        self.is_releasing()
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

    fn waits(&self, lane: &Lane) -> bool {
        self.entries.get(lane).is_some_and(|entry| entry.state != State::Open)
    }

    fn keeps_back(&mut self, id: i64, topic: &Arc<str>, lane: Option<Lane>) -> bool {
        let topic = Lane::Topic { topic: Arc::clone(topic) };
        if !self.waits(&topic) && !lane.as_ref().is_some_and(|lane| self.waits(lane)) {
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
            self.held_anew(lane);
            self.news.notify_one();
        }
    }

    /// Lets a lane that is known begin no later than there: its records of that batch were still under way when it was held.
    fn begin_no_later_than(&mut self, lane: &Lane, before: &Before) {
        if let Some(entry) = self.entries.get_mut(lane).filter(|entry| before.batch < entry.batch) {
            entry.batch = before.batch;
            entry.held.after = Some(before.position.clone());
            self.held_anew(lane);
            self.news.notify_one();
        }
    }

    /// Tells the reader of a lane that is held, or begins lower than it did. That breaks a release off.
    fn held_anew(&mut self, lane: &Lane) {
        if let Some(entry) = self.entries.get_mut(lane) {
            self.releasing -= usize::from(entry.state != State::Held);
            self.changes += 1;
            self.given += 1;
            entry.state = State::Held;
            entry.commanded = self.given;
            self.commands.push_back(Command::Hold(entry.held.clone()));
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
        let is_known = self.entries.contains_key(&lane);
        let entry = self.entries.entry(lane.clone()).or_insert_with(|| Entry {
            held: Held { lane: lane.clone(), from_id, after, cause, since: now() },
            state: State::Held,
            batch,
            commanded: 0,
        });
        let news = !is_known || entry.state != State::Held;
        if news || from_id < entry.held.from_id {
            if news {
                entry.held.since = now();
                self.news.notify_one();
            }
            entry.held.cause = cause;
            entry.held.from_id = entry.held.from_id.min(from_id);
            self.held_anew(&lane);
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

    /// Whether the release of a lane that is stored so can be granted: it waits, and was not held anew since.
    pub(crate) fn may_release(&self, held: &Held) -> bool {
        let is_meant = |entry: &Entry| entry.state == State::Held && entry.held.since == held.since;
        self.entries.get(&held.lane).is_some_and(is_meant)
    }

    /// Asks for the release of a held lane.
    pub(crate) fn release(&mut self, lane: &Lane) {
        if let Some(entry) = self.entries.get_mut(lane).filter(|entry| entry.state == State::Held) {
            entry.state = State::Releasing;
            self.releasing += 1;
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
            self.releasing -= 1;
            self.changes += 1;
        }
    }

    /// What the reader must be told before its next read, in order, and how many commands it has heard then.
    pub(crate) fn take_commands(&mut self) -> (VecDeque<Command>, u64) {
        (std::mem::take(&mut self.commands), self.given)
    }

    /// Lanes whose release the publisher has not asked for yet.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Held> {
        self.entries.values().filter(|entry| entry.state == State::Held).map(|entry| &entry.held)
    }

    /// Signalled when one of these may have been added.
    pub(crate) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// Every lane of which something may be unsettled, if they are others than when that was told last, and no more than so
    /// many.
    pub(crate) fn untold(&mut self, most: usize) -> Option<Vec<Held>> {
        if self.told == Some(self.changes) || self.entries.len() > most {
            return None;
        }
        self.told = Some(self.changes);
        Some(self.held())
    }

    fn held(&self) -> Vec<Held> {
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
mod tests;
