//! Delivery in transactions, which fence: a submission is one transaction, and with exactly-once the progress is part of it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::contract::{Mandate, Outcome, Receipt, SinkError};
use crate::kafka::config::Settings;
use crate::kafka::delivery::common::Common;
use crate::kafka::delivery::fence::Fence;
use crate::kafka::delivery::plan::Plan;
use crate::kafka::delivery::strategy::Strategy;
use crate::kafka::delivery::writer::Writer;
use crate::kafka::errors::{not_open, unavailable};
use crate::kafka::producer::ledger::Failure;
use crate::kafka::producer::ledger::submission::Submission;
use crate::kafka::producer::sending::{RecordOutcome, Sending};
use crate::kafka::producer::setup::{ProducerLimits, Role};
use crate::kafka::producer::transaction::{Transaction, is_delivered};
use crate::kafka::progress::log::ProgressLog;
use crate::kafka::progress::seeker::Seeker;
use crate::outbox::{Delivery, Position, Progress, Record, Term};

mod groups;

/// Delivers in transactions.
#[derive(Default)]
pub(crate) struct Transactional {
    fence: Fence,
    /// The term for which the sink is open.
    term: Option<Term>,
    /// What the broker remembers of the progress, in an exactly-once sink that is open.
    progress_log: Option<ProgressLog>,
    /// Whether a refused record has left a gap in the producer's numbers.
    has_gap: bool,
}

#[async_trait]
impl Strategy for Transactional {
    async fn open(
        &mut self,
        common: &mut Common,
        term: Term,
        mandate: Option<Arc<dyn Mandate>>,
    ) -> Result<Option<Progress>, SinkError> {
        self.fence.act_for(mandate);
        self.recover(common);
        self.remember_committed(common);
        if !common.is_at_rest() || self.term != Some(term) {
            self.end(common);
            self.build(common, common.producer_limits())?;
        }
        self.term = Some(term);
        common.explain_what_is_stuck().await?;
        self.close_gap(common).await?;
        let connecting = self.seeker(common)?;
        let (let_in, seeker) = tokio::join!(self.fence.initialise(common), connecting);
        let_in?;
        match (&mut self.progress_log, seeker?) {
            (Some(progress_log), _) => progress_log.begin_anew(term),
            (progress_log @ None, Some(seeker)) => *progress_log = Some(ProgressLog::recall(seeker, term).await?),
            (None, None) => {}
        }
        Ok(self.progress_log.as_ref().and_then(ProgressLog::found).cloned())
    }

    async fn slot(&self, common: &Common) -> Result<(), SinkError> {
        common.healthy()?.ledger.transaction_slot().await;
        Ok(())
    }

    async fn begin(&mut self, common: &mut Common) -> Result<(), SinkError> {
        if !self.fence.is_initialised() {
            return Err(not_open());
        }
        self.slot(common).await?;
        if common.healthy()?.ledger.has_strays() || self.has_gap {
            self.last_transaction(common).await?;
            return self.close_gap(common).await;
        }
        self.remember_committed(common);
        Ok(())
    }

    async fn submit(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let Plan { together, alone, kept, .. } = plan;
        self.stick_if_outstanding(&kept);
        let mut outcomes = vec![Outcome::Unknown; records.len()];
        // What was published ahead is named row by row until the position moves past it.
        let is_ahead = self.progress_log.is_some() && after.is_some() && !kept.is_empty();
        kept.into_iter().for_each(|kept| outcomes[kept.index] = kept.outcome);
        let receipt: Receipt = match together.is_empty() && !is_ahead {
            true => Box::pin(std::future::ready(Vec::new())),
            false => self.begin_transaction(common, records, &together, after.filter(|_| alone.is_empty())).await?,
        };
        if !alone.is_empty() {
            self.last_transaction(common).await?;
            let judged = self.judge_groups(common, records, alone, None).await?;
            self.stick_if_outstanding(&judged);
            judged.into_iter().for_each(|judged| outcomes[judged.index] = judged.outcome);
        }
        Ok(Box::pin(async move {
            let told = receipt.await;
            together.iter().zip(told).for_each(|(sending, outcome)| outcomes[sending.index] = outcome);
            outcomes
        }))
    }

    async fn judge(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        until: Instant,
    ) -> Result<Vec<RecordOutcome>, SinkError> {
        self.last_transaction(common).await?;
        self.begin(common).await?;
        if !common.healthy()?.limits.serves(&plan.limits) {
            let limits = common.next_limits().await?;
            self.replace(common, limits).await?;
        }
        self.judge_groups(common, records, plan.alone, Some(until)).await
    }

    /// What is remembered stays true: its last transaction is over.
    async fn replace(&mut self, common: &mut Common, limits: ProducerLimits) -> Result<(), SinkError> {
        self.remember_committed(common);
        let progress_log = self.progress_log.take();
        self.end(common);
        self.build(common, limits)?;
        self.fence.initialise(common).await?;
        self.progress_log = progress_log;
        Ok(())
    }

