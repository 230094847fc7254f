//! Which lanes a reading session leaves out, and which of them it releases: one at a time, in the order in which that was
//! asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::outbox::{Held, Lane};

/// The held lanes of a session. `P` is how far the release is that is under way.
#[derive(Debug)]
pub struct HeldBack<P> {
    lanes: HashMap<Lane, Held>,
    asked: VecDeque<Lane>,
    release: Option<Release<P>>,
}

/// A release under way.
#[derive(Debug)]
pub struct Release<P> {
    /// What is released.
    pub lane: Lane,
    /// How far that is.
    pub progress: P,
}

impl<P> HeldBack<P> {
    /// Begins with what is stored.
    pub fn new(stored: &[Held]) -> Self {
        let lanes = stored.iter().map(|held| (held.lane.clone(), held.clone())).collect();
        Self { lanes, asked: VecDeque::new(), release: None }
    }

    /// Leaves a lane out, or lowers where it begins. Ends its release.
    pub fn hold(&mut self, held: Held) {
        self.asked.retain(|lane| *lane != held.lane);
        let broken_off = self.release.take_if(|release| held.lane.contains(&release.lane));
        // One of a lane in a topic that is held now begins anew after the topic's.
        if let Some(release) = broken_off.filter(|release| release.lane != held.lane) {
            self.asked.push_front(release.lane);
        }
        let known = self.lanes.get(&held.lane).map_or(held.from_id, |known| known.from_id);
        let from_id = known.min(held.from_id);
        self.lanes.insert(held.lane.clone(), Held { from_id, ..held });
    }

    /// Asks for a release; its turn comes when those asked for before are complete.
    pub fn release(&mut self, lane: &Lane) {
        let is_under_way = self.release.as_ref().is_some_and(|release| release.lane == *lane);
        if self.lanes.contains_key(lane) && !is_under_way && !self.asked.contains(lane) {
            self.asked.push_back(lane.clone());
        }
    }

    /// Begins the next release that was asked for, unless one is under way.
    pub fn begin_release(&mut self, begin: impl FnOnce(&Held) -> P) -> Option<Lane> {
        if self.release.is_some() {
            return None;
        }
        let lane = self.asked.remove(self.next_release()?)?;
        let progress = begin(self.lanes.get(&lane)?);
        self.release = Some(Release { lane: lane.clone(), progress });
        Some(lane)
    }

    /// Which of the releases asked for is next: a lane inside a held topic waits for the topic's.
    fn next_release(&self) -> Option<usize> {
        let may_begin = |lane: &Lane| {
            let topic = Lane::topic_of(lane.topic());
            *lane == topic || !self.lanes.contains_key(&topic)
        };
        self.asked.iter().position(may_begin)
    }

    /// Takes the release that is under way in hand. Give it [back](Self::go_on), or [end](Self::end) it.
    pub fn take_release(&mut self) -> Option<Release<P>> {
        self.release.take()
    }

    /// Gives a release back that is not complete.
    pub fn go_on(&mut self, release: Release<P>) {
        self.release = Some(release);
    }

    /// Completes a release: the lane is no longer held.
    pub fn end(&mut self, release: Release<P>) -> Lane {
        self.lanes.remove(&release.lane);
        release.lane
    }

    /// Whether a release is under way.
    pub fn has_release(&self) -> bool {
        self.release.is_some()
    }

    /// Whether there is a release to work on, now or next.
    pub fn is_releasing(&self) -> bool {
        self.release.is_some() || self.next_release().is_some()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Whether a lane that is held, the row's topic or its own, other than `except`, keeps a row back. `is_left` says whether
    /// the row is part of what is left of such a lane.
    pub fn keeps_back(
        &self,
        topic: &Arc<str>,
        lane: Option<Lane>,
        except: Option<&Lane>,
        is_left: impl Fn(&Held) -> bool,
    ) -> bool {
        let topic = Lane::Topic { topic: Arc::clone(topic) };
        let lanes = [Some(topic), lane].into_iter().flatten().filter(|lane| except != Some(lane));
        lanes.filter_map(|lane| self.lanes.get(&lane)).any(is_left)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::HoldCause;

    fn held(lane: &Lane, from_id: i64) -> Held {
        Held { lane: lane.clone(), from_id, after: None, cause: HoldCause::MissingTopic, since: DateTime::UNIX_EPOCH }
    }

    fn from(held: &Held) -> i64 {
        held.from_id
    }

    #[test]
    fn a_lane_in_a_held_topic_is_released_after_the_topic() {
        let topic = Lane::topic_of("a");
        let key = Lane::from_columns("a", Some("1"), None);
        let mut back = HeldBack::new(&[held(&topic, 3), held(&key, 2)]);
        back.release(&key);
        assert_eq!(back.begin_release(from), None);
        back.release(&topic);
        assert_eq!(back.begin_release(from), Some(topic));
        let release = back.take_release().expect("it is under way");
        back.end(release);
        assert_eq!(back.begin_release(from), Some(key));
    }

    #[test]
    fn holding_again_lowers_where_a_lane_begins_and_ends_its_release() {
        let lane = Lane::topic_of("a");
        let mut back = HeldBack::new(&[held(&lane, 7)]);
        back.release(&lane);
        assert_eq!(back.begin_release(from), Some(lane.clone()));
        back.hold(held(&lane, 9));
        assert!(!back.is_releasing());
        back.hold(held(&lane, 3));
        back.release(&lane);
        back.begin_release(from);
        assert_eq!(back.take_release().map(|release| release.progress), Some(3));
    }

    #[test]
    fn a_release_that_its_topic_breaks_off_is_the_first_one_after_it() {
        let (topic, other) = (Lane::topic_of("a"), Lane::topic_of("b"));
        let key = Lane::from_columns("a", Some("1"), None);
        let mut back = HeldBack::new(&[held(&key, 2), held(&other, 1)]);
        back.release(&key);
        back.release(&other);
        assert_eq!(back.begin_release(from), Some(key.clone()));
        back.hold(held(&topic, 1));
        assert_eq!(back.begin_release(from), Some(other));
        let release = back.take_release().expect("it is under way");
        back.end(release);
        back.release(&topic);
        assert_eq!(back.begin_release(from), Some(topic));
        let release = back.take_release().expect("it is under way");
        back.end(release);
        assert_eq!(back.begin_release(from), Some(key));
    }
}
