//! What both ways of delivering need: what is known, the producer at hand, and how another one is built.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::contract::SinkError;
use crate::kafka::config::Settings;
use crate::kafka::contact::Contact;
use crate::kafka::errors::{not_open, refused};
use crate::kafka::knowledge::Knowledge;
use crate::kafka::producer::lifecycle::Producer;
use crate::kafka::producer::setup::{ProducerLimits, Role, clients};
use crate::kafka::producer::stall::Patience;
use crate::kafka::topics::admin::Admin;
use crate::kafka::topics::answer::{Answer, Found};
use crate::kafka::topics::bar::Bar;
use crate::kafka::topics::limits::TopicLimits;
use crate::kafka::topics::lookup::TopicLookup;
use crate::observe::metrics;
use crate::outbox::Record;

/// How long a new producer waits for the old one's connections to close.
const OLD_PRODUCER_TIMEOUT: Duration = Duration::from_secs(5);

/// What both ways of delivering need.
pub(crate) struct Common {
    pub(crate) settings: Settings,
    pub(crate) knowledge: Knowledge,
    /// The producer that takes all records.
    pub(crate) producer: Option<Producer>,
    /// What its clients came to know.
    pub(crate) contact: Contact,
    /// How long a producer may deliver nothing.
    patience: Arc<Patience>,
    admin: Arc<Admin>,
    /// Each closes when a client of an earlier producer has ended.
    ended: Vec<oneshot::Receiver<()>>,
    built_before: bool,
}

impl Common {
    /// Nothing connects yet.
    pub(crate) fn new(settings: Settings) -> Self {
        let contact = Contact::default();
        let admin = Admin::new(settings.looking(), settings.on_missing_topic, Arc::clone(&contact.connectivity));
        Self {
            settings,
            knowledge: Knowledge::default(),
            producer: None,
            contact,
            patience: Arc::default(),
            admin: Arc::new(admin),
            ended: Vec::new(),
            built_before: false,
        }
    }

    /// The limits of a producer that topics and records ask for, as far as they are known.
    pub(crate) fn producer_limits(&self) -> ProducerLimits {
        let Knowledge { topics, largest, .. } = &self.knowledge;
        ProducerLimits::of(&self.settings, topics.smallest_limit(), *largest)
    }