    fn progress_stored(&mut self) {
        if let Some(progress_log) = &mut self.progress_log {
            progress_log.forget_rows();
        }
    }

    fn end(&mut self, common: &mut Common) {
        common.end_producer();
        self.fence.begin_anew();
        // Whether the last transaction was committed is to be read.
        self.progress_log = None;
    }
}

impl Transactional {
    /// Builds a producer. It waits for none before it: the broker sees to it that nothing of theirs arrives later.
    fn build(&mut self, common: &mut Common, limits: ProducerLimits) -> Result<(), SinkError> {
        common.forget_earlier();
        common.install(Role::Transactional, limits)?;
        self.fence.begin_anew();
        self.has_gap = false;
        Ok(())
    }

    /// Connects to what the broker remembers, if that is wanted and not known.
    fn seeker(
        &self,
        common: &Common,
    ) -> Result<impl Future<Output = Result<Option<Seeker>, SinkError>> + use<>, SinkError> {
        let Settings { delivery, progress_topic, source, properties, .. } = common.settings.clone();
        let wanted = delivery == Delivery::ExactlyOnce && self.progress_log.is_none();
        let lookup = wanted.then(|| common.lookup()).transpose()?;
        Ok(async move {
            match lookup {
                Some(lookup) => Seeker::connect(lookup, progress_topic, source, properties).await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// Goes on with a producer whose transaction was undone, with what that one taught.
    fn recover(&mut self, common: &mut Common) -> Option<Failure> {
        let producer = common.producer.as_ref()?;
        let failure = producer.ledger.recover()?;
        let batch = producer.limits.batch_size;
        self.remember_committed(common);
        if let Some(progress_log) = &mut self.progress_log {
            progress_log.undo();
        }
        common.knowledge.topics.cool();
        common.knowledge.learn_from(&failure, batch, &common.settings);
        // After any other failure the client counts anew.
        self.has_gap = !failure.refused.is_empty() || !failure.held.is_empty();
        Some(failure)
    }

    /// Goes on with another producer where the one at hand must not begin another transaction. A refused record has left
    /// a gap in its numbers: the client does not close it when the transaction is undone, and the broker would refuse the
    /// next one. Or a connection broke: the client speaks the protocol of transactions that all have one epoch, so that a
    /// late request of an earlier one would be taken for one of the next.
    async fn close_gap(&mut self, common: &mut Common) -> Result<(), SinkError> {
        if self.has_gap || common.has_strays() {
            self.replace(common, common.producer_limits()).await?;
        }
        Ok(())
    }

    /// Waits for the end of all transactions.
    async fn last_transaction(&mut self, common: &mut Common) -> Result<(), SinkError> {
        common.drained().await?;
        self.remember_committed(common);
        Ok(())
    }

    /// Lets what the broker remembers be what the transactions have made of it that are committed by now.
    fn remember_committed(&mut self, common: &Common) {
        if let (Some(progress_log), Some(producer)) = (&mut self.progress_log, &common.producer) {
            progress_log.commit(producer.ledger.take_committed());
        }
    }

    /// Lets the position stand still if any of these records is not delivered.
    fn stick_if_outstanding(&mut self, told: &[RecordOutcome]) {
        if let Some(progress_log) = &mut self.progress_log
            && told.iter().any(|told| !is_delivered(&told.outcome))
        {
            progress_log.stick();
        }
    }

    /// Begins a transaction of these records and hands them over. The receipt, one outcome for each, resolves when the
    /// transaction has ended.
    async fn begin_transaction(
        &mut self,
        common: &mut Common,
        records: &[Record],
        sendings: &[Sending],
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let Common { producer, knowledge, settings, .. } = common;
        let Some(producer) = producer else { return Err(not_open()) };
        let step = self.progress_log.as_ref().map(|progress_log| {
            let sent = sendings.iter().map(|sending| &records[sending.index]);
            progress_log.after(sent, after)
        });
        let step = step.transpose()?;
        let begun = producer.begin_transaction().await;
        let transactor = begun.map_err(|error| unavailable("beginning a transaction", error))?;
        let payload = self.progress_log.as_mut().zip(step).map(|(progress_log, step)| progress_log.take(step));
        let count = sendings.len();
        let all = count + usize::from(payload.is_some());
        let (submission, receipt) = Submission::begin(&producer.ledger, all);
        let transaction = Transaction::new(&producer.ledger, &transactor, all, settings.transaction_timeout());
        let receipt = transaction.ends_with(receipt, all);
        let mut writer = Writer { producer, submission, stamp: settings.stamp(), records };
        if let (Some(progress_log), Some(payload)) = (&self.progress_log, &payload) {
            let ticket = writer.submission.ticket(count);
            writer.put(progress_log.encode(payload, ticket)).await?;
        }
        writer.write(&mut knowledge.topics, sendings.iter().copied().enumerate()).await?;
        Ok(Box::pin(async move {
            let mut outcomes = receipt.await;
            outcomes.truncate(count);
            outcomes
        }))
    }
}
