//! Which lanes are left out of reading, and which release is under way. No I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::outbox::{Held, Lane, Table};
use crate::sqlite::reading::rows::Read;
use crate::sqlite::settling::held::first_left;

/// The held lanes of a session.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    from_ids: HashMap<Lane, i64>,
    asked: VecDeque<Lane>,
    release: Option<Release>,
}

/// A release under way: rows of the lane up to `cursor` have been looked at.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    pub(crate) lane: Lane,
    pub(crate) cursor: i64,
}

impl Holds {
    pub(crate) fn new(held: &[Held]) -> Self {
        let from_ids = held.iter().map(|held| (held.lane.clone(), first_left(held))).collect();
        Self { from_ids, ..Self::default() }
    }

    pub(crate) fn hold(&mut self, held: &Held) {
        self.asked.retain(|lane| *lane != held.lane);
        let broken_off = self.release.take_if(|release| held.lane.contains(&release.lane));
        // One of a lane in a topic that is held now begins anew after the topic's.
        if let Some(release) = broken_off.filter(|release| release.lane != held.lane) {
            self.asked.push_front(release.lane);
        }
        let left_from = first_left(held);
        let from_id = self.from_ids.entry(held.lane.clone()).or_insert(left_from);
        *from_id = left_from.min(*from_id);
    }

    /// Asks for a release; its turn comes when those asked for before are complete.
    pub(crate) fn release(&mut self, lane: &Lane) {
        let is_under_way = self.release.as_ref().is_some_and(|release| release.lane == *lane);
        if self.from_ids.contains_key(lane) && !is_under_way && !self.asked.contains(lane) {
            self.asked.push_back(lane.clone());
        }
    }

    /// Begins the next release that was asked for, unless one is under way.
    pub(crate) fn begin_release(&mut self) -> Option<Lane> {
        if self.release.is_some() {
            return None;
        }
        let lane = self.asked.remove(self.next_release()?)?;
        let from_id = self.from_ids.get(&lane)?;
        self.release = Some(Release { lane: lane.clone(), cursor: from_id - 1 });
        Some(lane)
    }

    /// Which of the releases asked for is next: a lane inside a held topic waits for the topic's.
    fn next_release(&self) -> Option<usize> {
        let may_begin = |lane: &Lane| {
            let topic = Lane::topic_of(lane.topic());
            *lane == topic || !self.from_ids.contains_key(&topic)
        };
        self.asked.iter().position(may_begin)
    }

    pub(crate) fn under_way(&mut self) -> Option<&mut Release> {
        self.release.as_mut()
    }

    /// Completes the release under way: the lane is no longer held.
    pub(crate) fn end_release(&mut self) -> Option<Lane> {
        let lane = self.release.take()?.lane;
        self.from_ids.remove(&lane);
        Some(lane)
    }

    pub(crate) fn is_releasing(&self) -> bool {
        self.release.is_some() || self.next_release().is_some()
    }

    /// Whether any held lane, other than `except`, keeps a row back.
    pub(crate) fn covers(&self, row: &Read, except: Option<&Lane>) -> bool {
        if self.from_ids.is_empty() {
            return false;
        }
        let (id, topic, lane) = match row {
            Read::Whole(record) | Read::Wide(record, _) => (record.id, &record.topic, record.lane()),
            Read::Unreadable(row, _) => (row.id, &row.topic, row.lane.clone()),
        };
        let whole = Lane::Topic { topic: Arc::clone(topic) };
        [Some(whole), lane]
            .into_iter()
            .flatten()
            .any(|lane| except != Some(&lane) && self.from_ids.get(&lane).is_some_and(|from_id| id >= *from_id))
    }
}

/// Whether a stored held lane keeps the row `o` back, in SQL.
pub(crate) fn covered(table: &Table) -> String {
    format!(
        "exists (select 1 from {} as h where h.topic = o.topic and o.id >= h.from_id and case
            when h.partition is not null then h.partition is o.partition
            when h.key is not null then h.key is o.key and o.partition is null
            else true end)",
        table.held()
    )
}
