//! Who is suspected of being what the broker refuses: pure bookkeeping.
//!
//! A broker refuses whole batches. The records of a refused batch are *suspects*: each is sent again alone, until it
//! is delivered or rejected, and its lane with it, so that the lane keeps its order. A lane of which a record was
//! rejected stays on *probation* for a while, so that a poisoned key does not put an end to one producer after the
//! other. The partition is on *trial* too, so that the next of many such records is met in quarantine: until some have
//! been delivered there, every record of the partition is sent alone. All other records go on as ever.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::kafka::errors::MESSAGE_TOO_LARGE;
use crate::kafka::producer::ledger::Refused;
use crate::outbox::{Lane, Record};

/// How long a lane is watched after a record of it was rejected, or was suspected and did not come again.
const SUSPICION_LASTS: Duration = Duration::from_secs(600);

/// Lanes that are watched at most. A lane that is not watched costs a producer when its next record is refused.
const SUSPECTED_LANES: usize = 50_000;

/// Records of a partition that must be delivered alone, none refused in between, before its records go together again.
const TRIAL_RECORDS: usize = 100;

/// Suspects, and the lanes and partitions that are watched.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    ids: HashMap<i64, Suspicion>,
    lanes: HashMap<Lane, Watch>,
    /// By topic and partition: how many records are still to be delivered alone.
    trials: HashMap<(String, i32), usize>,
}

/// Why a record is suspected.
#[derive(Debug)]
struct Suspicion {
    topic: String,
    /// Bytes of a batch at most when it was refused, if it was refused as too large.
    batch: Option<usize>,
    until: Instant,
}

#[derive(Debug)]
struct Watch {
    suspects: HashSet<i64>,
    on_probation: bool,
    until: Instant,
}

impl Suspects {
    /// Whether nothing is suspected or watched, so that no record needs to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.lanes.is_empty() && self.trials.is_empty()
    }

    /// Suspects records that were refused, by a producer whose batches held so many bytes at most.
    pub(crate) fn add(&mut self, refused: &[Refused], batch: usize) {
        let until = Instant::now() + SUSPICION_LASTS;
        for refusal in refused {
            let Some(id) = refusal.id else { continue };
            let is_size = refusal.code == MESSAGE_TOO_LARGE;
            let suspicion = Suspicion { topic: refusal.topic.clone(), batch: is_size.then_some(batch), until };
            self.ids.insert(id, suspicion);
            self.trials.insert((refusal.topic.clone(), refusal.partition), TRIAL_RECORDS);
            for lane in lanes(refusal) {
                if self.lanes.len() >= SUSPECTED_LANES && !self.lanes.contains_key(&lane) {
                    continue;
                }
                let fresh = || Watch { suspects: HashSet::new(), on_probation: false, until };
                let watch = self.lanes.entry(lane).or_insert_with(fresh);
                watch.suspects.insert(id);
                watch.until = until;
            }
        }
    }

    /// Whether the record, which goes to this partition, is to be sent alone.
    pub(crate) fn concerns(&self, record: &Record, lane: Option<&Lane>, partition: i32) -> bool {
        self.ids.contains_key(&record.id)
            || lane.is_some_and(|lane| self.lanes.contains_key(lane))
            || !self.trials.is_empty() && self.trials.contains_key(&(record.topic.to_string(), partition))
    }

    /// A record was delivered alone in this partition.
    pub(crate) fn delivered(&mut self, record: &Record, partition: i32) {
        let trial = (record.topic.to_string(), partition);
        if let Some(left) = self.trials.get_mut(&trial) {
            *left -= 1;
            if *left == 0 {
                self.trials.remove(&trial);
            }
        }
        self.clear(record.id);
    }

    /// A record of this partition was refused alone. That of a lane on probation is no news of the others.
    pub(crate) fn refused(&mut self, record: &Record, partition: i32) {
        let known = record.lane().and_then(|lane| self.lanes.get(&lane));
        if known.is_some_and(|watch| watch.on_probation) {
            return;
        }
        if let Some(left) = self.trials.get_mut(&(record.topic.to_string(), partition)) {
            *left = TRIAL_RECORDS;
        }
    }

    /// Nothing is held against a record any more.
    fn clear(&mut self, id: i64) {
        if self.ids.remove(&id).is_some() {
            self.drop_from_lanes(|suspect| suspect == id);
        }
    }

    /// A record was rejected: its lane is watched.
    pub(crate) fn reject(&mut self, id: i64, lane: Option<Lane>) {
        if let Some(lane) = lane
            && (self.lanes.len() < SUSPECTED_LANES || self.lanes.contains_key(&lane))
        {
            let until = Instant::now() + SUSPICION_LASTS;
            let watch =
                self.lanes.entry(lane).or_insert_with(|| Watch { suspects: HashSet::new(), on_probation: true, until });
            watch.on_probation = true;
            watch.until = until;
        }
        self.clear(id);
    }

    /// The topic takes batches of so many bytes, and what is larger is told before it is sent. A record that was
    /// refused in a larger batch than that is suspected no longer.
    pub(crate) fn explain(&mut self, topic: &str, limit: usize) {
        let explained =
            |suspicion: &Suspicion| suspicion.topic == topic && suspicion.batch.is_some_and(|batch| batch > limit);
        let gone: HashSet<i64> = self.ids.extract_if(|_, suspicion| explained(suspicion)).map(|(id, _)| id).collect();
        if !gone.is_empty() {
            self.drop_from_lanes(|suspect| gone.contains(&suspect));
            if !self.ids.values().any(|suspicion| suspicion.topic == topic) {
                self.trials.retain(|(of, _), _| of != topic);
            }
        }
    }

    /// Forgets what was suspected or watched for long enough. Call it while nothing is being sent alone.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        self.ids.retain(|_, suspicion| now < suspicion.until);
        self.lanes.retain(|_, watch| now < watch.until);
    }

    fn drop_from_lanes(&mut self, gone: impl Fn(i64) -> bool) {
        self.lanes.retain(|_, watch| {
            watch.suspects.retain(|suspect| !gone(*suspect));
            watch.on_probation || !watch.suspects.is_empty()
        });
    }
}

