//! The sink: one producer at a time, and what is known of its topics.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::contract::{BoxFuture, Receipt, Sink as Contract, SinkError};
use crate::kafka::ask::{Admin, Answer, Asker, Terms};
use crate::kafka::client_log::Reach;
use crate::kafka::config::{Settings, Shape};
use crate::kafka::delivery::Spoil;
use crate::kafka::errors;
use crate::kafka::plan::{Plan, Writer};
use crate::kafka::producer::{Producer, Role};
use crate::kafka::progress::Memory;
use crate::kafka::properties::check_properties;
use crate::kafka::suspects::Suspects;
use crate::kafka::topics::Topics;
use crate::observe::metrics;
use crate::outbox::{Delivery, Lane, Position, Progress, Record, Term, is_topic_name};

/// How long a new producer waits for the old one's connections to close.
const OLD_PRODUCER: Duration = Duration::from_secs(5);

/// Topics that are asked for at once.
const QUESTIONS: usize = 16;

/// How long the broker may take to let a producer in before the relay tries again. It waits until earlier
/// transactions of this outbox have ended.
const INITIALISING: Duration = Duration::from_secs(10);

/// How often every partition counts as cold again. Brokers forget a producer that was silent there for long (a day by
/// default), and with it the sequence that its records must follow.
const COOLING: Duration = Duration::from_secs(3600);

