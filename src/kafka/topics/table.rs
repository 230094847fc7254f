//! What is known of topics: their partitions, their limits, and which of them wait for something.
//!
//! The table belongs to the sink alone, so that looking a record's topic up takes no lock. News from questions
//! that run beside publishing come through an inbox.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::contract::Outcome;
use crate::kafka::producer::sending::Destination;
use crate::kafka::producer::setup::TRANSACTIONS;
use crate::kafka::topics::answer::{Answer, Found, Looked, NO_LEADER, Replicas, TopicPartition, count};
use crate::kafka::topics::bar::Bar;
use crate::kafka::topics::inbox::{Inbox, News};
use crate::kafka::topics::limits::TopicLimits;
use crate::kafka::topics::partition::{self, Spread};
use crate::kafka::topics::unavailable::Unavailable;
use crate::outbox::{HoldCause, Lane, Record};

/// How often a topic in use is asked for again, so that added partitions and changed limits are noticed.
const TOPIC_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// How long a topic to which writing was refused waits before it is tried again. Only a record that fails can tell, and
/// that costs the others a new producer.
const FIRST_NOT_AUTHORISED_PAUSE: Duration = Duration::from_secs(15);

/// The longest that it waits when it is refused again and again.
const LONGEST_NOT_AUTHORISED_PAUSE: Duration = Duration::from_secs(600);

/// A topic, and where it stands.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) state: TopicState,
    /// When it was last asked for; refreshing is asking, too.
    asked: Instant,
}

/// Where records of a lane would go.
#[derive(Debug)]
pub(crate) enum Whereto {
    /// To one of these.
    Partitions(Vec<Destination>),
    /// Nowhere: the topic is held.
    Held,
    /// Nothing is known of that.
    Unknown,
}

/// What came of doubting what is known of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It is asked for before its next record.
    AskAgain,
    /// It was asked for just now, or nothing is known of it.
    Certain,
}

/// Where a topic stands.
#[derive(Debug)]
pub(crate) enum TopicState {
    /// It can be published to.
    Known(Known),
    /// Its records wait, until [`Inbox::accepted`] lets them go.
    Held(HoldCause),
    /// It was let go, and is to be asked for before its next record.
    Unasked,
    /// No topic can have this name.
    Impossible,
    /// It may not be published to.
    Barred(Bar),
}

/// A topic that can be published to.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its partitions, at least one.
    pub(crate) partitions: Vec<Replicas>,
    /// What its settings demand of records.
    pub(crate) limits: TopicLimits,
    /// Where its next record without a key goes.
    pub(crate) spread: Spread,
    /// By partition and client of the producer: whether it has had a record acknowledged there.
    pub(crate) warmth: Vec<[Warmth; TRANSACTIONS]>,
    /// Whether the producer at hand knows the topic too.
    introduced: bool,
}

impl Known {
    /// Its number of partitions, at least one.
    pub(crate) fn count(&self) -> i32 {
        count(&self.partitions)
    }

    /// Who keeps one of its partitions.
    pub(crate) fn replicas(&self, partition: i32) -> Option<Replicas> {
        self.partitions.get(usize::try_from(partition).ok()?).copied()
    }
}

/// Of a partition where nothing was sent yet.
const COLD: [Warmth; TRANSACTIONS] = [Warmth::Cold; TRANSACTIONS];

/// Where a producer's client stands with a partition.
///
/// A broker that has no state of a producer takes any first sequence number. Were two requests under way and the
/// first one lost, the second would be appended and the retried first one refused: so the first stays alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// Nothing was sent there yet.
    #[default]
    Cold,
    /// The first record is under way, alone.
    Warming,
    /// The first record was acknowledged.
    Warm,
}

/// A topic to which writing was refused.
#[derive(Debug)]
struct Refusal {
    again_at: Instant,
    pause: Duration,
}

