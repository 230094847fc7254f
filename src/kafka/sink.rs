//! The sink: one producer at a time, and what is known of its topics.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::contract::{BoxFuture, Mandate, Outcome, Receipt, Refusal, Sink as Contract, SinkError};
use crate::kafka::admin::{Admin, TopicLimits};
use crate::kafka::bar::Bar;
use crate::kafka::client_log::Connectivity;
use crate::kafka::config::{ProducerLimits, Settings};
use crate::kafka::errors::{not_open, unusable};
use crate::kafka::lookup::{Answer, Found, TopicLookup};
use crate::kafka::plan::{Plan, Writer};
use crate::kafka::producer::{Producer, Role};
use crate::kafka::progress::ProgressLog;
use crate::kafka::properties::check_properties;
use crate::kafka::stall::Patience;
use crate::kafka::suspects::Suspects;
use crate::kafka::topics::{Topics, Whereto};
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// How often every partition counts as cold again. Brokers forget a producer that was silent there for long (a day by
/// default), and with it the sequence that its records must follow.
const COOLING_INTERVAL: Duration = Duration::from_secs(3600);

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
    /// Records, by their ids, that were published ahead of the submission that is to come with them.
    pub(crate) ahead: HashMap<i64, Outcome>,
    /// Until when suspects of the submission at hand may be judged, once that has begun.
    pub(crate) judging_until: Option<Instant>,
    /// Whether the last producer's end taught something.
    pub(crate) has_learnt: bool,
    /// The producer that sends them, where deliveries are not transactions.
    pub(crate) quarantine: Option<Producer>,
    /// What the broker remembers of the progress, in an exactly-once sink that is open.
    pub(crate) progress_log: Option<ProgressLog>,
    pub(crate) connectivity: Arc<Connectivity>,
    /// How long a producer may deliver nothing.
    pub(crate) patience: Arc<Patience>,
    admin: Arc<Admin>,
    /// Whom to ask whether the term still stands, before and after others are shut out.
    pub(crate) mandate: Option<Arc<dyn Mandate>>,
    /// The term for which the sink is open.
    pub(crate) term: Option<Term>,
    /// Whether the broker has let the producer in and shut out those before it.
    pub(crate) is_initialised: bool,
    /// Whether a refused record has left a gap in the producer's numbers.
    pub(crate) has_gap: bool,
    /// Each closes when a client of an earlier producer has ended.
    pub(crate) ended: Vec<oneshot::Receiver<()>>,
    pub(crate) built_before: bool,
    pub(crate) cooled: Instant,
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
        let connectivity = Arc::new(Connectivity::default());
        let admin = Arc::new(Admin::new(settings.looking(), settings.on_missing_topic, Arc::clone(&connectivity)));
        Ok(Self {
            settings,
            topics: Topics::default(),
            producer: None,
            blocked: HashSet::new(),
            largest: 0,
            suspects: Suspects::default(),
            ahead: HashMap::new(),
            judging_until: None,
            has_learnt: false,
            quarantine: None,
            progress_log: None,
            connectivity,
            patience: Arc::default(),
            admin,
            mandate: None,
            term: None,
            is_initialised: false,
            has_gap: false,
            ended: Vec::new(),
            built_before: false,
            cooled: Instant::now(),
        })
    }

    /// The limits of a producer that topics and records ask for, as far as they are known.
    pub(crate) fn producer_limits(&self) -> ProducerLimits {
        self.settings.producer_limits(self.topics.smallest_limit(), self.largest)
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
        self.judging_until = None;
        self.topics.hear();
        self.healthy()?;
        self.learn(records).await?;
        let ledger = &self.healthy()?.ledger;
        ledger.caught_up(self.settings.oldest).await;
        if self.settings.delivery.fences() {
            ledger.transaction_slot().await;
        }
        self.healthy().map(drop)
    }

    async fn accept(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        self.topics.hear();
        self.healthy()?;
        if self.settings.delivery.fences() {
            self.another_transaction().await?;
        }
        self.ask_for_what_is_due()?;
        self.topics.rotate();
        if self.cooled.elapsed() > COOLING_INTERVAL {
            self.topics.cool();
            self.cooled = Instant::now();
        }
        loop {
            self.learn(records).await?;
            let mut plan = Plan::default();
            let producer_limits = plan.make(self, records);
            if self.healthy()?.limits.serves(&producer_limits) {
                self.blocked.extend(plan.blocked.drain(..));
                self.ahead.clear();
                let taken = match self.settings.role() {
                    Role::Transactional => self.transact(records, plan, after).await,
                    Role::Main | Role::Quarantine => self.hand_over(records, plan).await,
                };
                self.judging_until = None;
                return taken;
            }
            self.rebuild_for_limits().await?;
        }
    }

    /// Waits until another transaction may begin.
    pub(crate) async fn another_transaction(&mut self) -> Result<(), SinkError> {
        if !self.is_initialised {
            return Err(not_open());
        }
        self.healthy()?.ledger.transaction_slot().await;
        if self.healthy()?.ledger.has_strays() || self.has_gap {
            self.last_transaction().await?;
            return self.close_gap().await;
        }
        self.remember_committed();
        Ok(())
    }

    /// Waits for the end of all transactions.
    pub(crate) async fn last_transaction(&mut self) -> Result<(), SinkError> {
        self.healthy()?.ledger.drained().await;
        self.healthy()?;
        self.remember_committed();
        Ok(())
    }

    /// Lets what the broker remembers be what the transactions have made of it that are committed by now.
    pub(crate) fn remember_committed(&mut self) {
        if let (Some(progress_log), Some(producer)) = (&mut self.progress_log, &self.producer) {
            progress_log.commit(producer.ledger.take_committed());
        }
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
            let judged = self.send_quarantined(records, plan.alone, None).await?;
            judged.into_iter().for_each(|(index, outcome)| submission.set(index, outcome));
        }
        Ok(receipt)
    }

    /// Makes sure that the broker was asked for every record's topic that is not barred, and waits for the answers as long as it takes.
    async fn learn(&mut self, records: &[Record]) -> Result<(), SinkError> {
        let mut wanted: HashSet<Arc<str>> = HashSet::new();
        for record in records {
            if self.topics.must_ask(&record.topic, record.partition) && !wanted.contains(&record.topic) {
                match Bar::of(&record.topic, &self.settings) {
                    Some(bar) => self.topics.bar(&record.topic, bar),
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
                    Some((name, answer)) => {
                        if let Answer::Known { limits: TopicLimits { message_bytes: Some(limit), .. }, .. } = answer
                            && !self.settings.compresses()
                        {
                            self.suspects.explain(&name, limit);
                        }
                        self.topics.learn(&name, answer);
                    }
                    None => return Ok(()),
                },
                () = ledger.ended() => return self.healthy().map(|_| ()),
            }
        }
    }

    /// Asks again for topics that were not asked for in a while, beside publishing.
    fn ask_for_what_is_due(&mut self) -> Result<(), SinkError> {
        let due = self.topics.due();
        if due.is_empty() {
            return Ok(());
        }
        let (lookup, inbox) = (self.lookup()?, self.topics.inbox());
        tokio::spawn(async move {
            for (topic, answer) in lookup.refresh(due).await {
                inbox.refreshed(&topic, answer);
            }
        });
        Ok(())
    }

    pub(crate) fn lookup(&self) -> Result<TopicLookup, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        Ok(TopicLookup::new(producer.clients(), Arc::clone(&self.admin)))
    }

    /// The producer, if it can take records.
    pub(crate) fn healthy(&self) -> Result<&Producer, SinkError> {
        let producer = self.producer.as_ref().ok_or_else(not_open)?;
        producer.ledger.check("publishing")?;
        Ok(producer)
    }

    /// Asks which of these held lanes flow by now, and lets them go, as it has promised. The records of a topic that is
    /// barred go on to be rejected.
    fn ask_which_are_accepted(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        let (mut accepted, mut topics, mut lanes_of) = (Vec::new(), Vec::new(), HashMap::<_, Vec<Lane>>::new());
        for lane in lanes {
            if Bar::of(lane.topic(), &self.settings).is_some() {
                accepted.push(lane);
                continue;
            }
            match (self.topics.destinations_of(&lane), lane) {
                (Whereto::Held | Whereto::Unknown, Lane::Topic { topic }) => topics.push(topic),
                // The sink knows no better, or the lane waits for its topic.
                (Whereto::Held | Whereto::Unknown, lane) => accepted.push(lane),
                (Whereto::Partitions(any), lane) if any.iter().any(|to| self.topics.looks_available(*to)) => {
                    accepted.push(lane)
                }
                (Whereto::Partitions(any), lane) => {
                    let may_be_tried = any.into_iter().find(|to| !self.topics.unavailable.rests(*to));
                    may_be_tried.into_iter().for_each(|to| lanes_of.entry(to).or_default().push(lane.clone()));
                }
            }
        }
        topics.retain(|topic| !self.topics.is_too_early(topic));
        let lanes_of = lanes_of.into_iter().map(|(to, lanes)| ((self.topics.name(to.topic), to.partition), lanes));
        let mut lanes_of: HashMap<(Arc<str>, i32), Vec<Lane>> = lanes_of.collect();
        let (lookup, inbox) = (self.lookup(), self.topics.inbox());
        Box::pin(async move {
            let lookup = lookup?;
            let (told, (refreshed, looked)) =
                tokio::join!(lookup.ask_about_held(topics), lookup.look_at(lanes_of.keys().cloned().collect()));
            let known = told.into_iter().filter(|(_, answer)| matches!(answer, Answer::Known { .. }));
            accepted.extend(known.map(|(topic, _)| Lane::Topic { topic }));
            refreshed.into_iter().for_each(|(topic, answer)| inbox.refreshed(&topic, answer));
            for looked in looked {
                if let Found::Available { .. } = looked.found {
                    accepted
                        .extend(lanes_of.remove(&(Arc::clone(&looked.topic), looked.partition)).unwrap_or_default());
                }
                inbox.looked(looked);
            }
            inbox.accepted(&accepted);
            Ok(accepted)
        })
    }
}

#[async_trait]
impl Contract for Sink {
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        self.mandate = mandate;
        self.make_ready(term).await?;
        Ok(self.progress_log.as_ref().and_then(ProgressLog::found).cloned())
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
        self.settings.delivery.fences().then_some(self.settings.source.as_str())
    }

    fn progress_stored(&mut self) {
        if let Some(progress_log) = &mut self.progress_log {
            progress_log.forget_rows();
        }
    }

    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        self.ask_which_are_accepted(lanes)
    }

    fn has_learnt(&mut self) -> bool {
        let failure = self.producer.as_ref().and_then(|producer| producer.ledger.failure());
        std::mem::take(&mut self.has_learnt) || failure.is_some_and(|failure| failure.teaches())
    }

    fn abort(&mut self) {
        self.end_producer();
    }

    async fn close(&mut self, deadline: Duration) {
        if let Some(producer) = &self.producer {
            let _ = timeout(deadline, producer.ledger.answered()).await;
        }
        self.end_producer();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.end_producer();
    }
}
