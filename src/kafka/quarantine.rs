//! Suspects, and their lanes: sent so that what is refused was refused for itself.
//!
//! Without transactions each goes alone in its batch, through a producer of their own that outlives a refusal, and at
//! most one of a lane at a time. With transactions they go in groups: one that is refused is undone, halved and tried
//! again, down to a single record.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use crate::contract::{Outcome, Receipt, SinkError};
use crate::kafka::errors::{INVALID_TIMESTAMP, not_open, unavailable};
use crate::kafka::plan::{Plan, Sending, Writer};
use crate::kafka::producer::Role;
use crate::kafka::sink::Sink;
use crate::kafka::topics::State;
use crate::kafka::transaction::{Transaction, is_delivered};
use crate::outbox::{HoldCause, Lane, Position, Record};

/// How often a group is tried that fails though no record of it is refused.
const GROUP_TRIES: usize = 3;

/// What became of records, by their places in the submission.
type Judged = Vec<(usize, Outcome)>;

/// What a group's transaction came to.
enum Tried {
    Delivered(Vec<Outcome>),
    /// It was undone, because a record of it was refused; for a group of one this is its outcome.
    Refused(Outcome),
}

impl Sink {
    /// Sends suspects through the producer in quarantine, and waits for what becomes of them.
    /// Holds those for which there is no time left.
    pub(crate) async fn send_quarantined(
        &mut self,
        records: &[Record],
        alone: Vec<Sending>,
        until: Option<Instant>,
    ) -> Result<Judged, SinkError> {
        let mut judged = Judged::with_capacity(alone.len());
        let mut lanes = by_lane(records, alone);
        while !lanes.is_empty() {
            if is_past(until) {
                judged.extend(self.put_off(records, lanes.into_iter().flatten()));
                break;
            }
            let (mut wave, mut queues) = (Vec::with_capacity(lanes.len()), Vec::with_capacity(lanes.len()));
            for (number, queue) in lanes.iter_mut().enumerate() {
                let Some(sending) = queue.pop_front() else { continue };
                match self.kept_back(&records[sending.index], sending) {
                    Some(outcome) => judged.push((sending.index, outcome)),
                    None => {
                        wave.push(sending);
                        queues.push(number);
                    }
                }
            }
            if !wave.is_empty() {
                let outcomes = self.send_alone(records, &wave).await?;
                for ((sending, number), outcome) in wave.into_iter().zip(queues).zip(outcomes) {
                    match in_time(sending, &outcome) {
                        Some(again) => lanes[number].push_front(again),
                        None => {
                            self.judge(&records[sending.index], sending, &outcome);
                            judged.push((sending.index, outcome));
                        }
                    }
                }
            }
            lanes.retain(|queue| !queue.is_empty());
        }
        Ok(judged)
    }

    /// Holds suspects for which there is no time left, and what follows in their lanes.
    fn put_off(&mut self, records: &[Record], suspects: impl Iterator<Item = Sending>) -> Judged {
        let suspects = suspects.map(|sending| sending.index);
        suspects.map(|index| (index, self.topics.keep_back(&records[index], HoldCause::Suspected))).collect()
    }

    /// Sends records of different lanes, each in a batch of its own.
    async fn send_alone(&mut self, records: &[Record], wave: &[Sending]) -> Result<Vec<Outcome>, SinkError> {
        let producer_limits = self.producer_limits();
        let unfit =
            self.quarantine.take_if(|producer| !producer.is_at_rest() || !producer.limits.serves(&producer_limits));
        if let Some(unfit) = unfit {
            self.end(unfit);
        }
        if self.quarantine.is_none() {
            self.quarantine = Some(self.new_producer(Role::Quarantine, producer_limits)?);
        }
        let Self { quarantine, settings, .. } = self;
        let Some(producer) = quarantine else { return Err(not_open()) };
        let (submission, receipt) = producer.ledger.begin(wave.len());
        let mut writer = Writer { producer, submission, source: &settings.source, records };
        for (place, sending) in wave.iter().enumerate() {
            writer.send(place, *sending).await?;
        }
        drop(writer);
        Ok(receipt.await)
    }

