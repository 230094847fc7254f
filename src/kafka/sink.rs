//! The sink: one producer at a time, and what is known of its topics.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use rdkafka::error::KafkaError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::contract::{BoxFuture, Receipt, Refusal, Sink as Contract, SinkError};
use crate::kafka::ask::{Admin, Answer, Asker};
use crate::kafka::client_log::Reach;
use crate::kafka::config::{Settings, Shape};
use crate::kafka::plan::Plan;
use crate::kafka::producer::Producer;
use crate::kafka::properties::check_properties;
use crate::kafka::topics::Topics;
use crate::observe::metrics;
use crate::outbox::{Lane, Record, Term, is_topic_name};

/// How long a new producer waits for the old one's connections to close.
const OLD_PRODUCER: Duration = Duration::from_secs(5);

/// Topics that are asked for at once.
const QUESTIONS: usize = 16;

/// After records were refused that shared batches with others, so many are sent one by one: more than any relay has
/// in flight, so that the ones at fault are among them.
const ALONE: u64 = 50_000;

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
    /// Whether records are sent one by one, to find the one at fault.
    pub(crate) alone: bool,
    admin: Arc<Admin>,
    reach: Arc<Reach>,
    /// Resolves when the last producer has ended.
    ended: Option<oneshot::Receiver<()>>,
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
            alone: false,
            admin,
            reach,
            ended: None,
            built_before: false,
            cooled: Instant::now(),
        })
    }

    async fn make_ready(&mut self) -> Result<(), SinkError> {
        self.blocked.clear();
        if self.producer.as_ref().is_some_and(|producer| producer.ledger.is_sound() && producer.ledger.is_idle()) {
            return Ok(());
        }
        self.end_producer();
        self.build(self.shape()).await
    }

    /// The shape of producer that topics and records ask for, as far as they are known.
    pub(crate) fn shape(&self) -> Shape {
        self.settings.shape(self.topics.smallest_limit(), self.largest, self.alone)
    }

    async fn build(&mut self, shape: Shape) -> Result<(), SinkError> {
        if let Some(ended) = self.ended.take() {
            // What the old producer had sent must not arrive after what the new one sends.
            let _ = timeout(OLD_PRODUCER, ended).await;
        }
        let producer = Producer::build(&self.settings.producer(shape), shape, &self.reach);
        let producer = producer.map_err(|error| SinkError::Unusable {
            problem: "the Kafka client cannot be created".to_owned(),
            repair: "correct the kafka properties".to_owned(),
            source: Some(Box::new(error)),
        })?;
        self.topics.begin_anew();
        self.cooled = Instant::now();
        self.producer = Some(producer);
        if std::mem::replace(&mut self.built_before, true) {
            metrics::count_producer_rebuild();
        }
        Ok(())
    }

    /// Puts an end to the producer, and remembers what it has learnt the hard way.
    fn end_producer(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        if let Some(spoil) = producer.ledger.spoiled() {
            self.alone |= spoil.suspects;
            spoil.held.iter().for_each(|(topic, cause)| self.topics.hold(topic, *cause));
        }
        self.ended = Some(producer.end());
    }

    /// Finds records that can never be published as they are. A topic's limits may have been changed since they were
    /// read, so nobody is refused on old news.
    async fn look_over(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.topics.hear();
        self.learn(records).await?;
        let refusals = self.refusals(records);
        let mut is_old = false;
        for refusal in &refusals {
            is_old |= self.topics.doubt(&records[refusal.index].topic);
        }
        if !is_old {
            return Ok(refusals);
        }
        self.learn(records).await?;
        Ok(self.refusals(records))
    }

    async fn take_over_or_explain(&mut self, records: &[Record]) -> Result<Receipt, SinkError> {
        let taken = self.take_over(records).await;
        self.explained(taken).await
    }

    async fn prepare_or_explain(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let prepared = self.make_room(records).await;
        self.explained(prepared).await
    }

    /// The reports that are still to come tell who is at fault, and `abort` may follow an error at once. They come
    /// soon: the producer takes care that they do.
    async fn explained<T>(&self, result: Result<T, SinkError>) -> Result<T, SinkError> {
        if result.is_err()
            && let Some(producer) = &self.producer
        {
            producer.ledger.answered().await;
        }
        result
    }

    /// Waits until the topics are known and the broker has caught up, so that an outage leaves little in the client.
    async fn make_room(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.topics.hear();
        self.sound()?;
        self.learn(records).await?;
        self.sound()?.ledger.caught_up(self.settings.oldest).await;
        self.sound().map(drop)
    }

    async fn take_over(&mut self, records: &[Record]) -> Result<Receipt, SinkError> {
        self.topics.hear();
        self.sound()?;
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
            if self.sound()?.shape.serves(&shape) && !self.has_been_careful_enough() {
                self.blocked.extend(plan.blocked.drain(..));
                return self.hand_over(records, plan).await;
            }
            self.reshape().await?;
        }
    }

    /// Lets everything that was handed over arrive, and goes on with a producer of the shape that is needed now.
    async fn reshape(&mut self) -> Result<(), SinkError> {
        self.sound()?.ledger.drained().await;
        self.sound()?;
        self.alone &= !self.has_been_careful_enough();
        let shape = self.shape();
        tracing::info!(
            batch_size = shape.batch_size,
            message_max_bytes = shape.message_limit,
            alone = shape.alone,
            "a new producer for the topics' limits"
        );
        self.end_producer();
        self.build(shape).await
    }

    fn has_been_careful_enough(&self) -> bool {
        self.alone && self.producer.as_ref().is_some_and(|producer| producer.enqueued() >= ALONE)
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
                    Some((name, answer)) => self.topics.learn(&name, answer),
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
    fn open(&mut self, _term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(self.make_ready())
    }

    fn prepare<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.prepare_or_explain(records))
    }

    fn examine<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Vec<Refusal>, SinkError>> {
        Box::pin(self.look_over(records))
    }

    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.take_over_or_explain(records))
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

fn not_open() -> SinkError {
    unavailable("publishing", "the sink is not open")
}

/// Why the client did not take a record over.
pub(crate) fn not_taken(error: KafkaError) -> SinkError {
    unavailable("handing a record to the client", error)
}