/// Publishes to Kafka. See the [module](crate::kafka) for how it keeps the promises.
pub struct Sink {
    pub(crate) settings: Settings,
    pub(crate) topics: Topics,
    pub(crate) producer: Option<Producer>,
    /// Lanes of which a record was rejected: nothing of them follows until the sink is opened anew.
    pub(crate) blocked: HashSet<Lane>,
    /// Bytes of the largest record seen, roughly.
    pub(crate) largest: usize,
    /// Records that are sent alone, because they may be what was refused.
    pub(crate) suspects: Suspects,
    /// The producer that sends them, where deliveries are not transactions.
    pub(crate) isolation: Option<Producer>,
    /// What the broker remembers of the progress, in an exactly-once sink that is open.
    pub(crate) memory: Option<Memory>,
    pub(crate) reach: Arc<Reach>,
    admin: Arc<Admin>,
    /// The term for which the sink is open.
    term: Option<Term>,
    /// Whether the broker has let the producer in and shut out those before it.
    is_initialised: bool,
    /// Each resolves when an earlier producer has ended.
    ended: Vec<oneshot::Receiver<()>>,
    built_before: bool,
    cooled: Instant,
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
            let (problem, repair) = (said.join("; "), "correct the configuration".to_owned());
            return Err(SinkError::Unusable { problem, repair, source: None });
        }
        let reach = Arc::new(Reach::default());
        let admin = Arc::new(Admin::new(settings.looking(), settings.on_missing_topic, Arc::clone(&reach)));
        Ok(Self {
            settings,
            topics: Topics::default(),
            producer: None,
            blocked: HashSet::new(),
            largest: 0,
            suspects: Suspects::default(),
            isolation: None,
            memory: None,
            reach,
            admin,
            term: None,
            is_initialised: false,
            ended: Vec::new(),
            built_before: false,
            cooled: Instant::now(),
        })
    }

    async fn make_ready(&mut self, term: Term) -> Result<(), SinkError> {
        self.blocked.clear();
        self.suspects.expire();
        self.mend();
        self.isolation.take_if(|isolation| !isolation.is_at_rest()).map(|ended| self.end(ended));
        let is_fit = self.producer.as_ref().is_some_and(Producer::is_at_rest);
        let fences = self.settings.delivery.fences();
        if !is_fit || (fences && self.term != Some(term)) {
            self.end_producer();
            self.build(self.shape()).await?;
        }
        self.term = Some(term);
        self.initialise().await?;
        self.recall(term).await
    }

    /// Goes on with a producer whose transaction was undone, with what that one taught.
    pub(crate) fn mend(&mut self) -> Option<Spoil> {
        let producer = self.producer.as_ref()?;
        let spoil = producer.ledger.mend()?;
        let batch = producer.shape.batch_size;
        if let Some(memory) = &mut self.memory {
            memory.undo();
        }
        self.topics.cool();
        self.learn_from(&spoil, batch);
        Some(spoil)
    }

    /// Makes the broker refuse what earlier producers of this outbox send, if that is wanted and not done.
    async fn initialise(&mut self) -> Result<(), SinkError> {
        let transactor = self.producer.as_ref().and_then(|producer| producer.transactor.clone());
        if let Some(transactor) = transactor
            && !self.is_initialised
        {
            transactor.initialise(INITIALISING).await.map_err(|error| not_let_in(error, &self.settings))?;
            self.is_initialised = true;
        }
        Ok(())
    }

    /// Reads what the broker remembers, if that is wanted and not known.
    async fn recall(&mut self, term: Term) -> Result<(), SinkError> {
        if self.settings.delivery != Delivery::ExactlyOnce {
            return Ok(());
        }
        if let Some(memory) = &mut self.memory {
            memory.begin_anew(term);
            return Ok(());
        }
        let Settings { progress_topic, source, properties, .. } = &self.settings;
        self.memory = Some(Memory::recall(&self.asker()?, progress_topic, source, properties, term).await?);
        Ok(())
    }

    /// The shape of producer that topics and records ask for, as far as they are known.
    pub(crate) fn shape(&self) -> Shape {
        self.settings.shape(self.topics.smallest_limit(), self.largest)
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
        self.is_initialised = false;
        if std::mem::replace(&mut self.built_before, true) {
            metrics::count_producer_rebuild();
        }
        Ok(())
    }

    pub(crate) fn new_producer(&self, role: Role, shape: Shape) -> Result<Producer, SinkError> {
        let producer = Producer::build(&self.settings.producer(role, shape), role, shape, &self.reach);
        producer.map_err(|error| SinkError::Unusable {
            problem: "the Kafka client cannot be created".to_owned(),
            repair: "correct the kafka properties".to_owned(),
            source: Some(Box::new(error)),
        })
    }

    /// Puts an end to the producers, and remembers what they have learnt the hard way.
    fn end_producer(&mut self) {
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
        self.ended.push(producer.end());
    }

    /// Remembers what a producer, whose batches held so many bytes at most, has learnt of records and topics.
    fn learn_from(&mut self, spoil: &Spoil, batch: usize) {
        spoil.held.iter().for_each(|(topic, cause)| self.topics.hold(topic, *cause));
        self.suspects.add(&spoil.refused, batch);
        // A limit that was lowered, say.
        spoil.refused.iter().for_each(|refusal| self.topics.doubt(&refusal.topic));
    }

    async fn take_over_or_explain(
        &mut self,
        records: &[Record],
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError> {
        let taken = self.take_over(records, after).await;
        if taken.is_err()
            && let Some(producer) = &self.producer
        {
            // The reports that are still to come tell who is at fault, and `abort` may follow at once. They come soon:
            // the producer takes care that they do.
            producer.ledger.answered().await;
        }
        taken
    }

    async fn take_over(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        self.topics.hear();
        self.sound()?;
        if self.settings.delivery.fences() {
            self.last_transaction().await?;
        }
        self.ask_for_what_is_due()?;
        self.topics.rotate();
        if self.cooled.elapsed() > COOLING {
            self.topics.cool();
            self.cooled = Instant::now();
        }
        loop {
            self.learn(records).await?;
            let mut plan = Plan::default();
            let shape = plan.make(self, records);
            if self.sound()?.shape.serves(&shape) {
                self.blocked.extend(plan.blocked.drain(..));
                return match self.settings.role() {
                    Role::Transactional => self.transact(records, plan, after).await,
                    Role::Main | Role::Isolation => self.hand_over(records, plan).await,
                };
            }
            self.reshape().await?;
        }
    }

    /// Waits for the end of the last transaction: there is one at a time.
    pub(crate) async fn last_transaction(&mut self) -> Result<(), SinkError> {
        if !self.is_initialised {
            return Err(not_open());
        }
        self.sound()?.ledger.drained().await;
        self.sound()?;
        if let Some(memory) = &mut self.memory {
            memory.commit();
        }
        Ok(())
    }

    /// Hands the records over as planned, the suspects after the others.
    async fn hand_over(&mut self, records: &[Record], plan: Plan) -> Result<Receipt, SinkError> {
        let Self { producer, topics, settings, .. } = self;
        let Some(producer) = producer else { return Err(not_open()) };
        let (submission, receipt) = producer.ledger.begin(records.len());
        let mut writer = Writer { producer, submission, source: &settings.source, records };
        plan.kept.into_iter().for_each(|(index, outcome)| writer.submission.set(index, outcome));
        writer.write(topics, plan.together.into_iter().map(|sending| (sending.index, sending))).await?;
        if !plan.alone.is_empty() {
            let submission = writer.submission;
            let judged = self.isolate(records, plan.alone).await?;
            judged.into_iter().for_each(|(index, outcome)| submission.set(index, outcome));
        }
        Ok(receipt)
    }

    /// Lets everything that was handed over arrive, and goes on with a producer of the shape that is needed now.
    async fn reshape(&mut self) -> Result<(), SinkError> {
        self.sound()?.ledger.drained().await;
        self.sound()?;
        let shape = self.shape();
        tracing::info!(
            batch_size = shape.batch_size,
            message_max_bytes = shape.message_limit,
            "a new producer for the topics' limits"
        );
        // The last transaction is over, so that what is remembered stays true.
        let memory = self.memory.take();
        self.end_producer();
        self.build(shape).await?;
        self.initialise().await?;
        self.memory = memory;
        Ok(())
    }

    /// Makes sure that the broker was asked for every record's topic, and waits for the answers as long as it takes.
    async fn learn(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let mut wanted: Vec<Arc<str>> = Vec::new();
        for record in records {
            if self.topics.must_ask(&record.topic, record.partition) && !wanted.contains(&record.topic) {
                wanted.push(Arc::clone(&record.topic));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let asker = self.asker()?;
        let ledger = Arc::clone(&self.sound()?.ledger);
        let questions = stream::iter(wanted).map(|name| {
            let asker = asker.clone();
            async move {
                let answer = if is_topic_name(&name) { asker.ask_patiently(&name).await } else { Answer::Impossible };
                (name, answer)
            }
        });
        let mut answers = std::pin::pin!(questions.buffer_unordered(QUESTIONS));
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some((name, answer)) => {
                        self.topics.learn(&name, answer);
                        if let Answer::Known { terms: Terms { limit: Some(limit), .. }, .. } = answer
                            && !self.settings.compresses()
                        {
                            self.suspects.explain(&name, limit);
                        }
                    }
                    None => return Ok(()),
                },
                () = ledger.ended() => return self.sound().map(|_| ()),
            }
        }
    }

    /// Asks again for topics that were not asked for in a while, beside publishing.
    fn ask_for_what_is_due(&mut self) -> Result<(), SinkError> {
        for name in self.topics.due() {
            let (asker, inbox) = (self.asker()?, self.topics.inbox());
            tokio::spawn(async move {
                // Another time will do as well.
                if let Ok(answer) = asker.ask(&name).await {
                    inbox.refreshed(&name, answer);
                }
            });
        }
        Ok(())
    }

    fn asker(&self) -> Result<Asker, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        Ok(Asker { client: producer.client(), admin: Arc::clone(&self.admin) })
    }

    /// The producer, if it can take records.
    pub(crate) fn sound(&self) -> Result<&Producer, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        match producer.ledger.spoiled() {
            Some(spoil) => Err(unavailable("publishing", spoil.reason)),
            None if producer.ledger.is_sound() => Ok(producer),
            None => Err(not_open()),
        }
    }

    /// Asks whether a held topic accepts records by now. On yes the sink lets it go, as it has promised.
    fn ask_whether_accepted(&self, topic: &str) -> BoxFuture<'static, Result<bool, SinkError>> {
        if self.topics.is_too_early(topic) {
            return Box::pin(std::future::ready(Ok(false)));
        }
        let (asker, inbox, topic) = (self.asker(), self.topics.inbox(), topic.to_owned());
        Box::pin(async move {
            match asker?.ask(&topic).await {
                Ok(answer @ Answer::Known { .. }) => {
                    inbox.accepted(&topic, answer);
                    Ok(true)
                }
                Ok(_) => Ok(false),
                Err(error) => Err(unavailable("asking for a topic", error)),
            }
        })
    }
}

