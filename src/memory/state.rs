//! What the store holds: committed rows in the order of their commits, the checkpoint and the lease.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::contract::{Backlog, Checkpoint, Purge, StoreError, TopicBacklog};
use crate::memory::leadership::Leadership;
use crate::memory::position;
use crate::memory::row::{Row, covered};
use crate::outbox::{
    DeadLetter, Held, Intent, Lane, Operation, OperationState, Orders, Pause, Position, Proof, Proofs, ProvenPosition,
    Record, Settle, Settlement, Term, TopicPattern,
};

/// Rows that one round of purging removes at most.
const PURGE_ROUND: usize = 1000;

/// How long a standby is remembered that says nothing more.
const STANDBY_REMEMBERED: Duration = Duration::from_secs(15);

/// Everything behind the store's lock.
#[derive(Debug)]
pub(super) struct State {
    settle: Settle,
    clock: Clock,
    next_id: i64,
    last_number: u64,
    rows: BTreeMap<i64, Row>,
    /// Ids in the order in which rows became visible. A row's number here is what a position counts.
    order: BTreeMap<u64, i64>,
    stored: Stored,
    proofs: Proofs,
    dead: Vec<Dead>,
    /// What operators ask for, pauses included that are over.
    orders: Orders,
    pub(super) operations: Vec<Operation>,
    /// When each standby was heard of last.
    standbys: BTreeMap<String, Instant>,
    pub(super) lease: Leadership,
}

/// A record that was given up.
#[derive(Debug, Clone)]
pub(super) struct Dead {
    pub(super) letter: DeadLetter,
    pub(super) record: Record,
    /// Whether it was published to its topic.
    pub(super) published: bool,
}

/// What the leader stored last.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) position: u64,
    pub(super) held: Vec<Held>,
    /// Held lanes whose release was asked for.
    pub(super) requested: HashMap<Lane, Request>,
}

/// A request for the release of a held lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Made,
    /// It is over when the lane is held anew.
    Granted,
}

/// Time of day that follows tokio's clock, so that tests which pause time also pause retention and ages.
#[derive(Debug)]
struct Clock {
    instant: Instant,
    time: DateTime<Utc>,
}

impl Clock {
    fn now(&self) -> DateTime<Utc> {
        self.time + TimeDelta::from_std(self.instant.elapsed()).unwrap_or(TimeDelta::MAX)
    }
}

