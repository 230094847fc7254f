//! The sink: what the relay asks for, over the way of delivering that is set.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use crate::contract::{self, BoxFuture, Mandate, Outcome, Receipt, Refusal, Sink as Contract, SinkError};
use crate::kafka::config::Settings;
use crate::kafka::delivery::common::Common;
use crate::kafka::delivery::plain::Plain;
use crate::kafka::delivery::plan::Plan;
use crate::kafka::delivery::strategy::Strategy;
use crate::kafka::delivery::transactional::Transactional;
use crate::kafka::errors::unusable;
use crate::kafka::producer::sending::RecordOutcome;
use crate::kafka::properties::check_properties;
use crate::kafka::topics::accepting::HeldLanes;
use crate::kafka::topics::fitness::refusals;
use crate::kafka::topics::table::Doubt;
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// How long the others of a submission wait for its suspects.
const JUDGING_TURN: Duration = Duration::from_millis(400);

/// Publishes to Kafka. See the [module](crate::kafka) for how it keeps the promises.
pub struct Sink {
    common: Common,
    strategy: Box<dyn Strategy>,
    /// Until when suspects of the submission at hand may be judged, once that has begun.
    judging_until: Option<Instant>,
}

impl Sink {
    /// A sink with these settings, which it checks. Nothing connects before it is opened.
    ///
    /// # Errors
    /// [`SinkError::Unusable`] with every complaint about the properties.
    pub fn new(settings: Settings) -> Result<Self, SinkError> {
        let complaints = check_properties(&settings.properties);
        if !complaints.is_empty() {
            let said: Vec<String> =
                complaints.iter().map(|c| format!("kafka property {} {}", c.key, c.problem)).collect();
            return Err(unusable(said.join("; "), "correct the configuration"));
        }
        let strategy: Box<dyn Strategy> = match settings.delivery.fences() {
            true => Box::new(Transactional::default()),
            false => Box::new(Plain::default()),
        };
        Ok(Self { common: Common::new(settings), strategy, judging_until: None })
    }

    /// What its clients come to know of the brokers, to be asked at any time.
    pub fn contact(&self) -> Arc<dyn contract::Contact> {
        Arc::new(self.common.contact.clone())
    }

    /// Waits until the topics are known and the broker has caught up, so that an outage leaves little in the client.
    async fn make_room(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.judging_until = None;
        self.common.knowledge.topics.hear();
        self.common.healthy()?;
        self.common.learn(records).await?;
        self.common.healthy()?.ledger.caught_up(self.common.settings.oldest).await;
        self.strategy.slot(&self.common).await?;
        self.common.healthy().map(drop)
    }

    /// Finds records that can never be published as they are: by what is known, and then by sending those that may be
    /// refused.
    async fn find_refusals(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        let known = self.known_refusals(records).await?;
        if known.is_empty() { self.judge_suspects(records).await } else { Ok(known) }
    }

    /// Records that can never be published by what is known. A topic's limits may have been changed since they were read,
    /// so no record is refused on old news.
    async fn known_refusals(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.common.knowledge.topics.hear();
        self.common.learn(records).await?;
        let Common { knowledge, settings, .. } = &mut self.common;
        let found = refusals(records, &mut knowledge.topics, settings);
        let mut is_old = false;
        for refusal in &found {
            is_old |= knowledge.topics.doubt(&records[refusal.index].topic) == Doubt::AskAgain;
        }
        if !is_old {
            return Ok(found);
        }
        self.common.learn(records).await?;
        let Common { knowledge, settings, .. } = &mut self.common;
        Ok(refusals(records, &mut knowledge.topics, settings))
    }