    /// The producer, if it can take records.
    pub(crate) fn healthy(&self) -> Result<&Producer, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        producer.ledger.check("publishing")?;
        Ok(producer)
    }

    /// Whether the producer can go on, and nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.producer.as_ref().is_some_and(Producer::is_at_rest)
    }

    /// Whether requests that the producer has sent may still reach the broker: see
    /// [`Ledger::has_strays`](crate::kafka::producer::ledger::Ledger::has_strays).
    pub(crate) fn has_strays(&self) -> bool {
        self.producer.as_ref().is_some_and(|producer| producer.ledger.has_strays())
    }

    /// Waits until everything that was handed over has arrived.
    pub(crate) async fn drained(&self) -> Result<(), SinkError> {
        self.healthy()?.ledger.drained().await;
        self.healthy().map(drop)
    }

    /// Waits until everything that was handed over has arrived, so that another producer may take over. Returns the limits
    /// that it needs.
    pub(crate) async fn next_limits(&self) -> Result<ProducerLimits, SinkError> {
        self.drained().await?;
        let limits = self.producer_limits();
        tracing::info!(
            batch_size = limits.batch_size,
            message_max_bytes = limits.message_limit,
            "a new producer for the topics' limits"
        );
        Ok(limits)
    }

    /// Waits until it is told of everything what became of it, good producer or not.
    pub(crate) async fn answered(&self) {
        if let Some(producer) = &self.producer {
            producer.ledger.answered().await;
        }
    }

    /// Asks about topics, through the producer's clients.
    pub(crate) fn lookup(&self) -> Result<TopicLookup, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        Ok(TopicLookup::new(producer.clients(), Arc::clone(&self.admin)))
    }

    /// Makes sure that the broker was asked for every record's topic that is not barred, and waits for the answers as long
    /// as it takes.
    pub(crate) async fn learn(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let Knowledge { topics, .. } = &mut self.knowledge;
        let mut wanted: HashSet<Arc<str>> = HashSet::new();
        for record in records {
            if topics.must_ask(&record.topic, record.partition) && !wanted.contains(&record.topic) {
                match Bar::of(&record.topic, &self.settings) {
                    Some(bar) => topics.bar(&record.topic, bar),
                    None => {
                        wanted.insert(Arc::clone(&record.topic));
                    }
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let lookup = self.lookup()?;
        let ledger = Arc::clone(&self.healthy()?.ledger);
        let mut answers = std::pin::pin!(lookup.answers(wanted.into_iter().collect()));
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some((name, answer)) => self.take_in(&name, answer),
                    None => return Ok(()),
                },
                () = ledger.ended() => return self.healthy().map(drop),
            }
        }
    }

    fn take_in(&mut self, name: &Arc<str>, answer: Answer) {
        if let Answer::Known { limits: TopicLimits { message_bytes: Some(limit), .. }, .. } = answer
            && !self.settings.compresses()
        {
            self.knowledge.suspects.explain(name, limit);
        }
        self.knowledge.topics.learn(name, answer);
    }

    /// Asks again for topics that were not asked for in a while, beside publishing.
    pub(crate) fn ask_for_what_is_due(&mut self) -> Result<(), SinkError> {
        let due = self.knowledge.topics.due();
        if due.is_empty() {
            return Ok(());
        }
        let lookup = self.lookup()?;
        let inbox = self.knowledge.topics.inbox();
        tokio::spawn(async move {
            for (topic, answer) in lookup.refresh(due).await {
                inbox.refreshed(&topic, answer);
            }
        });
        Ok(())
    }

    /// Looks why partitions are stuck: where their leader is to blame, nothing is sent to the others that it leads.
    pub(crate) async fn explain_what_is_stuck(&mut self) -> Result<(), SinkError> {
        let topics = &mut self.knowledge.topics;
        let stuck = topics.unavailable.take_unexplained();
        if stuck.is_empty() {
            return Ok(());
        }
        let stuck = stuck.into_iter().map(|to| topics.named(to)).collect();
        let seen = self.lookup()?.look_at(stuck).await;
        let topics = &mut self.knowledge.topics;
        seen.answers.iter().for_each(|(topic, answer)| topics.learn(topic, answer.clone()));
        let to_blame = seen.looked.iter().filter(|looked| !matches!(looked.found, Found::Available { .. }));
        to_blame.for_each(|looked| topics.note(looked));
        Ok(())
    }

    /// A producer that connects by itself, when it can.
    pub(crate) fn new_producer(&self, role: Role, limits: ProducerLimits) -> Result<Producer, SinkError> {
        let configs = clients(&self.settings, role, limits);
        Producer::build(&configs, role, limits, &self.contact.connectivity, &self.patience)
            .map_err(|error| refused("the Kafka client cannot be created", "correct the kafka properties", error))
    }

    /// Builds the producer that takes all records from here on.
    pub(crate) fn install(&mut self, role: Role, limits: ProducerLimits) -> Result<(), SinkError> {
        let producer = self.new_producer(role, limits)?;
        self.knowledge.begin_producer();
        self.producer = Some(producer);
        if std::mem::replace(&mut self.built_before, true) {
            self.contact.rebuilt();
            metrics::count_producer_rebuild();
        }
        Ok(())
    }

    /// Replaces the producer by another one, and waits for the end of its clients.
    pub(crate) async fn replace_at_once(&mut self, role: Role, limits: ProducerLimits) -> Result<(), SinkError> {
        let producer = self.new_producer(role, limits)?;
        self.knowledge.begin_producer();
        let earlier = self.producer.replace(producer);
        until_ended(earlier.map(Producer::end).unwrap_or_default()).await;
        Ok(())
    }

    /// Waits for the end of earlier producers.
    pub(crate) async fn earlier_ended(&mut self) {
        until_ended(std::mem::take(&mut self.ended)).await;
    }

    /// Waits for no end of earlier producers.
    pub(crate) fn forget_earlier(&mut self) {
        self.ended.clear();
    }

    /// Puts an end to the producer that takes all records.
    pub(crate) fn end_producer(&mut self) {
        if let Some(producer) = self.producer.take() {
            self.end(producer);
        }
    }

    /// Puts an end to a producer, and remembers what it has learnt the hard way.
    pub(crate) fn end(&mut self, producer: Producer) {
        if let Some(failure) = producer.ledger.failure() {
            self.knowledge.learn_from(&failure, producer.limits.batch_size, &self.settings);
        }
        self.ended.extend(producer.end());
    }
}

/// Waits until clients have ended, but not for long.
async fn until_ended(clients: Vec<oneshot::Receiver<()>>) {
    let _ = timeout(OLD_PRODUCER_TIMEOUT, join_all(clients)).await;
}