    /// Hands the records over as planned: those without suspicion in one transaction, which ends in the background,
    /// and after it the suspects.
    pub(crate) async fn transact(
        &mut self,
        records: &[Record],
        plan: Plan,
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let Plan { together, alone, kept, .. } = plan;
        if has_outstanding(&kept) {
            self.stick();
        }
        let mut outcomes = vec![Outcome::Unknown; records.len()];
        // What was published ahead is named row by row until the position moves past it.
        let is_ahead = self.progress_log.is_some() && after.is_some() && !kept.is_empty();
        kept.into_iter().for_each(|(index, outcome)| outcomes[index] = outcome);
        let receipt: Receipt = match together.is_empty() && !is_ahead {
            true => Box::pin(std::future::ready(Vec::new())),
            false => self.begin_transaction(records, &together, after.filter(|_| alone.is_empty())).await?,
        };
        if !alone.is_empty() {
            self.last_transaction().await?;
            let judged = self.quarantine_in_transactions(records, alone, None).await?;
            if has_outstanding(&judged) {
                self.stick();
            }
            judged.into_iter().for_each(|(index, outcome)| outcomes[index] = outcome);
        }
        Ok(Box::pin(async move {
            let told = receipt.await;
            together.iter().zip(told).for_each(|(sending, outcome)| outcomes[sending.index] = outcome);
            outcomes
        }))
    }

    /// Begins a transaction of these records and hands them over. The receipt, one outcome for each, resolves when the
    /// transaction has ended.
    async fn begin_transaction(
        &mut self,
        records: &[Record],
        sendings: &[Sending],
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let Self { producer, topics, settings, progress_log, .. } = self;
        let Some(producer) = producer else { return Err(not_open()) };
        let step = progress_log.as_ref().map(|progress_log| {
            let sent = sendings.iter().map(|sending| &records[sending.index]);
            progress_log.after(sent, after)
        });
        let step = step.transpose()?;
        let begun = producer.begin_transaction().await;
        let transactor = begun.map_err(|error| unavailable("beginning a transaction", error))?;
        let payload = progress_log.as_mut().zip(step).map(|(progress_log, step)| progress_log.take(step));
        let (count, all) = (sendings.len(), sendings.len() + usize::from(payload.is_some()));
        let (submission, receipt) = producer.ledger.begin(all);
        let transaction = Transaction::new(&producer.ledger, &transactor, all, settings.transaction_timeout());
        let receipt = transaction.ends_with(receipt, all);
        let mut writer = Writer { producer, submission, source: &settings.source, records };
        if let (Some(progress_log), Some(payload)) = (&*progress_log, &payload) {
            let ticket = writer.submission.ticket(count);
            writer.put(progress_log.encode(payload, ticket)).await?;
        }
        writer.write(topics, sendings.iter().copied().enumerate()).await?;
        Ok(Box::pin(async move {
            let mut outcomes = receipt.await;
            outcomes.truncate(count);
            outcomes
        }))
    }

    /// Sends suspects in transactions, one after the other, and waits for what becomes of them. Holds those for which there
    /// is no time left.
    pub(crate) async fn quarantine_in_transactions(
        &mut self,
        records: &[Record],
        alone: Vec<Sending>,
        until: Option<Instant>,
    ) -> Result<Judged, SinkError> {
        let mut judged = Judged::with_capacity(alone.len());
        let mut groups = vec![alone];
        while let Some(mut group) = groups.pop() {
            if is_past(until) {
                groups.push(group);
                judged.extend(self.put_off(records, groups.into_iter().flatten()));
                break;
            }
            group.retain(|sending| match self.kept_back(&records[sending.index], *sending) {
                Some(outcome) => {
                    judged.push((sending.index, outcome));
                    false
                }
                None => true,
            });
            let [first, ..] = group[..] else { continue };
            let (is_one, outcomes) = match self.try_group(records, &group).await? {
                Tried::Delivered(outcomes) => (false, outcomes),
                Tried::Refused(outcome) if group.len() == 1 => match in_time(first, &outcome) {
                    Some(again) => {
                        groups.push(vec![again]);
                        continue;
                    }
                    None => (true, vec![outcome]),
                },
                Tried::Refused(_) => {
                    let second = group.split_off(group.len() / 2);
                    groups.extend([second, group]);
                    continue;
                }
            };
            if is_one && outcomes[0] == Outcome::Unknown {
                let topic = &records[first.index].topic;
                return Err(unavailable("publishing", format!("a record of topic {topic} was not delivered")));
            }
            for (sending, outcome) in group.into_iter().zip(outcomes) {
                self.judge(&records[sending.index], sending, &outcome);
                judged.push((sending.index, outcome));
            }
        }
        Ok(judged)
    }

