//! Suspects in transactions: they go in groups, and one that is refused is undone, halved and tried again, down to a single
//! record.

use tokio::time::Instant;

use crate::contract::{Outcome, SinkError};
use crate::kafka::delivery::common::Common;
use crate::kafka::delivery::transactional::Transactional;
use crate::kafka::errors::unavailable;
use crate::kafka::producer::sending::{RecordOutcome, Sending};
use crate::kafka::quarantine::judging::Judging;
use crate::outbox::Record;

/// How often a group is tried that fails though no record of it is refused.
const GROUP_TRIES: usize = 3;

/// What a group's transaction came to.
enum Tried {
    Delivered(Vec<Outcome>),
    /// It was undone, because a record of it was refused; for a group of one this is its outcome.
    Refused(Outcome),
}

impl Transactional {
    /// Sends suspects in transactions, one after the other, and waits for what becomes of them. Holds those for which there
    /// is no time left.
    pub(super) async fn judge_groups(
        &mut self,
        common: &mut Common,
        records: &[Record],
        suspects: Vec<Sending>,
        until: Option<Instant>,
    ) -> Result<Vec<RecordOutcome>, SinkError> {
        let mut judging = Judging::new(records, suspects.len(), until);
        let mut groups = vec![suspects];
        while let Some(mut group) = groups.pop() {
            if judging.is_over() {
                groups.push(group);
                break;
            }
            group.retain(|sending| judging.is_due(*sending, &mut common.knowledge));
            let [first, ..] = group[..] else { continue };
            let outcomes = match self.try_group(common, records, &group).await? {
                Tried::Delivered(outcomes) => outcomes,
                Tried::Refused(Outcome::Unknown) if group.len() == 1 => {
                    let topic = &records[first.index].topic;
                    return Err(unavailable("publishing", format!("a record of topic {topic} was not delivered")));
                }
                Tried::Refused(outcome) if group.len() == 1 => vec![outcome],
                Tried::Refused(_) => {
                    let second = group.split_off(group.len() / 2);
                    groups.extend([second, group]);
                    continue;
                }
            };
            for (sending, outcome) in group.into_iter().zip(outcomes) {
                groups.extend(judging.judge(sending, outcome, &mut common.knowledge).map(|again| vec![again]));
            }
        }
        Ok(judging.end(groups.into_iter().flatten(), &mut common.knowledge))
    }

    /// Tries a group in a transaction. One that failed for no fault of its records, as the first after a refusal
    /// may, is tried again.
    async fn try_group(
        &mut self,
        common: &mut Common,
        records: &[Record],
        group: &[Sending],
    ) -> Result<Tried, SinkError> {
        let mut tries = GROUP_TRIES;
        loop {
            tries -= 1;
            match self.try_group_once(common, records, group).await {
                Err(_passing) if tries > 0 && common.healthy().is_ok() => {}
                tried => return tried,
            }
        }
    }

    async fn try_group_once(
        &mut self,
        common: &mut Common,
        records: &[Record],
        group: &[Sending],
    ) -> Result<Tried, SinkError> {
        if common.healthy()?.ledger.has_strays() {
            return Err(unavailable(
                "publishing",
                "a connection broke in a transaction: a new producer begins the next",
            ));
        }
        let begun = self.begin_transaction(common, records, group, None).await;
        let tried = match begun {
            Ok(receipt) => Ok(receipt.await),
            Err(error) => Err(error),
        };
        common.answered().await;
        let Some(failure) = self.recover(common) else {
            let outcomes = tried?;
            common.healthy()?;
            self.remember_committed(common);
            return Ok(Tried::Delivered(outcomes));
        };
        let id = records[group[0].index].id;
        let refusal = failure.refused.iter().find(|refusal| refusal.id == Some(id));
        // What is refused of the progress says nothing of the group.
        let is_of_group = |topic: &str| group.iter().any(|sending| *records[sending.index].topic == *topic);
        let held = failure.held.iter().find(|held| is_of_group(&held.topic));
        match (refusal, held) {
            (Some(refusal), _) => Ok(Tried::Refused(Outcome::Rejected(Box::new(refusal.rejection())))),
            (None, Some(held)) => Ok(Tried::Refused(Outcome::Held(held.cause))),
            (None, None) if failure.refused.is_empty() => Err(unavailable("publishing", failure.reason)),
            (None, None) => Ok(Tried::Refused(Outcome::Unknown)),
        }
    }
}