impl State {
    pub(super) fn new(settle: Settle) -> Self {
        Self {
            settle,
            clock: Clock { instant: Instant::now(), time: Utc::now() },
            next_id: 1,
            last_number: 0,
            rows: BTreeMap::new(),
            order: BTreeMap::new(),
            stored: Stored::default(),
            proofs: Proofs::default(),
            dead: Vec::new(),
            orders: Orders::default(),
            operations: Vec::new(),
            standbys: BTreeMap::new(),
            lease: Leadership::default(),
        }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Hands out an id, before its transaction commits, as databases do.
    pub(super) fn next_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Makes the rows of a transaction visible, all at once.
    pub(super) fn commit(&mut self, records: Vec<Record>) {
        for record in records {
            self.last_number += 1;
            self.order.insert(self.last_number, record.id);
            self.rows.insert(record.id, Row { record, sent_at: None, number: self.last_number });
        }
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub(super) fn row(&self, id: i64) -> Option<&Row> {
        self.rows.get(&id)
    }

    /// Rows that became visible after `number`, in that order.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &Row> {
        self.order.range(number + 1..).filter_map(|(_, id)| self.rows.get(id))
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) {
        let now = self.now();
        for (id, event_id) in settlement.ids().iter().zip(settlement.event_ids()) {
            let Some(row) = self.rows.get_mut(id).filter(|row| row.record.event_id == *event_id) else { continue };
            match self.settle {
                Settle::Mark => row.sent_at = row.sent_at.or(Some(now)),
                Settle::Delete => self.remove(*id),
                Settle::Checkpoint if settlement.is_out_of_line() => row.sent_at = row.sent_at.or(Some(now)),
                Settle::Checkpoint => {}
            }
        }
    }

    pub(super) fn recover(
        &mut self,
        term: Term,
        position: Option<&Position>,
        beyond: &Settlement,
    ) -> Result<(), StoreError> {
        self.lease.check(term)?;
        if let Some(position) = position {
            let ProvenPosition { at: number, proof } = position::parse(position)?;
            self.proofs.earlier = Some(self.known(proof)?);
            let mut published = Settlement::default();
            let is_published = |row: &&Row| {
                row.number > self.stored.position && row.number <= number && !covered(&self.stored.held, row)
            };
            self.rows.values().filter(is_published).for_each(|row| published.push(&row.record));
            self.settle(&published);
            self.stored.position = self.stored.position.max(number);
        }
        let mut beyond = beyond.clone();
        beyond.set_out_of_line();
        self.settle(&beyond);
        Ok(())
    }

    /// The last proof of the history that a progress tells of, if it is one of this store.
    fn known(&self, proof: Option<Proof>) -> Result<Proof, StoreError> {
        proof.and_then(|proof| self.proofs.last_of(proof)).ok_or_else(|| StoreError::Incompatible {
            problem: "the progress is not of this store's history: it was restored to an earlier point, or is another"
                .to_owned(),
            repair: "forget the progress".to_owned(),
            source: None,
        })
    }

    /// Notes a proof, unless the term is over.
    pub(super) fn prove(&mut self, term: Term, proof: Proof) -> Result<(), StoreError> {
        self.lease.check(term)?;
        self.proofs.latest = Some(proof);
        Ok(())
    }

    pub(super) fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.lease.check(checkpoint.term)?;
        let position = position::parse(&checkpoint.position)?.at;
        let since = |lane: &Lane, held: &[Held]| held.iter().find(|held| held.lane == *lane).map(|held| held.since);
        let mut requested = std::mem::take(&mut self.stored.requested);
        requested.retain(|lane, request| {
            let stays = |now| since(lane, &self.stored.held) == Some(now) || *request == Request::Made;
            since(lane, &checkpoint.held).is_some_and(stays)
        });
        self.stored = Stored { position, held: checkpoint.held.clone(), requested };
        Ok(())
    }

    pub(super) fn request_release(&mut self, lanes: &[Lane]) -> u64 {
        let is_held = |lane: &&Lane| self.stored.held.iter().any(|held| held.lane == **lane);
        let wanted: Vec<Lane> = lanes.iter().filter(is_held).cloned().collect();
        let held = wanted.len() as u64;
        self.stored.requested.extend(wanted.into_iter().map(|lane| (lane, Request::Made)));
        held
    }