    /// Tries a group in a transaction. One that failed for no fault of its records, as the first after a refusal
    /// may, is tried again.
    async fn try_group(&mut self, records: &[Record], group: &[Sending]) -> Result<Tried, SinkError> {
        let mut tries = GROUP_TRIES;
        loop {
            tries -= 1;
            match self.try_group_once(records, group).await {
                Err(_passing) if tries > 0 && self.healthy().is_ok() => {}
                tried => return tried,
            }
        }
    }

    async fn try_group_once(&mut self, records: &[Record], group: &[Sending]) -> Result<Tried, SinkError> {
        if self.healthy()?.ledger.has_strays() {
            return Err(unavailable(
                "publishing",
                "a connection broke in a transaction: a new producer begins the next",
            ));
        }
        let begun = self.begin_transaction(records, group, None).await;
        let tried = match begun {
            Ok(receipt) => Ok(receipt.await),
            Err(error) => Err(error),
        };
        if let Some(producer) = &self.producer {
            producer.ledger.answered().await;
        }
        let Some(failure) = self.recover() else {
            let outcomes = tried?;
            self.healthy()?;
            self.remember_committed();
            return Ok(Tried::Delivered(outcomes));
        };
        let id = records[group[0].index].id;
        let refusal = failure.refused.iter().find(|refusal| refusal.id == Some(id));
        // What is refused of the progress says nothing of the group.
        let is_of_group = |topic: &str| group.iter().any(|sending| *records[sending.index].topic == *topic);
        let held = failure.held.iter().find(|(topic, _)| is_of_group(topic));
        match (refusal, held) {
            (Some(refusal), _) => Ok(Tried::Refused(Outcome::Rejected(Box::new(refusal.rejection())))),
            (None, Some((_, cause))) => Ok(Tried::Refused(Outcome::Held(*cause))),
            (None, None) if failure.refused.is_empty() => Err(unavailable("publishing", failure.reason)),
            (None, None) => Ok(Tried::Refused(Outcome::Unknown)),
        }
    }

    /// Why a record that was to be sent alone is kept back after all, by what was learnt since.
    fn kept_back(&mut self, record: &Record, sending: Sending) -> Option<Outcome> {
        if let State::Held(cause) = self.topics.get(sending.topic).state {
            return Some(Outcome::Held(cause));
        }
        let is_blocked = !self.blocked.is_empty() && record.lane().is_some_and(|lane| self.blocked.contains(&lane));
        is_blocked.then_some(Outcome::Unknown)
    }

    /// Takes note of what became of a suspect.
    fn judge(&mut self, record: &Record, sending: Sending, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.suspects.delivered(record, sending.partition),
            Outcome::Rejected(_) => {
                self.suspects.refused(record, sending.partition);
                self.suspects.reject(record.id, record.lane());
                self.blocked.extend(record.lane());
            }
            Outcome::Held(cause) => self.topics.hold(&record.topic, *cause),
            Outcome::Unknown => self.blocked.extend(record.lane()),
        }
    }

    fn stick(&mut self) {
        if let Some(progress_log) = &mut self.progress_log {
            progress_log.stick();
        }
    }
}

/// Whether there is no time left.
fn is_past(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

/// Whether any of these is not delivered.
fn has_outstanding(judged: &[(usize, Outcome)]) -> bool {
    judged.iter().any(|(_, outcome)| !is_delivered(outcome))
}

/// A record whose time was refused and that is to be sent again, as of now.
fn in_time(sending: Sending, outcome: &Outcome) -> Option<Sending> {
    let is_time = matches!(outcome, Outcome::Rejected(rejection) if rejection.code == INVALID_TIMESTAMP);
    (is_time && !sending.is_untimely).then_some(Sending { is_untimely: true, ..sending })
}

/// The records of each lane, in their order; those without a lane each by itself.
fn by_lane(records: &[Record], sendings: Vec<Sending>) -> Vec<VecDeque<Sending>> {
    let mut lanes: Vec<VecDeque<Sending>> = Vec::new();
    let mut places: HashMap<Lane, usize> = HashMap::new();
    for sending in sendings {
        let fresh = lanes.len();
        let place = records[sending.index].lane().map_or(fresh, |lane| *places.entry(lane).or_insert(fresh));
        match lanes.get_mut(place) {
            Some(queue) => queue.push_back(sending),
            None => lanes.push(VecDeque::from([sending])),
        }
    }
    lanes
}
