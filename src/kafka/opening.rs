//! Getting producers ready, and putting an end to them.

use std::time::Duration;

use futures_util::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::{Instant, timeout};

use crate::contract::SinkError;
use crate::kafka::ask::Found;
use crate::kafka::bar::Bar;
use crate::kafka::config::{Settings, Shape};
use crate::kafka::delivery::Spoil;
use crate::kafka::errors;
use crate::kafka::producer::{Producer, Role};
use crate::kafka::progress::Memory;
use crate::kafka::seeker::Seeker;
use crate::kafka::sink::{Sink, not_open, unavailable};
use crate::observe::metrics;
use crate::outbox::{Delivery, Term};

/// How long a new producer waits for the old one's connections to close.
const OLD_PRODUCER: Duration = Duration::from_secs(5);

/// How long the broker may take to let a producer in before the relay tries again. It waits until earlier
/// transactions of this outbox have ended.
const INITIALISING: Duration = Duration::from_secs(10);

/// How long it may take before the relay looks whether another producer had better ask.
const QUICKLY: Duration = Duration::from_millis(100);

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
        self.mend();
        if let Some(ended) = self.isolation.take_if(|isolation| !isolation.is_at_rest()) {
            self.end(ended);
        }
        self.remember_committed();
        let is_fit = self.producer.as_ref().is_some_and(Producer::is_at_rest);
        let fences = self.settings.delivery.fences();
        if !is_fit || (fences && self.term != Some(term)) {
            self.end_producer();
            self.build(self.shape()).await?;
        }
        self.term = Some(term);
        self.explain_what_is_stuck().await?;
        self.close_gap().await?;
        let connecting = self.seeker()?;
        let (let_in, seeker) = tokio::join!(self.initialise(), connecting);
        let_in?;
        match (&mut self.memory, seeker?) {
            (Some(memory), _) => memory.begin_anew(term),
            (memory @ None, Some(seeker)) => *memory = Some(Memory::recall(seeker, term).await?),
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
        let (answers, looked) = self.asker()?.look_at(stuck).await;
        answers.iter().for_each(|(topic, answer)| self.topics.learn(topic, answer.clone()));
        let to_blame = looked.iter().filter(|looked| !matches!(looked.found, Found::Available { .. }));
        to_blame.for_each(|looked| self.topics.note(looked));
        Ok(())
    }

    /// Connects to what the broker remembers, if that is wanted and not known.
    fn seeker(&self) -> Result<impl Future<Output = Result<Option<Seeker>, SinkError>> + use<>, SinkError> {
        let Settings { delivery, progress_topic, source, properties, .. } = &self.settings;
        let wanted = *delivery == Delivery::ExactlyOnce && self.memory.is_none();
        let (topic, source, properties) = (progress_topic.clone(), source.clone(), properties.clone());
        let asker = wanted.then(|| self.asker()).transpose()?;
        Ok(async move {
            match asker {
                Some(asker) => Seeker::connect(asker, topic, source, properties).await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// Goes on with a producer whose transaction was undone, with what that one taught.
    pub(crate) fn mend(&mut self) -> Option<Spoil> {
        let producer = self.producer.as_ref()?;
        let spoil = producer.ledger.mend()?;
        let batch = producer.shape.batch_size;
        self.remember_committed();
        if let Some(memory) = &mut self.memory {
            memory.undo();
        }
        self.topics.cool();
        self.learn_from(&spoil, batch);
        // After any other failure the client counts anew.
        self.has_gap = !spoil.refused.is_empty() || !spoil.held.is_empty();
        Some(spoil)
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
        let waits = std::iter::repeat_n(QUICKLY, QUICK_TRIES).chain([INITIALISING]);
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
                    return Err(not_let_in(error, &self.settings));
                }
            }
        }
        Err(not_let_in(last.unwrap_or(KafkaError::Canceled), &self.settings))
    }

    /// Replaces the producer that waits to be let in by one that asks at once.
    async fn try_another_client(&mut self) -> Result<(), SinkError> {
        let producer = self.new_producer(Role::Transactional, self.shape())?;
        self.topics.begin_anew();
        let earlier = self.producer.replace(producer);
        // Its clients go on asking until they have ended, and whoever is let in last shuts out the others.
        let ended = join_all(earlier.map(Producer::end).unwrap_or_default());
        let _ = timeout(OLD_PRODUCER, ended).await;
        Ok(())
    }

    async fn build(&mut self, shape: Shape) -> Result<(), SinkError> {
        let ended = std::mem::take(&mut self.ended);
        // What the old producer had sent must not arrive after what the new one sends; where the broker fences, it
        // sees to that.
        if !self.settings.delivery.fences() {
            let _ = timeout(OLD_PRODUCER, join_all(ended)).await;
        }
        let producer = self.new_producer(self.settings.role(), shape)?;
        self.topics.begin_anew();
        self.cooled = Instant::now();
        self.producer = Some(producer);
        (self.is_initialised, self.has_gap) = (false, false);
        if std::mem::replace(&mut self.built_before, true) {
            metrics::count_producer_rebuild();
        }
        Ok(())
    }

    /// Lets everything that was handed over arrive, and goes on with a producer of the shape that is needed now.
    pub(crate) async fn reshape(&mut self) -> Result<(), SinkError> {
        self.sound()?.ledger.drained().await;
        self.sound()?;
        let shape = self.shape();
        tracing::info!(
            batch_size = shape.batch_size,
            message_max_bytes = shape.message_limit,
            "a new producer for the topics' limits"
        );
        self.replace(shape).await
    }

    /// Goes on with another producer where the one at hand must not begin another transaction. A refused record has left
    /// a gap in its numbers: the client does not close it when the transaction is undone, and the broker would refuse the
    /// next one. Or a connection broke: the client speaks the protocol of transactions that all have one epoch, so that a
    /// late request of an earlier one would be taken for one of the next.
    pub(crate) async fn close_gap(&mut self) -> Result<(), SinkError> {
        let has_strays = self.producer.as_ref().is_some_and(|producer| producer.ledger.has_strays());
        if self.has_gap || has_strays {
            self.replace(self.shape()).await?;
        }
        Ok(())
    }

    /// Replaces a producer whose last transaction is over, so that what is remembered stays true.
    async fn replace(&mut self, shape: Shape) -> Result<(), SinkError> {
        self.remember_committed();
        let memory = self.memory.take();
        self.end_producer();
        self.build(shape).await?;
        self.initialise().await?;
        self.memory = memory;
        Ok(())
    }

    /// A producer that connects by itself, when it can.
    pub(crate) fn new_producer(&self, role: Role, shape: Shape) -> Result<Producer, SinkError> {
        let producer = Producer::build(&self.settings.clients(role, shape), role, shape, &self.reach, &self.patience);
        producer.map_err(|error| SinkError::Unusable {
            problem: "the Kafka client cannot be created".to_owned(),
            repair: "correct the kafka properties".to_owned(),
            source: Some(Box::new(error)),
        })
    }

    /// Puts an end to the producers, and remembers what they have learnt the hard way.
    pub(crate) fn end_producer(&mut self) {
        for producer in [self.producer.take(), self.isolation.take()].into_iter().flatten() {
            self.end(producer);
        }
        self.is_initialised = false;
        // Whether the last transaction was committed is to be read.
        self.memory = None;
    }

    /// Puts an end to a producer, and remembers what it has learnt the hard way.
    pub(crate) fn end(&mut self, producer: Producer) {
        if let Some(spoil) = producer.ledger.spoiled() {
            self.learn_from(&spoil, producer.shape.batch_size);
        }
        self.ended.extend(producer.end());
    }

    /// Remembers what a producer, whose batches held so many bytes at most, has learnt of records and topics.
    fn learn_from(&mut self, spoil: &Spoil, batch: usize) {
        // The progress is written where no row may be: its topic holds nothing up.
        let held = spoil.held.iter().filter(|(topic, _)| Bar::of(topic, &self.settings).is_none());
        held.for_each(|(topic, cause)| self.topics.hold(topic, *cause));
        self.suspects.add(&spoil.refused, batch);
        for to in &spoil.stuck {
            let (topic, partition) = (self.topics.name(to.topic), to.partition);
            tracing::warn!(%topic, partition, "the partition takes no records though Kafka answers: its lanes are held until it does, others flow on");
            self.topics.unavailable.stuck(*to);
        }
        self.has_learnt |= spoil.teaches();
        // A limit that was lowered, say.
        spoil.refused.iter().for_each(|refused| self.topics.ask_anew(&refused.topic));
    }
}

/// Why the broker did not let a producer in.
fn not_let_in(error: KafkaError, settings: &Settings) -> SinkError {
    let code = errors::code(&error);
    if code == Some(RDKafkaErrorCode::InvalidTransactionTimeout) {
        let timeout = settings.transaction_timeout();
        return SinkError::Unusable {
            problem: format!("the broker does not allow transactions of {timeout:?}"),
            repair: "set transaction.timeout.ms of [kafka] to no more than the broker's transaction.max.timeout.ms"
                .to_owned(),
            source: Some(Box::new(error)),
        };
    }
    unavailable("asking to be let in as the only producer of this outbox", error)
}