impl Contract for Sink {
    fn open(&mut self, term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.make_ready(term))
    }

    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.take_over_or_explain(records, None))
    }

    fn submit_with_progress<'a>(
        &'a mut self,
        records: &'a [Record],
        after: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.take_over_or_explain(records, after))
    }

    fn progress(&mut self) -> Option<Progress> {
        self.memory.as_ref()?.found().cloned()
    }

    fn accepts(&self, topic: &str) -> BoxFuture<'static, Result<bool, SinkError>> {
        self.ask_whether_accepted(topic)
    }

    fn abort(&mut self) {
        self.end_producer();
    }

    fn close(&mut self, deadline: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(producer) = &self.producer {
                let _ = timeout(deadline, producer.ledger.answered()).await;
            }
            self.end_producer();
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end_producer();
    }
}

/// The broker, or its client, cannot go on as it is.
pub(crate) fn unavailable(doing: &'static str, source: impl Into<crate::contract::BoxError>) -> SinkError {
    SinkError::Unavailable { doing, source: source.into() }
}

/// The producer is not what was opened, or nothing was.
pub(crate) fn not_open() -> SinkError {
    unavailable("publishing", "the sink is not open")
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

/// Why the client did not take a record over.
pub(crate) fn not_taken(error: KafkaError) -> SinkError {
    unavailable("handing a record to the client", error)
}
