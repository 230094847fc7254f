//! Plain delivery, at least once: one idempotent producer, and another one for suspects.
//!
//! Suspects go alone, each in a batch of its own, through a producer that outlives a refusal, and at most one of a lane at a
//! time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::contract::{Mandate, Outcome, Receipt, SinkError};
use crate::kafka::delivery::common::Common;
use crate::kafka::delivery::plan::Plan;
use crate::kafka::delivery::strategy::Strategy;
use crate::kafka::delivery::writer::Writer;
use crate::kafka::errors::not_open;
use crate::kafka::producer::ledger::submission::Submission;
use crate::kafka::producer::lifecycle::Producer;
use crate::kafka::producer::sending::{RecordOutcome, Sending};
use crate::kafka::producer::setup::{ProducerLimits, Role};
use crate::kafka::quarantine::judging::Judging;
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// Delivers at least once.
#[derive(Default)]
pub(crate) struct Plain {
    /// The producer that sends suspects.
    quarantine: Option<Producer>,
}

#[async_trait]
impl Strategy for Plain {
    async fn open(
        &mut self,
        common: &mut Common,
        _term: Term,
        _mandate: Option<Arc<dyn Mandate>>,
    ) -> Result<Option<Progress>, SinkError> {
        if let Some(ended) = self.quarantine.take_if(|quarantine| !quarantine.is_at_rest()) {
            common.end(ended);
        }
        if !common.is_at_rest() {
            self.end(common);
            self.build(common, common.producer_limits()).await?;
        }
        common.explain_what_is_stuck().await?;
        if common.has_strays() {
            self.replace(common, common.producer_limits()).await?;
        }
        Ok(None)
    }

    async fn slot(&self, _common: &Common) -> Result<(), SinkError> {
        Ok(())
    }

    async fn begin(&mut self, _common: &mut Common) -> Result<(), SinkError> {
        Ok(())
    }

    async fn submit(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        _after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let Common { producer, knowledge, settings, .. } = common;
        let Some(producer) = producer else { return Err(not_open()) };
        let (submission, receipt) = Submission::begin(&producer.ledger, records.len());
        let mut writer = Writer { producer, submission, stamp: settings.stamp(), records };
        plan.kept.into_iter().for_each(|kept| writer.submission.set(kept.index, kept.outcome));
        writer.write(&mut knowledge.topics, plan.together.into_iter().map(|sending| (sending.index, sending))).await?;
        if !plan.alone.is_empty() {
            let submission = writer.submission;
            let judged = self.send_quarantined(common, records, plan.alone, None).await?;
            judged.into_iter().for_each(|judged| submission.set(judged.index, judged.outcome));
        }
        Ok(receipt)
    }

    async fn judge(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        until: Instant,
    ) -> Result<Vec<RecordOutcome>, SinkError> {
        common.drained().await?;
        self.send_quarantined(common, records, plan.alone, Some(until)).await
    }

    async fn replace(&mut self, common: &mut Common, limits: ProducerLimits) -> Result<(), SinkError> {
        self.end(common);
        self.build(common, limits).await
    }

    fn progress_stored(&mut self) {}

    fn end(&mut self, common: &mut Common) {
        common.end_producer();
        if let Some(quarantine) = self.quarantine.take() {
            common.end(quarantine);
        }
    }
}

impl Plain {
    /// Builds the producer. What an earlier one had sent must not arrive after what this one sends.
    async fn build(&mut self, common: &mut Common, limits: ProducerLimits) -> Result<(), SinkError> {
        common.earlier_ended().await;
        common.install(Role::Main, limits)
    }

    /// Sends suspects through the producer in quarantine, and waits for what becomes of them.
    async fn send_quarantined(
        &mut self,
        common: &mut Common,
        records: &[Record],
        suspects: Vec<Sending>,
        until: Option<Instant>,
    ) -> Result<Vec<RecordOutcome>, SinkError> {
        let mut judging = Judging::new(records, suspects.len(), until);
        let mut lanes = by_lane(records, suspects);
        while !lanes.is_empty() && !judging.is_over() {
            let mut wave = Vec::with_capacity(lanes.len());
            let mut queues = Vec::with_capacity(lanes.len());
            for (number, queue) in lanes.iter_mut().enumerate() {
                if let Some(sending) = queue.pop_front()
                    && judging.is_due(sending, &mut common.knowledge)
                {
                    wave.push(sending);
                    queues.push(number);
                }
            }
            if !wave.is_empty() {
                let outcomes = self.send_alone(common, records, &wave).await?;
                for ((sending, number), outcome) in wave.into_iter().zip(queues).zip(outcomes) {
                    if let Some(again) = judging.judge(sending, outcome, &mut common.knowledge) {
                        lanes[number].push_front(again);
                    }
                }
            }
            lanes.retain(|queue| !queue.is_empty());
        }
        Ok(judging.end(lanes.into_iter().flatten(), &mut common.knowledge))
    }

    /// Sends records of different lanes, each in a batch of its own.
    async fn send_alone(
        &mut self,
        common: &mut Common,
        records: &[Record],
        wave: &[Sending],
    ) -> Result<Vec<Outcome>, SinkError> {
        let limits = common.producer_limits();
        let is_unfit = |producer: &mut Producer| !producer.is_at_rest() || !producer.limits.serves(&limits);
        if let Some(unfit) = self.quarantine.take_if(is_unfit) {
            common.end(unfit);
        }
        let producer = match &mut self.quarantine {
            Some(producer) => producer,
            none => none.insert(common.new_producer(Role::Quarantine, limits)?),
        };
        let (submission, receipt) = Submission::begin(&producer.ledger, wave.len());
        let mut writer = Writer { producer, submission, stamp: common.settings.stamp(), records };
        for (place, sending) in wave.iter().enumerate() {
            writer.send(place, *sending).await?;
        }
        drop(writer);
        Ok(receipt.await)
    }
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
