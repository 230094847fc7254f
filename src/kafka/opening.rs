//! Getting producers ready, and putting an end to them.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::error::KafkaError;
use tokio::time::{Instant, timeout};

use crate::contract::SinkError;
use crate::kafka::bar::Bar;
use crate::kafka::config::{ProducerLimits, Settings};
use crate::kafka::errors::{self, not_let_in, not_open};
use crate::kafka::ledger::Failure;
use crate::kafka::lookup::Found;
use crate::kafka::producer::{Producer, Role};
use crate::kafka::progress::ProgressLog;
use crate::kafka::seeker::Seeker;
use crate::kafka::sink::Sink;
use crate::observe::metrics;
use crate::outbox::{Delivery, Term};

/// How long a new producer waits for the old one's connections to close.
const OLD_PRODUCER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the broker may take to let a producer in before the relay tries again. It waits until earlier
/// transactions of this outbox have ended.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take before the relay looks whether another producer had better ask.
const QUICK_INIT_TIMEOUT: Duration = Duration::from_millis(100);

/// How often it looks.
const QUICK_TRIES: usize = 8;

/// What came of asking to be let in.
enum Admission {
    /// Earlier producers are shut out.
    Granted,
    /// The broker still ends an earlier transaction.
    Later(KafkaError),
    /// It has not answered yet; the client goes on asking.
    Pending(KafkaError),
    /// The broker or the client said no.
    Refused(KafkaError),
}

impl Sink {
    /// Makes ready for a session of this term, with the producer at hand if that can go on.
    pub(crate) async fn make_ready(&mut self, term: Term) -> Result<(), SinkError> {
        self.blocked.clear();
        self.ahead.clear();
        self.judging_until = None;
        self.topics.unavailable.begin_anew();
        self.suspects.expire();
        self.recover();
        if let Some(ended) = self.quarantine.take_if(|quarantine| !quarantine.is_at_rest()) {
            self.end(ended);
        }
        self.remember_committed();
        let is_fit = self.producer.as_ref().is_some_and(Producer::is_at_rest);
        let fences = self.settings.delivery.fences();
        if !is_fit || (fences && self.term != Some(term)) {
            self.end_producer();
            self.build(self.producer_limits()).await?;
        }
        self.term = Some(term);
        self.explain_what_is_stuck().await?;
        self.close_gap().await?;
        let connecting = self.seeker()?;
        let (let_in, seeker) = tokio::join!(self.initialise(), connecting);
        let_in?;
        match (&mut self.progress_log, seeker?) {
            (Some(progress_log), _) => progress_log.begin_anew(term),
            (progress_log @ None, Some(seeker)) => *progress_log = Some(ProgressLog::recall(seeker, term).await?),
            (None, None) => {}
        }
        self.has_learnt = false;
        Ok(())
    }

    /// Looks why partitions are stuck: where their leader is to blame, nothing is sent to the others that it leads.
    async fn explain_what_is_stuck(&mut self) -> Result<(), SinkError> {
        let stuck = self.topics.unavailable.take_unexplained();
        if stuck.is_empty() {
            return Ok(());
        }
        let stuck = stuck.into_iter().map(|to| (self.topics.name(to.topic), to.partition)).collect();
        let (answers, looked) = self.lookup()?.look_at(stuck).await;
        answers.iter().for_each(|(topic, answer)| self.topics.learn(topic, answer.clone()));
        let to_blame = looked.iter().filter(|looked| !matches!(looked.found, Found::Available { .. }));
        to_blame.for_each(|looked| self.topics.note(looked));
        Ok(())
    }