/// All topics that records were seen of.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    table: Vec<Topic>,
    index: HashMap<Arc<str>, usize>,
    last: usize,
    refusals: HashMap<Arc<str>, Refusal>,
    /// Partitions that take nothing.
    pub(crate) unavailable: Unavailable,
    inbox: Arc<Inbox>,
}

impl Topics {
    /// The number of a topic that is known of. Records come in runs of one topic: the last one found is tried first.
    pub(crate) fn find(&mut self, name: &Arc<str>) -> Option<usize> {
        if self.table.get(self.last).is_some_and(|last| Arc::ptr_eq(&last.name, name) || last.name == *name) {
            return Some(self.last);
        }
        self.last = *self.index.get(name)?;
        Some(self.last)
    }

    /// A topic by its number.
    pub(crate) fn get(&mut self, number: usize) -> &mut Topic {
        &mut self.table[number]
    }

    /// Whether nothing useful is known of where this record goes, so that its topic must be asked for first.
    pub(crate) fn must_ask(&mut self, name: &Arc<str>, partition: Option<i32>) -> bool {
        let Some(number) = self.find(name) else { return true };
        let topic = &self.table[number];
        let known = match &topic.state {
            TopicState::Known(known) => known,
            TopicState::Unasked => return true,
            TopicState::Held(_) | TopicState::Impossible | TopicState::Barred(_) => return false,
        };
        if !known.introduced {
            return true;
        }
        // A partition that was just added; not asked for at every record that names an impossible one.
        partition.is_some_and(|partition| partition >= known.count()) && topic.asked.elapsed() > Duration::from_secs(1)
    }

    /// Takes in what the broker said about a topic. A topic that is held stays so: see [`Inbox::accepted`].
    pub(crate) fn learn(&mut self, name: &Arc<str>, answer: Answer) {
        let Some(number) = self.find(name) else {
            return self.add(name, TopicState::from(answer));
        };
        let topic = &mut self.table[number];
        topic.asked = Instant::now();
        match (&mut topic.state, answer) {
            (TopicState::Held(_) | TopicState::Barred(_), _) => {}
            (TopicState::Known(known), Answer::Known { partitions, limits }) => {
                if partitions.len() != known.partitions.len() {
                    let before = known.partitions.len();
                    tracing::info!(topic = %name, before, partitions = partitions.len(), "the topic's number of partitions changed; keys move");
                }
                known.warmth.resize(partitions.len(), COLD);
                known.partitions = partitions;
                known.limits = limits;
                known.introduced = true;
            }
            (state, answer) => *state = TopicState::from(answer),
        }
    }

    /// Bars a topic that nothing is known of.
    pub(crate) fn bar(&mut self, name: &Arc<str>, bar: Bar) {
        if self.find(name).is_none() {
            self.add(name, TopicState::Barred(bar));
        }
    }

    fn add(&mut self, name: &Arc<str>, state: TopicState) {
        self.index.insert(Arc::clone(name), self.table.len());
        self.table.push(Topic { name: Arc::clone(name), state, asked: Instant::now() });
    }

    /// Holds a topic whose records were refused.
    pub(crate) fn hold(&mut self, name: &str, cause: HoldCause) {
        let name: Arc<str> = name.into();
        if cause == HoldCause::NotAuthorised {
            let pause = self
                .refusals
                .get(&name)
                .map_or(FIRST_NOT_AUTHORISED_PAUSE, |refusal| (refusal.pause * 2).min(LONGEST_NOT_AUTHORISED_PAUSE));
            self.refusals.insert(Arc::clone(&name), Refusal { again_at: Instant::now() + pause, pause });
        }
        match self.find(&name) {
            Some(number) => self.table[number].state = TopicState::Held(cause),
            None => self.learn(&name, Answer::Held(cause)),
        }
    }

    /// Whether it is too early to ask again about a topic to which writing was refused.
    pub(crate) fn is_too_early(&self, name: &str) -> bool {
        self.refusals.get(name).is_some_and(|refusal| Instant::now() < refusal.again_at)
    }

