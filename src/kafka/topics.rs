//! What is known of topics: their partitions, their limits, and which of them wait for something.
//!
//! The table belongs to the sink alone, so that looking a record's topic up takes no lock. News from questions
//! that run beside publishing come through an inbox.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::kafka::admin::Terms;
use crate::kafka::ask::Answer;
use crate::kafka::bar::Bar;
use crate::kafka::partition::Spread;
use crate::kafka::producer::TRANSACTIONS;
use crate::outbox::HoldCause;

/// How often a topic in use is asked for again, so that added partitions and changed limits are noticed.
const REFRESH: Duration = Duration::from_secs(30);

/// How long a topic to which writing was refused waits before it is tried again, at first and at most. Only a
/// record that fails can tell, and that costs the others a new producer.
const REFUSED: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));

/// A topic, and where it stands.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) state: State,
    /// When it was last asked for; refreshing is asking, too.
    asked: Instant,
}

/// Where a topic stands.
#[derive(Debug)]
pub(crate) enum State {
    /// It can be published to.
    Known(Known),
    /// Its records wait, until an answer to [`Inbox::accepted`] lets them go.
    Held(HoldCause),
    /// No topic can have this name.
    Impossible,
    /// It may not be published to.
    Barred(Bar),
}

/// A topic that can be published to.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its number of partitions, at least one.
    pub(crate) partitions: i32,
    /// What its settings demand of records.
    pub(crate) terms: Terms,
    /// Where its next record without a key goes.
    pub(crate) spread: Spread,
    /// By partition and client of the producer: whether it has had a record acknowledged there.
    pub(crate) warmth: Vec<[Warmth; TRANSACTIONS]>,
    /// Whether the producer at hand knows the topic too.
    introduced: bool,
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
        let State::Known(known) = &topic.state else { return false };
        if !known.introduced {
            return true;
        }
        // A partition that was just added; not asked for at every record that names an impossible one.
        partition.is_some_and(|partition| partition >= known.partitions)
            && topic.asked.elapsed() > Duration::from_secs(1)
    }

    /// Takes in what the broker said about a topic. A topic that is held stays so: see [`Inbox::accepted`].
    pub(crate) fn learn(&mut self, name: &Arc<str>, answer: Answer) {
        let Some(number) = self.find(name) else {
            return self.add(name, State::from(answer));
        };
        let topic = &mut self.table[number];
        topic.asked = Instant::now();
        match (&mut topic.state, answer) {
            (State::Held(_) | State::Barred(_), _) => {}
            (State::Known(known), Answer::Known { partitions, terms }) => {
                if partitions != known.partitions {
                    tracing::info!(topic = %name, before = known.partitions, partitions, "the topic's number of partitions changed; keys move");
                }
                known.partitions = partitions;
                known.warmth.resize(partitions as usize, COLD);
                known.terms = terms;
                known.introduced = true;
            }
            (state, answer) => *state = State::from(answer),
        }
    }

    /// Bars a topic that nothing is known of.
    pub(crate) fn bar(&mut self, name: &Arc<str>, bar: Bar) {
        if self.find(name).is_none() {
            self.add(name, State::Barred(bar));
        }
    }

    fn add(&mut self, name: &Arc<str>, state: State) {
        self.index.insert(Arc::clone(name), self.table.len());
        self.table.push(Topic { name: Arc::clone(name), state, asked: Instant::now() });
    }

    /// Holds a topic whose records were refused.
    pub(crate) fn hold(&mut self, name: &str, cause: HoldCause) {
        let name: Arc<str> = name.into();
        if cause == HoldCause::NotAuthorised {
            let pause = self.refusals.get(&name).map_or(REFUSED.0, |refusal| (refusal.pause * 2).min(REFUSED.1));
            self.refusals.insert(Arc::clone(&name), Refusal { again_at: Instant::now() + pause, pause });
        }
        match self.find(&name) {
            Some(number) => self.table[number].state = State::Held(cause),
            None => self.learn(&name, Answer::Held(cause)),
        }
    }

    /// Whether it is too early to ask again about a topic to which writing was refused.
    pub(crate) fn is_too_early(&self, name: &str) -> bool {
        self.refusals.get(name).is_some_and(|refusal| Instant::now() < refusal.again_at)
    }

    /// Has the topic be asked for again before its next record, unless that was done just now. Says whether it will be.
    pub(crate) fn doubt(&mut self, name: &Arc<str>) -> bool {
        let Some(number) = self.find(name) else { return false };
        let topic = &mut self.table[number];
        match &mut topic.state {
            State::Known(known) if topic.asked.elapsed() > Duration::from_secs(1) => {
                known.introduced = false;
                true
            }
            _ => false,
        }
    }

    /// Topics in use that are due to be asked for again; each is named once until its answer comes.
    pub(crate) fn due(&mut self) -> Vec<Arc<str>> {
        let due = self
            .table
            .iter_mut()
            .filter(|topic| matches!(topic.state, State::Known(_)) && topic.asked.elapsed() > REFRESH);
        due.map(|topic| {
            topic.asked = Instant::now();
            Arc::clone(&topic.name)
        })
        .collect()
    }

    /// Has the topic be asked for again before its next record.
    pub(crate) fn ask_anew(&mut self, name: &str) {
        let number = self.index.get(name).copied();
        if let Some(State::Known(known)) = number.map(|number| &mut self.table[number].state) {
            known.introduced = false;
        }
    }

    /// The smallest limit of the topics in use.
    pub(crate) fn smallest_limit(&self) -> Option<usize> {
        let known = self.table.iter().filter_map(|topic| match &topic.state {
            State::Known(known) => known.terms.limit,
            State::Held(_) | State::Impossible | State::Barred(_) => None,
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
            State::Known(known) => Some(known),
            State::Held(_) | State::Impossible | State::Barred(_) => None,
        })
    }

    /// Where questions that run beside publishing leave their answers.
    pub(crate) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.inbox)
    }

    /// Takes in what came through the inbox.
    pub(crate) fn hear(&mut self) {
        for News { name, answer, release } in self.inbox.take() {
            if release
                && let Some(number) = self.find(&name)
                && matches!(self.table[number].state, State::Held(_))
            {
                self.table[number].state = State::from(answer);
            }
            self.learn(&name, answer);
        }
    }
}