    /// Connects to what the broker remembers, if that is wanted and not known.
    fn seeker(&self) -> Result<impl Future<Output = Result<Option<Seeker>, SinkError>> + use<>, SinkError> {
        let Settings { delivery, progress_topic, source, properties, .. } = &self.settings;
        let wanted = *delivery == Delivery::ExactlyOnce && self.progress_log.is_none();
        let (topic, source, properties) = (progress_topic.clone(), source.clone(), properties.clone());
        let lookup = wanted.then(|| self.lookup()).transpose()?;
        Ok(async move {
            match lookup {
                Some(lookup) => Seeker::connect(lookup, topic, source, properties).await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// Goes on with a producer whose transaction was undone, with what that one taught.
    pub(crate) fn recover(&mut self) -> Option<Failure> {
        let producer = self.producer.as_ref()?;
        let failure = producer.ledger.recover()?;
        let batch = producer.limits.batch_size;
        self.remember_committed();
        if let Some(progress_log) = &mut self.progress_log {
            progress_log.undo();
        }
        self.topics.cool();
        self.learn_from(&failure, batch);
        // After any other failure the client counts anew.
        self.has_gap = !failure.refused.is_empty() || !failure.held.is_empty();
        Some(failure)
    }

    /// Makes the broker refuse what earlier producers of this outbox send, if that is wanted and not done.
    async fn initialise(&mut self) -> Result<(), SinkError> {
        if self.settings.delivery.fences() && !self.is_initialised {
            self.be_let_in().await?;
            // Who was shut out meanwhile may be the leader: a term that still stands after that cannot be followed by
            // one whose leader was let in before.
            self.term_stands().await?;
            self.is_initialised = true;
        }
        Ok(())
    }

    /// Asks whether the term still stands.
    async fn term_stands(&self) -> Result<(), SinkError> {
        match &self.mandate {
            Some(mandate) if !mandate.stands().await => Err(SinkError::TermOver),
            _ => Ok(()),
        }
    }

    /// Asks to be let in once, as long as the term stands: a former leader must not shut its successor out.
    async fn ask_to_be_let_in(&self, patience: Duration) -> Result<Admission, SinkError> {
        self.term_stands().await?;
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        Ok(match producer.initialise(patience).await {
            Ok(()) => Admission::Granted,
            Err(error) if errors::is_concurrent(&error) => Admission::Later(error),
            Err(error) if errors::is_passing(&error) => Admission::Pending(error),
            Err(error) => Admission::Refused(error),
        })
    }

    /// Asks to be let in. While the broker still ends an earlier transaction the client waits for half a second before
    /// it asks again; another client asks sooner.
    async fn be_let_in(&mut self) -> Result<(), SinkError> {
        let waits = std::iter::repeat_n(QUICK_INIT_TIMEOUT, QUICK_TRIES).chain([INIT_TIMEOUT]);
        let mut last = None;
        for patience in waits {
            match self.ask_to_be_let_in(patience).await? {
                Admission::Granted => return Ok(()),
                Admission::Pending(error) => last = Some(error),
                Admission::Later(error) => {
                    self.try_another_client().await?;
                    last = Some(error);
                }
                Admission::Refused(error) => {
                    // Its clients may have failed for good, and would say so even when the refusal is over.
                    self.end_producer();
                    return Err(not_let_in(error, self.settings.transaction_timeout()));
                }
            }
        }
        Err(not_let_in(last.unwrap_or(KafkaError::Canceled), self.settings.transaction_timeout()))
    }

    /// Replaces the producer that waits to be let in by one that asks at once.
    async fn try_another_client(&mut self) -> Result<(), SinkError> {
        let producer = self.new_producer(Role::Transactional, self.producer_limits())?;
        self.topics.begin_anew();
        let earlier = self.producer.replace(producer);
        // Its clients go on asking until they have ended, and the one that is let in last shuts out the others.
        let ended = join_all(earlier.map(Producer::end).unwrap_or_default());
        let _ = timeout(OLD_PRODUCER_TIMEOUT, ended).await;
        Ok(())
    }

    async fn build(&mut self, producer_limits: ProducerLimits) -> Result<(), SinkError> {
        let ended = std::mem::take(&mut self.ended);
        // What the old producer had sent must not arrive after what the new one sends; where the broker fences, it
        // sees to that.
        if !self.settings.delivery.fences() {
            let _ = timeout(OLD_PRODUCER_TIMEOUT, join_all(ended)).await;
        }
        let producer = self.new_producer(self.settings.role(), producer_limits)?;
        self.topics.begin_anew();
        self.cooled = Instant::now();
        self.producer = Some(producer);
        (self.is_initialised, self.has_gap) = (false, false);
        if std::mem::replace(&mut self.built_before, true) {
            metrics::count_producer_rebuild();
        }
        Ok(())
    }

    /// Lets everything that was handed over arrive, and goes on with a producer of the limits that are needed now.
    pub(crate) async fn rebuild_for_limits(&mut self) -> Result<(), SinkError> {
        self.healthy()?.ledger.drained().await;
        self.healthy()?;
        let producer_limits = self.producer_limits();
        tracing::info!(
            batch_size = producer_limits.batch_size,
            message_max_bytes = producer_limits.message_limit,
            "a new producer for the topics' limits"
        );
        self.replace(producer_limits).await
    }

    /// Goes on with another producer where the one at hand must not begin another transaction. A refused record has left
    /// a gap in its numbers: the client does not close it when the transaction is undone, and the broker would refuse the
    /// next one. Or a connection broke: the client speaks the protocol of transactions that all have one epoch, so that a
    /// late request of an earlier one would be taken for one of the next.
    pub(crate) async fn close_gap(&mut self) -> Result<(), SinkError> {
        let has_strays = self.producer.as_ref().is_some_and(|producer| producer.ledger.has_strays());
        if self.has_gap || has_strays {
            self.replace(self.producer_limits()).await?;
        }
        Ok(())
    }

    /// Replaces a producer whose last transaction is over, so that what is remembered stays true.
    async fn replace(&mut self, producer_limits: ProducerLimits) -> Result<(), SinkError> {
        self.remember_committed();
        let progress_log = self.progress_log.take();
        self.end_producer();
        self.build(producer_limits).await?;
        self.initialise().await?;
        self.progress_log = progress_log;
        Ok(())
    }

    /// A producer that connects by itself, when it can.
    pub(crate) fn new_producer(&self, role: Role, producer_limits: ProducerLimits) -> Result<Producer, SinkError> {
        let producer = Producer::build(
            &self.settings.clients(role, producer_limits),
            role,
            producer_limits,
            &self.connectivity,
            &self.patience,
        );
        producer.map_err(|error| {
            errors::refused("the Kafka client cannot be created", "correct the kafka properties", error)
        })
    }

    /// Puts an end to the producers, and remembers what they have learnt the hard way.
    pub(crate) fn end_producer(&mut self) {
        for producer in [self.producer.take(), self.quarantine.take()].into_iter().flatten() {
            self.end(producer);
        }
        self.is_initialised = false;
        // Whether the last transaction was committed is to be read.
        self.progress_log = None;
    }

    /// Puts an end to a producer, and remembers what it has learnt the hard way.
    pub(crate) fn end(&mut self, producer: Producer) {
        if let Some(failure) = producer.ledger.failure() {
            self.learn_from(&failure, producer.limits.batch_size);
        }
        self.ended.extend(producer.end());
    }

    /// Remembers what a producer, whose batches held so many bytes at most, has learnt of records and topics.
    fn learn_from(&mut self, failure: &Failure, batch: usize) {
        // The progress is written where no row may be: its topic holds nothing up.
        let held = failure.held.iter().filter(|(topic, _)| Bar::of(topic, &self.settings).is_none());
        held.for_each(|(topic, cause)| self.topics.hold(topic, *cause));
        self.suspects.add(&failure.refused, batch);
        for to in &failure.stuck {
            let (topic, partition) = (self.topics.name(to.topic), to.partition);
            tracing::warn!(%topic, partition, "the partition takes no records though Kafka answers: its lanes are held until it does, others flow on");
            self.topics.unavailable.stuck(*to);
        }
        self.has_learnt |= failure.teaches();
        // A limit that was lowered, say.
        failure.refused.iter().for_each(|refused| self.topics.ask_anew(&refused.topic));
    }
}