    /// Has the topic be asked for again before its next record, unless that was done just now.
    pub(crate) fn doubt(&mut self, name: &Arc<str>) -> Doubt {
        let Some(number) = self.find(name) else { return Doubt::Certain };
        let topic = &mut self.table[number];
        match &mut topic.state {
            TopicState::Known(known) if topic.asked.elapsed() > Duration::from_secs(1) => {
                known.introduced = false;
                Doubt::AskAgain
            }
            _ => Doubt::Certain,
        }
    }

    /// Topics in use that are due to be asked for again; each is named once until its answer comes.
    pub(crate) fn due(&mut self) -> Vec<Arc<str>> {
        let due = self.table.iter_mut().filter(|topic| {
            matches!(topic.state, TopicState::Known(_)) && topic.asked.elapsed() > TOPIC_REFRESH_INTERVAL
        });
        due.map(|topic| {
            topic.asked = Instant::now();
            Arc::clone(&topic.name)
        })
        .collect()
    }

    /// Has the topic be asked for again before its next record.
    pub(crate) fn ask_anew(&mut self, name: &str) {
        let number = self.index.get(name).copied();
        if let Some(TopicState::Known(known)) = number.map(|number| &mut self.table[number].state) {
            known.introduced = false;
        }
    }

    /// The smallest limit of the topics in use.
    pub(crate) fn smallest_limit(&self) -> Option<usize> {
        let known = self.table.iter().filter_map(|topic| match &topic.state {
            TopicState::Known(known) => known.limits.message_bytes,
            TopicState::Held(_) | TopicState::Unasked | TopicState::Impossible | TopicState::Barred(_) => None,
        });
        known.min()
    }

    /// Begins with a new producer: no partition is warm, and topics are to be introduced to it.
    pub(crate) fn begin_anew(&mut self) {
        self.cool();
        self.known().for_each(|known| known.introduced = false);
    }

    /// Counts every partition as cold.
    pub(crate) fn cool(&mut self) {
        self.known().for_each(|known| known.warmth.fill(COLD));
    }

    /// Notes that the first records of all partitions are acknowledged.
    pub(crate) fn warmed(&mut self) {
        for warmth in self.known().flat_map(|known| &mut known.warmth).flatten() {
            if *warmth == Warmth::Warming {
                *warmth = Warmth::Warm;
            }
        }
    }

    /// Ends the runs of records without a key, so that the next submission goes elsewhere.
    pub(crate) fn rotate(&mut self) {
        self.known().for_each(|known| known.spread.rotate());
    }

    fn known(&mut self) -> impl Iterator<Item = &mut Known> {
        self.table.iter_mut().filter_map(|topic| match &mut topic.state {
            TopicState::Known(known) => Some(known),
            TopicState::Held(_) | TopicState::Unasked | TopicState::Impossible | TopicState::Barred(_) => None,
        })
    }

    /// Where questions that run beside publishing leave their answers.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Where a record of this lane would go, as far as it is known: to any of the partitions, for a whole topic.
    pub(crate) fn destinations_of(&self, lane: &Lane) -> Whereto {
        let Some((number, topic)) = self.index.get(lane.topic()).map(|number| (*number, &self.table[*number])) else {
            return Whereto::Unknown;
        };
        let known = match &topic.state {
            TopicState::Known(known) => known,
            TopicState::Held(_) => return Whereto::Held,
            TopicState::Unasked | TopicState::Impossible | TopicState::Barred(_) => return Whereto::Unknown,
        };
        let to = |partition| Destination { topic: number as u32, partition };
        let partitions = match (lane.partition(), lane.key()) {
            (Some(partition), _) => vec![to(partition)],
            (None, Some(key)) => vec![to(partition::of_key(key.as_bytes(), known.count()))],
            (None, None) => (0..known.count()).map(to).collect(),
        };
        Whereto::Partitions(partitions)
    }