impl From<Answer> for State {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Known { partitions, terms } => {
                let warmth = vec![COLD; partitions as usize];
                State::Known(Known { partitions, terms, spread: Spread::default(), warmth, introduced: true })
            }
            Answer::Held(cause) => State::Held(cause),
            Answer::Impossible => State::Impossible,
        }
    }
}

/// Answers that came beside publishing.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    any: AtomicBool,
    news: Mutex<Vec<News>>,
}

#[derive(Debug)]
struct News {
    name: Arc<str>,
    answer: Answer,
    /// Whether a held topic is let go by it.
    release: bool,
}

impl Inbox {
    /// Leaves an answer to a refreshing question.
    pub(crate) fn refreshed(&self, name: &Arc<str>, answer: Answer) {
        self.put(News { name: Arc::clone(name), answer, release: false });
    }

    /// Leaves an answer that lets a held topic go: somebody was told that it accepts records.
    pub(crate) fn accepted(&self, name: &str, answer: Answer) {
        self.put(News { name: name.into(), answer, release: true });
    }

    fn put(&self, news: News) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        self.any.store(true, Ordering::Release);
    }

    fn take(&self) -> Vec<News> {
        if !self.any.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Answer =
        Answer::Known { partitions: 3, terms: Terms { limit: Some(1_000), compacted: None, times: None } };

    #[test]
    fn a_held_topic_stays_held_until_somebody_was_told_that_it_accepts() {
        let mut topics = Topics::default();
        let name: Arc<str> = "t".into();
        topics.learn(&name, Answer::Held(HoldCause::MissingTopic));
        topics.inbox().refreshed(&name, KNOWN);
        topics.hear();
        assert!(matches!(topics.get(0).state, State::Held(HoldCause::MissingTopic)));
        topics.inbox().accepted("t", KNOWN);
        topics.hear();
        assert!(matches!(&topics.get(0).state, State::Known(known) if known.partitions == 3));
        assert_eq!(topics.smallest_limit(), Some(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_refused_a_record_is_not_tried_again_at_once_and_ever_more_rarely() {
        let mut topics = Topics::default();
        topics.hold("t", HoldCause::NotAuthorised);
        assert!(topics.is_too_early("t") && !topics.is_too_early("u"));
        tokio::time::advance(REFUSED.0).await;
        assert!(!topics.is_too_early("t"));
        topics.hold("t", HoldCause::NotAuthorised);
        tokio::time::advance(REFUSED.0).await;
        assert!(topics.is_too_early("t"));
    }

    #[tokio::test(start_paused = true)]
    async fn added_partitions_are_asked_for_now_and_then_and_when_a_row_names_one() {
        let mut topics = Topics::default();
        let name: Arc<str> = "t".into();
        assert!(topics.must_ask(&name, None));
        topics.learn(&name, KNOWN);
        assert!(!topics.must_ask(&name, Some(2)));
        assert!(topics.due().is_empty());
        tokio::time::advance(REFRESH * 2).await;
        assert!(topics.must_ask(&name, Some(3)));
        assert_eq!(topics.due(), [Arc::clone(&name)]);
        assert!(topics.due().is_empty());
        topics.learn(&name, Answer::Known { partitions: 5, terms: Terms::default() });
        assert!(!topics.must_ask(&name, Some(3)));
        assert!(matches!(&topics.get(0).state, State::Known(known) if known.warmth.len() == 5));
    }
}