    pub(super) fn grant_releases(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            self.stored.requested.entry(lane.clone()).and_modify(|request| *request = Request::Granted);
        }
    }

    pub(super) fn dead_letter(&mut self, letters: &[DeadLetter]) {
        for letter in letters {
            let is_it = |row: &&Row| {
                letter.event_id.is_none_or(|event_id| row.record.event_id == event_id) && row.sent_at.is_none()
            };
            let Some(row) = self.rows.get(&letter.id).filter(is_it) else { continue };
            self.dead.push(Dead { letter: letter.clone(), record: row.record.clone(), published: false });
            self.remove(letter.id);
        }
    }

    pub(super) fn undeliverable(&mut self, id: i64, why: &str) {
        for Dead { letter, .. } in self.dead.iter_mut().filter(|dead| dead.letter.id == id && !dead.published) {
            if let Some(topic) = letter.topic.take() {
                letter.message = format!("{}; not published to {topic}: {why}", letter.message);
            }
        }
    }

    pub(super) fn dead(&self) -> &[Dead] {
        &self.dead
    }

    pub(super) fn dead_letters_published(&mut self, ids: &[i64]) {
        self.dead.iter_mut().filter(|dead| ids.contains(&dead.letter.id)).for_each(|dead| dead.published = true);
    }

    /// What operators ask for now.
    pub(super) fn orders(&self) -> Orders {
        let now = self.now();
        let mut orders = self.orders.clone();
        orders.pauses.retain(|pause| pause.until.is_none_or(|until| until > now));
        let is_running = |operation: &&Operation| operation.state == OperationState::Running;
        orders.operation = self.operations.iter().find(is_running).map(|operation| operation.id);
        orders
    }

    pub(super) fn pause(&mut self, topics: &TopicPattern, until: Option<DateTime<Utc>>, intent: &Intent) {
        let (reason, actor, now) = (intent.reason.clone(), intent.actor.clone(), self.now());
        self.orders = self.orders();
        let known = self.orders.pauses.iter_mut().find(|pause| pause.topics == *topics);
        match known {
            Some(pause) => *pause = Pause { until, reason, actor, ..pause.clone() },
            None => self.orders.pauses.push(Pause { topics: topics.clone(), since: now, until, reason, actor }),
        }
    }

    pub(super) fn resume(&mut self, topics: &TopicPattern) -> bool {
        self.orders = self.orders();
        let before = self.orders.pauses.len();
        self.orders.pauses.retain(|pause| pause.topics != *topics);
        self.orders.pauses.len() < before
    }

    pub(super) fn request_step_down(&mut self, term: Term) -> bool {
        let leads = self.lease.check(term).is_ok() && self.lease.is_held();
        if leads {
            self.orders.step_down = Some(term);
        }
        leads
    }

    pub(super) fn attend(&mut self, holder: &str, is_standby: bool) {
        self.standbys.remove(holder);
        if is_standby {
            self.standbys.insert(holder.to_owned(), Instant::now());
        }
    }

    pub(super) fn standbys(&self) -> Vec<String> {
        let was_heard = |(_, at): &(&String, &Instant)| at.elapsed() < STANDBY_REMEMBERED;
        self.standbys.iter().filter(was_heard).map(|(holder, _)| holder.clone()).collect()
    }

    /// Brings rows back before the reader that are due where it has passed, and says how many they were.
    pub(super) fn bring_back_late(&mut self) -> u64 {
        let is_late = |row: &&Row| !self.is_settled(row) && !self.is_ahead(row);
        let late: Vec<i64> = self.rows().filter(is_late).map(|row| row.record.id).collect();
        for id in &late {
            self.last_number += 1;
            if let Some(row) = self.rows.get_mut(id) {
                self.order.remove(&row.number);
                row.number = self.last_number;
                self.order.insert(row.number, *id);
            }
        }
        late.len() as u64
    }

    pub(super) fn backlog(&self, count_limit: u64) -> Backlog {
        let mut backlog = Backlog { dead_letters: (self.dead.len() as u64).min(count_limit), ..Backlog::default() };
        let now = self.now();
        let mut counted = Vec::new();
        for row in self.rows().filter(|row| !self.is_settled(row)) {
            let age = (now - row.record.created_at).to_std().unwrap_or_default();
            backlog.oldest = backlog.oldest.max(age);
            if backlog.unsent == count_limit {
                backlog.capped = true;
                continue;
            }
            backlog.unsent += 1;
            counted.push(TopicBacklog { topic: row.record.topic.to_string(), unsent: 1, oldest: age });
        }
        backlog.topics = TopicBacklog::longest(counted);
        backlog
    }

    pub(super) fn purge(&mut self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        self.lease.check(term)?;
        let now = self.now();
        let settled_at = |row: &Row| match self.settle {
            Settle::Mark | Settle::Delete => row.sent_at,
            Settle::Checkpoint => Some(row.record.created_at),
        };
        let is_old =
            |row: &&Row| settled_at(row).is_some_and(|at| (now - at).to_std().is_ok_and(|age| age > retention));
        let purgeable = |row: &&Row| self.is_settled(row) && !covered(&self.stored.held, row);
        let ids: Vec<i64> = self.rows().filter(is_old).filter(purgeable).map(|row| row.record.id).collect();
        let removed = ids.len().min(PURGE_ROUND);
        for id in &ids[..removed] {
            self.remove(*id);
        }
        Ok(Purge { removed: removed as u64, more: removed < ids.len() })
    }

    /// Whether the row counts as published, as far as the store was told.
    pub(super) fn is_settled(&self, row: &Row) -> bool {
        match self.settle {
            Settle::Mark | Settle::Delete => row.sent_at.is_some(),
            Settle::Checkpoint => !self.is_ahead(row),
        }
    }

    /// Whether a session that begins at the stored checkpoint would still read it, now or after a release.
    fn is_ahead(&self, row: &Row) -> bool {
        row.number > self.stored.position || covered(&self.stored.held, row)
    }

    fn remove(&mut self, id: i64) {
        if let Some(row) = self.rows.remove(&id) {
            self.order.remove(&row.number);
        }
    }
}