    /// Whether a partition looks as if it took records, by what is known of it.
    pub(crate) fn looks_available(&self, to: Destination) -> bool {
        let TopicState::Known(known) = &self.table[to.topic as usize].state else { return true };
        known
            .replicas(to.partition)
            .is_none_or(|replicas| replicas.leader != NO_LEADER && !self.unavailable.covers(to, replicas))
    }

    /// For what a record waits with its lane, or with all records of its topic, if it does.
    pub(crate) fn keeps_back(&self, record: &Record) -> Option<HoldCause> {
        if self.unavailable.is_empty() {
            return None;
        }
        let topic = Lane::Topic { topic: Arc::clone(&record.topic) };
        self.unavailable.keeps_back(&topic, record.lane().as_ref())
    }

    /// Where a record goes that is to go there: elsewhere, if that is unavailable and its order does not matter. Nothing,
    /// and the record's lane waits from here on, where it does.
    pub(crate) fn available(&mut self, record: &Record, to: Destination) -> Option<Destination> {
        if self.unavailable.is_empty() {
            return Some(to);
        }
        let TopicState::Known(known) = &self.table[to.topic as usize].state else { return Some(to) };
        let is_available = |to: &Destination| {
            known.replicas(to.partition).is_none_or(|replicas| !self.unavailable.covers(*to, replicas))
        };
        let lane = record.lane();
        let others = if lane.is_none() { known.count() } else { 1 };
        let mut turns = (0..others).map(|turn| Destination { partition: (to.partition + turn) % known.count(), ..to });
        let found = turns.find(is_available);
        if found.is_none() {
            self.keep_back(record, HoldCause::UnavailablePartition);
        }
        found
    }

    /// Lets what a record belongs to wait from here on, and says so.
    pub(crate) fn keep_back(&mut self, record: &Record, cause: HoldCause) -> Outcome {
        self.unavailable.keep_back(cause.lane(&record.topic, record.lane()), cause);
        Outcome::Held(cause)
    }

    /// A partition by the name of its topic.
    pub(crate) fn named(&self, to: Destination) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.table[to.topic as usize].name), partition: to.partition }
    }

    /// Takes note of what a look at a partition has shown.
    pub(crate) fn note(&mut self, looked: &Looked) {
        let Some(number) = self.index.get(&looked.at.topic) else { return };
        let partition = Destination { topic: *number as u32, partition: looked.at.partition };
        match looked.found {
            Found::Available { leader } => self.unavailable.available(partition, leader),
            Found::Silent { leader } => self.unavailable.silence(leader),
            Found::TooFewReplicas => {}
        }
    }

    /// Takes in what came through the inbox.
    pub(crate) fn hear(&mut self) {
        for news in self.inbox.take() {
            match news {
                News::Refreshed(name, answer) => self.learn(&name, answer),
                News::Looked(looked) => self.note(&looked),
                News::Accepted(lanes) => {
                    self.unavailable.let_go(&lanes);
                    lanes.iter().for_each(|lane| self.let_go(lane));
                }
            }
        }
    }

    /// Lets a topic go that was held: it is asked for again before its next record.
    fn let_go(&mut self, lane: &Lane) {
        let number =
            self.index.get(lane.topic()).copied().filter(|_| lane.key().is_none() && lane.partition().is_none());
        if let Some(topic) = number.map(|number| &mut self.table[number])
            && matches!(topic.state, TopicState::Held(_))
        {
            topic.state = TopicState::Unasked;
        }
    }
}

impl From<Answer> for TopicState {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Known { partitions, limits } => {
                let warmth = vec![COLD; partitions.len()];
                TopicState::Known(Known { partitions, limits, spread: Spread::default(), warmth, introduced: true })
            }
            Answer::Held(cause) => TopicState::Held(cause),
            Answer::Impossible => TopicState::Impossible,
        }
    }
}

#[cfg(test)]
mod tests;