/// The lanes that a refused record may belong to: the broker's answer does not say whether its row named the
/// partition.
fn lanes(refusal: &Refused) -> impl Iterator<Item = Lane> {
    let key = refusal.key.as_deref().map(|key| Lane::from_columns(&refusal.topic, Some(key), None));
    let partition = Lane::from_columns(&refusal.topic, None, Some(refusal.partition));
    key.into_iter().chain([partition])
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use rdkafka::error::RDKafkaErrorCode;
    use uuid::Uuid;

    use super::*;

    fn refusal(id: i64, key: Option<&str>, code: &'static str) -> Refused {
        let error = RDKafkaErrorCode::InvalidRecord;
        Refused { id: Some(id), topic: "t".to_owned(), key: key.map(str::to_owned), partition: 3, code, error }
    }

    fn record(id: i64, key: Option<&str>, partition: Option<i32>) -> Record {
        Record {
            id,
            event_id: Uuid::nil(),
            topic: "t".into(),
            key: key.map(str::to_owned),
            payload: None,
            headers: Vec::new(),
            partition,
            created_at: Utc::now(),
        }
    }

    /// In a partition that is not on trial.
    fn concerns(suspects: &Suspects, record: &Record) -> bool {
        suspects.concerns(record, record.lane().as_ref(), 0)
    }

    #[test]
    fn a_partition_is_on_trial_until_some_records_in_a_row_are_delivered_there() {
        let mut suspects = Suspects::default();
        suspects.add(&[refusal(5, None, "invalid_record")], 1_000);
        let other = record(9, Some("b"), None);
        let is_alone = |suspects: &Suspects, partition| suspects.concerns(&other, other.lane().as_ref(), partition);
        assert!(is_alone(&suspects, 3) && !is_alone(&suspects, 2));
        (1..TRIAL_RECORDS).for_each(|_| suspects.delivered(&other, 3));
        suspects.refused(&other, 3);
        (1..TRIAL_RECORDS).for_each(|_| suspects.delivered(&other, 3));
        assert!(is_alone(&suspects, 3));
        suspects.delivered(&other, 3);
        assert!(!is_alone(&suspects, 3));
    }

    #[test]
    fn a_suspect_keeps_its_lane_in_isolation_until_it_is_cleared_and_no_other() {
        let mut suspects = Suspects::default();
        suspects.add(&[refusal(5, Some("a"), "invalid_record"), refusal(6, None, "invalid_record")], 1_000);
        assert!(concerns(&suspects, &record(4, Some("a"), None)) && concerns(&suspects, &record(9, Some("a"), None)));
        assert!(concerns(&suspects, &record(9, None, Some(3))), "its row may have named the partition");
        assert!(concerns(&suspects, &record(6, None, None)) && !concerns(&suspects, &record(7, None, None)));
        assert!(!concerns(&suspects, &record(9, Some("b"), None)));
        suspects.clear(5);
        assert!(!concerns(&suspects, &record(9, Some("a"), None)) && concerns(&suspects, &record(9, None, Some(3))));
        suspects.clear(6);
        assert!(suspects.ids.is_empty() && suspects.lanes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_of_a_rejected_record_is_on_probation_for_a_while() {
        let mut suspects = Suspects::default();
        suspects.add(&[refusal(5, Some("a"), "invalid_record")], 1_000);
        suspects.reject(5, record(5, Some("a"), None).lane());
        assert!(concerns(&suspects, &record(9, Some("a"), None)) && !concerns(&suspects, &record(9, None, Some(3))));
        tokio::time::advance(SUSPICION_LASTS).await;
        suspects.expire();
        assert!(suspects.ids.is_empty() && suspects.lanes.is_empty());
    }

    #[test]
    fn a_limit_that_explains_a_refusal_ends_the_suspicion() {
        let mut suspects = Suspects::default();
        suspects.add(&[refusal(5, Some("a"), MESSAGE_TOO_LARGE), refusal(6, Some("b"), "invalid_record")], 1_000);
        suspects.explain("t", 1_000);
        assert!(concerns(&suspects, &record(5, Some("a"), None)), "a batch of 1,000 bytes would have fitted");
        suspects.explain("t", 999);
        assert!(!concerns(&suspects, &record(5, Some("a"), None)) && concerns(&suspects, &record(6, Some("b"), None)));
    }
}
