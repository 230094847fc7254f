//! Partitions that take nothing, and the lanes that wait for them: pure bookkeeping.
//!
//! A partition that has no leader, whose leader does not answer, or that too few replicas follow takes no record for as
//! long as that lasts, and what is sent there holds up all that was submitted with it. So once records of a partition
//! were unanswered for [long](crate::kafka::producer::stall) although Kafka answers, its lanes wait apart from all
//! others. Where the leader is to blame, so do the lanes of the other partitions that it leads.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::kafka::producer::sending::Destination;
use crate::kafka::topics::answer::{NO_LEADER, Replicas};
use crate::outbox::{HoldCause, Lane};

/// How long a partition rests that is stuck again though it looked available: to find that out costs all others the time
/// after which a producer counts as stuck.
const FIRST_PARTITION_REST: Duration = Duration::from_secs(20);

/// The longest that it rests when that happens again and again.
const LONGEST_PARTITION_REST: Duration = Duration::from_secs(600);

/// How long it is remembered that a partition was stuck.
const REST_FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// What takes nothing at present.
#[derive(Debug, Default)]
pub(crate) struct Unavailable {
    /// Brokers that lead partitions and do not answer; [`NO_LEADER`] among them stands for all partitions without one.
    silent: HashSet<i32>,
    stuck: HashMap<Destination, Stuck>,
    /// Partitions that were stuck before.
    earlier: HashMap<Destination, Stuck>,
    /// Partitions of which the sink has not looked yet why they are stuck.
    unexplained: Vec<Destination>,
    /// Lanes that were answered as held, and why.
    waiting: HashMap<Lane, HoldCause>,
}

/// A partition of which records were unanswered for long.
#[derive(Debug)]
struct Stuck {
    since: Instant,
    rest: Duration,
}

impl Unavailable {
    /// Whether everything is available and nothing waits, so that no record needs to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.silent.is_empty() && self.stuck.is_empty() && self.waiting.is_empty()
    }

    /// Notes that a partition is stuck.
    pub(crate) fn stuck(&mut self, partition: Destination) {
        self.earlier.retain(|_, stuck| stuck.since.elapsed() < REST_FORGOTTEN_AFTER);
        let before = self.stuck.remove(&partition).or_else(|| self.earlier.remove(&partition));
        let rest = before
            .map_or(Duration::ZERO, |before| (before.rest * 2).clamp(FIRST_PARTITION_REST, LONGEST_PARTITION_REST));
        self.stuck.insert(partition, Stuck { since: Instant::now(), rest });
        self.unexplained.push(partition);
    }

    /// Takes out the partitions that are to be explained.
    pub(crate) fn take_unexplained(&mut self) -> Vec<Destination> {
        std::mem::take(&mut self.unexplained)
    }

    /// Notes that a broker which leads partitions does not answer.
    pub(crate) fn silence(&mut self, broker: i32) {
        if self.silent.insert(broker) && broker != NO_LEADER {
            tracing::warn!(
                broker,
                "the broker does not answer: lanes of partitions that it leads wait, others flow on"
            );
        }
    }

    /// Whether nothing is to be sent to a partition that is led so.
    pub(crate) fn covers(&self, partition: Destination, replicas: Replicas) -> bool {
        self.silent.contains(&replicas.leader) || self.stuck.contains_key(&partition)
    }

    /// Whether it is too early to try a partition again.
    pub(crate) fn rests(&self, partition: Destination) -> bool {
        self.stuck.get(&partition).is_some_and(|stuck| stuck.since.elapsed() < stuck.rest)
    }

    /// Notes that a partition takes records again, as far as can be seen, and so does the broker that leads it.
    pub(crate) fn available(&mut self, partition: Destination, leader: i32) {
        self.earlier.extend(self.stuck.remove_entry(&partition));
        self.silent.remove(&NO_LEADER);
        if self.silent.remove(&leader) {
            tracing::info!(broker = leader, "the broker answers again");
        }
    }

    /// Notes that a record of this lane was answered as held: the lane stays so until it is [let go](Self::let_go),
    /// because records of it may be under way to the relay that holds it.
    pub(crate) fn keep_back(&mut self, lane: Lane, cause: HoldCause) {
        self.waiting.insert(lane, cause);
    }

    /// For what the topic of a record waits, or its own lane, if any of them does.
    pub(crate) fn keeps_back(&self, topic: &Lane, lane: Option<&Lane>) -> Option<HoldCause> {
        self.waiting.get(topic).or_else(|| self.waiting.get(lane?)).copied()
    }

    /// Lets lanes go of which it was told that they are accepted.
    pub(crate) fn let_go(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            self.waiting.remove(lane);
        }
    }

    /// Begins a session, which reads again whatever was under way.
    pub(crate) fn begin_anew(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: Destination = Destination { topic: 3, partition: 1 };

    fn led_by(leader: i32) -> Replicas {
        Replicas { leader, in_sync: 1 }
    }

    #[test]
    fn a_stuck_partition_takes_nothing_and_with_a_silent_leader_nor_do_the_others_of_that() {
        let other = Destination { topic: 4, partition: 0 };
        let mut unavailable = Unavailable::default();
        unavailable.stuck(PARTITION);
        assert!(unavailable.covers(PARTITION, led_by(1)) && !unavailable.covers(other, led_by(1)));
        unavailable.silence(1);
        assert!(unavailable.covers(other, led_by(1)) && !unavailable.covers(other, led_by(2)));
        unavailable.available(PARTITION, 1);
        assert!(!unavailable.covers(PARTITION, led_by(1)) && !unavailable.covers(other, led_by(1)));
        assert!(unavailable.is_empty());
    }

    #[test]
    fn a_lane_that_was_held_stays_so_until_it_is_let_go_though_its_partition_is_back() {
        let (topic, lane) = (Lane::topic_of("t"), Lane::from_columns("t", Some("k"), None));
        let mut unavailable = Unavailable::default();
        unavailable.stuck(PARTITION);
        unavailable.keep_back(lane.clone(), HoldCause::UnavailablePartition);
        unavailable.available(PARTITION, 1);
        assert_eq!(unavailable.keeps_back(&topic, Some(&lane)), Some(HoldCause::UnavailablePartition));
        assert_eq!(unavailable.keeps_back(&topic, None), None);
        unavailable.let_go(std::slice::from_ref(&lane));
        assert_eq!(unavailable.keeps_back(&topic, Some(&lane)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_is_stuck_again_and_again_rests_ever_longer() {
        let mut unavailable = Unavailable::default();
        unavailable.stuck(PARTITION);
        assert!(!unavailable.rests(PARTITION), "it may have been the client's fault");
        for rest in [FIRST_PARTITION_REST, FIRST_PARTITION_REST * 2, FIRST_PARTITION_REST * 4] {
            unavailable.available(PARTITION, 1);
            unavailable.stuck(PARTITION);
            tokio::time::advance(rest - Duration::from_millis(1)).await;
            assert!(unavailable.rests(PARTITION));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!unavailable.rests(PARTITION));
        }
    }
}