    /// Publishes the suspects among these records, and says which of them the broker refuses for themselves. What is
    /// delivered is told with the submission that follows.
    ///
    /// The relay can still decide what becomes of them before anything that follows in their lanes, so that a session goes
    /// on, however many records are refused. All others wait meanwhile: what takes longer than a turn is held, and goes on
    /// in the next one.
    async fn judge_suspects(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        let Common { knowledge, settings, .. } = &mut self.common;
        if knowledge.suspects.is_empty() {
            return Ok(Vec::new());
        }
        let plan = Plan::make(records, knowledge, settings);
        if plan.alone.is_empty() {
            return Ok(Vec::new());
        }
        let until = *self.judging_until.get_or_insert_with(|| Instant::now() + JUDGING_TURN);
        let judged = self.strategy.judge(&mut self.common, records, plan, until).await?;
        let knowledge = &mut self.common.knowledge;
        let mut refusals = Vec::new();
        for RecordOutcome { index, outcome } in judged {
            let record = &records[index];
            match outcome {
                Outcome::Delivered { .. } => {
                    knowledge.ahead.insert(record.id, outcome);
                }
                Outcome::Rejected(rejection) => {
                    // What follows in its lane comes with the next call, when it is decided what becomes of this one.
                    if let Some(lane) = record.lane() {
                        knowledge.blocked.remove(&lane);
                    }
                    refusals.push(Refusal { index, rejection: *rejection });
                }
                // Submitting tells.
                Outcome::Held(_) | Outcome::Unknown => {}
            }
        }
        refusals.sort_unstable_by_key(|refusal| refusal.index);
        Ok(refusals)
    }

    async fn accept(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        self.common.knowledge.topics.hear();
        self.common.healthy()?;
        self.strategy.begin(&mut self.common).await?;
        self.common.ask_for_what_is_due()?;
        self.common.knowledge.begin_submission();
        loop {
            self.common.learn(records).await?;
            let Common { knowledge, settings, .. } = &mut self.common;
            let mut plan = Plan::make(records, knowledge, settings);
            if self.common.healthy()?.limits.serves(&plan.limits) {
                let knowledge = &mut self.common.knowledge;
                knowledge.blocked.extend(plan.blocked.drain(..));
                knowledge.ahead.clear();
                let accepted = self.strategy.submit(&mut self.common, records, plan, after).await;
                self.judging_until = None;
                return accepted;
            }
            let limits = self.common.next_limits().await?;
            self.strategy.replace(&mut self.common, limits).await?;
        }
    }

    /// The reports that are still to come tell who is at fault, and `abort` may follow an error at once. They come
    /// soon: the producer takes care that they do.
    async fn explained<T>(&self, result: Result<T, SinkError>) -> Result<T, SinkError> {
        if result.is_err() {
            self.common.answered().await;
        }
        result
    }
}

#[async_trait]
impl Contract for Sink {
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        self.judging_until = None;
        self.common.knowledge.begin_session();
        let progress = self.strategy.open(&mut self.common, term, mandate).await?;
        self.common.knowledge.has_learnt = false;
        Ok(progress)
    }

    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let prepared = self.make_room(records).await;
        self.explained(prepared).await
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        let refusals = self.find_refusals(records).await;
        self.explained(refusals).await
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        let accepted = self.accept(records, after).await;
        self.explained(accepted).await
    }

    fn fence(&self) -> Option<&str> {
        let Settings { delivery, source, .. } = &self.common.settings;
        delivery.fences().then_some(source.as_str())
    }

    fn progress_stored(&mut self) {
        self.strategy.progress_stored();
    }

    /// Asks which of these held lanes flow by now, and lets them go, as it has promised.
    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        let topics = &self.common.knowledge.topics;
        let held = HeldLanes::sort(lanes, topics, &self.common.settings);
        let lookup = self.common.lookup();
        let inbox = topics.inbox();
        Box::pin(async move { Ok(held.ask(&lookup?, &inbox).await) })
    }

    fn has_learnt(&mut self) -> bool {
        let failure = self.common.producer.as_ref().and_then(|producer| producer.ledger.failure());
        std::mem::take(&mut self.common.knowledge.has_learnt) || failure.is_some_and(|failure| failure.teaches())
    }

    fn abort(&mut self) {
        self.strategy.end(&mut self.common);
    }

    async fn close(&mut self, deadline: Duration) {
        let _ = timeout(deadline, self.common.answered()).await;
        self.abort();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.abort();
    }
}
