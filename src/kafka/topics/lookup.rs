//! Questions to the broker about topics: does it exist, who leads its partitions, how large may a batch be.
//!
//! A question never creates a topic, whatever the broker's `auto.create.topics.enable` says: the client asks with
//! `allow.auto.create.topics=false`, for one topic by name or for all there are (asked for "the local ones" it would
//! allow it).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, Stream, StreamExt};
use rdkafka::admin::NewTopic;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::Producer as _;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::producer::client::Handle;
use crate::kafka::topics::admin::{Admin, Creation, QUESTION_TIMEOUT};
use crate::kafka::topics::answer::{Answer, Found, Looked, NO_LEADER, Replicas, TopicPartition};
use crate::outbox::{HoldCause, is_topic_name};

/// Topics that are asked for one by one, so many at once. Of more, all that the broker has are asked for: it answers the
/// questions of a client one after the other.
const SINGLE_QUESTIONS: usize = 16;

/// How often a topic that was just created is asked for before it is held like a missing one.
const CREATED_ASKS: usize = 10;

/// Missing topics that are created at a time.
const CREATED_TOGETHER: usize = 100;

/// How often a broker may say that it cannot tell of a topic yet.
const UNSURE_ASKS: usize = 5;

/// What the broker says of topics that it was asked for with few questions.
#[derive(Default)]
struct Together {
    answers: Vec<(Arc<str>, Answer)>,
    /// Those that it does not name: they are missing, or it will not tell us.
    unnamed: Vec<Arc<str>>,
}

/// What was seen of partitions.
pub(crate) struct Seen {
    /// What the broker says about their topics.
    pub(crate) answers: Vec<(Arc<str>, Answer)>,
    pub(crate) looked: Vec<Looked>,
}

/// Asks about topics, through each of the producer's own clients, so that they know them too.
#[derive(Clone)]
pub(crate) struct TopicLookup {
    clients: Vec<Handle>,
    admin: Arc<Admin>,
}

impl TopicLookup {
    /// Asks through these clients.
    pub(crate) fn new(clients: Vec<Handle>, admin: Arc<Admin>) -> Self {
        Self { clients, admin }
    }

    /// Answers about all of these topics, each as soon as there is one. Of many, those that the broker does not name when
    /// it is asked for all count as missing: the relay, which holds them, asks again beside publishing.
    pub(crate) fn answers(self, topics: Vec<Arc<str>>) -> impl Stream<Item = (Arc<str>, Answer)> {
        let (possible, impossible): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| is_topic_name(topic));
        let impossible = impossible.into_iter().map(|topic| (topic, Answer::Impossible));
        let lookup = self.clone();
        let together = stream::once(async move {
            match are_asked_together(&possible) {
                true => (lookup.ask_for_all(possible).await, Vec::new()),
                false => (Vec::new(), possible),
            }
        });
        let possible = together.flat_map(move |(answers, few)| {
            let lookup = self.clone();
            let one_by_one = stream::iter(few).map(move |topic| {
                let lookup = lookup.clone();
                async move {
                    let answer = lookup.ask_patiently(&topic).await;
                    (topic, answer)
                }
            });
            stream::iter(answers).chain(one_by_one.buffer_unordered(SINGLE_QUESTIONS))
        });
        stream::iter(impossible).chain(possible)
    }

    /// Asks for many topics until there is an answer.
    async fn ask_for_all(&self, topics: Vec<Arc<str>>) -> Vec<(Arc<str>, Answer)> {
        let mut backoff = Backoff::default();
        loop {
            match self.ask_together(&topics).await {
                Ok(Together { mut answers, unnamed }) => {
                    answers.extend(unnamed.into_iter().map(|topic| (topic, Answer::Held(HoldCause::MissingTopic))));
                    return answers;
                }
                Err(error) => self.admin.connectivity().unanswered(&error),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Asks about topics that wait, once, and creates those that are missing if that is wanted: many of them with few
    /// questions, and a bounded number at a time. Another time will do as well for those that it says nothing of.
    pub(crate) async fn ask_about_held(&self, topics: Vec<Arc<str>>) -> Vec<(Arc<str>, Answer)> {
        if !are_asked_together(&topics) {
            return self.refresh(topics).await;
        }
        let Together { answers, unnamed } = self.ask_together(&topics).await.unwrap_or_default();
        // Those that are created are found next time, when the others are tried again.
        let some = &unnamed[..unnamed.len().min(CREATED_TOGETHER)];
        if let Err(error) = self.admin.create_missing(some).await {
            tracing::debug!(topics = some.len(), %error, "missing topics could not be created yet");
        }
        answers
    }

    /// Asks again about topics that are known, once: another time will do as well for those that it says nothing of.
    pub(crate) async fn refresh(&self, topics: Vec<Arc<str>>) -> Vec<(Arc<str>, Answer)> {
        let Together { mut answers, unnamed } = match are_asked_together(&topics) {
            true => self.ask_together(&topics).await.unwrap_or_default(),
            false => Together { answers: Vec::new(), unnamed: topics },
        };
        let one_by_one = stream::iter(unnamed).map(async |topic| {
            let answer = self.ask(&topic).await.ok()?;
            Some((topic, answer))
        });
        answers.extend(one_by_one.buffer_unordered(SINGLE_QUESTIONS).filter_map(ready).collect::<Vec<_>>().await);
        answers
    }

    /// Asks for many topics with few questions.
    async fn ask_together(&self, topics: &[Arc<str>]) -> Result<Together, KafkaError> {
        let mut known = self.all_partitions(topics).await?;
        self.admin.connectivity().answered();
        let (found, unnamed): (Vec<_>, Vec<_>) = topics.iter().cloned().partition(|topic| known.contains_key(topic));
        let limits = self.admin.topic_limits(&found).await;
        let answers = found.into_iter().filter_map(|topic| {
            let limits = limits.get(&*topic).copied().unwrap_or_default();
            let partitions = known.remove(&topic)?;
            Some((topic, Answer::Known { partitions, limits }))
        });
        Ok(Together { answers: answers.collect(), unnamed })
    }

    /// Asks once, and creates the topic if it is missing and that is wanted.
    ///
    /// # Errors
    /// When the broker cannot tell right now.
    async fn ask(&self, topic: &str) -> Result<Answer, KafkaError> {
        let answer = self.look(topic).await?;
        self.admin.connectivity().answered();
        let is_missing = answer == Answer::Held(HoldCause::MissingTopic);
        if is_missing && self.admin.create_missing(&[topic]).await? == Creation::Done {
            self.look_again(topic).await
        } else {
            Ok(answer)
        }
    }

    /// Asks until there is an answer, for as long as the producer lives. Of a topic in the making a broker that answers can
    /// tell nothing yet: after a while that counts as missing.
    async fn ask_patiently(&self, topic: &str) -> Answer {
        let mut backoff = Backoff::default();
        let mut unsure = 0;
        loop {
            match self.ask(topic).await {
                Ok(answer) => return answer,
                Err(error) if errors::is_of_the_topic(&error) && unsure >= UNSURE_ASKS => {
                    tracing::debug!(topic, error = %error, "the broker cannot tell of the topic yet");
                    return Answer::Held(HoldCause::MissingTopic);
                }
                Err(error) if errors::is_of_the_topic(&error) => unsure += 1,
                Err(error) => self.admin.connectivity().unanswered(&error),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Creates a topic, whatever is wanted for others, and looks at it.
    ///
    /// # Errors
    /// When the broker cannot tell right now.
    pub(crate) async fn create(&self, new: NewTopic<'_>) -> Result<Answer, KafkaError> {
        self.admin.create(std::slice::from_ref(&new)).await?;
        self.look_again(new.name).await
    }

    /// Brokers learn of a new topic one after the other.
    async fn look_again(&self, topic: &str) -> Result<Answer, KafkaError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 1..CREATED_ASKS {
            match self.look(topic).await {
                Ok(answer @ Answer::Known { .. }) => return Ok(answer),
                Ok(_) | Err(_) => sleep(backoff.next_wait()).await,
            }
        }
        self.look(topic).await
    }

    /// Asks once, and creates nothing.
    ///
    /// # Errors
    /// When the broker cannot tell right now.
    pub(crate) async fn look(&self, topic: &str) -> Result<Answer, KafkaError> {
        match self.partitions(topic).await {
            Ok(partitions) => {
                let limits = self.admin.topic_limits(&[topic]).await;
                Ok(Answer::Known { partitions, limits: limits.get(topic).copied().unwrap_or_default() })
            }
            Err(error) => match errors::code(&error).map(errors::classify) {
                Some(ErrorClass::Hold(cause)) => Ok(Answer::Held(cause)),
                Some(ErrorClass::Reject(_)) => Ok(Answer::Impossible),
                _ => Err(error),
            },
        }
    }

    /// Looks whether partitions take records; says nothing of those whose topics the broker does not tell of.
    pub(crate) async fn look_at(&self, partitions: Vec<TopicPartition>) -> Seen {
        let topics: BTreeSet<Arc<str>> = partitions.iter().map(|at| Arc::clone(&at.topic)).collect();
        let answers: HashMap<_, _> = self.refresh(topics.into_iter().collect()).await.into_iter().collect();
        let kept = |at: TopicPartition| {
            let Answer::Known { partitions, limits } = answers.get(&at.topic)? else { return None };
            let replicas = *partitions.get(usize::try_from(at.partition).ok()?)?;
            Some(Kept { at, replicas, min_in_sync: limits.min_in_sync })
        };
        let kept: Vec<Kept> = partitions.into_iter().filter_map(kept).collect();
        let leaders: HashMap<i32, TopicPartition> =
            kept.iter().map(|kept| (kept.replicas.leader, kept.at.clone())).collect();
        let asked = leaders.into_iter().filter(|(leader, _)| *leader != NO_LEADER);
        let asked = asked.map(async |(leader, at)| self.leader_answers(at).await.then_some(leader));
        let answering: HashSet<i32> = join_all(asked).await.into_iter().flatten().collect();
        let looked = kept.into_iter().map(|kept| {
            let leader = kept.replicas.leader;
            let found = match kept.min_in_sync {
                _ if !answering.contains(&leader) => Found::Silent { leader },
                Some(in_sync) if kept.replicas.in_sync < in_sync => Found::TooFewReplicas,
                _ => Found::Available { leader },
            };
            Looked { at: kept.at, found }
        });
        let looked = looked.collect();
        Seen { answers: answers.into_iter().collect(), looked }
    }

    /// Whether the leader of a partition answers.
    async fn leader_answers(&self, at: TopicPartition) -> bool {
        let asked =
            self.ask_clients(move |client| client.client().fetch_watermarks(&at.topic, at.partition, QUESTION_TIMEOUT));
        asked.await.is_ok()
    }

    /// The partitions that all clients know of.
    async fn partitions(&self, topic: &str) -> Result<Vec<Replicas>, KafkaError> {
        let topic = topic.to_owned();
        let told = self.ask_clients(move |client| {
            let metadata = client.client().fetch_metadata(Some(&topic), QUESTION_TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            replicas(found.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))?)
        });
        told.await?.into_iter().min_by_key(Vec::len).ok_or(KafkaError::Canceled)
    }

    /// The partitions that all clients know of, of each of these topics that the broker names.
    async fn all_partitions(&self, topics: &[Arc<str>]) -> Result<HashMap<Arc<str>, Vec<Replicas>>, KafkaError> {
        let wanted: HashSet<Arc<str>> = topics.iter().cloned().collect();
        let told = self.ask_clients(move |client| {
            let metadata = client.client().fetch_metadata(None, QUESTION_TIMEOUT)?;
            let known = metadata.topics().iter().filter_map(|topic| {
                let name = wanted.get(topic.name())?;
                Some((Arc::clone(name), replicas(topic).ok()?))
            });
            Ok(known.collect::<HashMap<_, _>>())
        });
        let known_to_both = |mut a: HashMap<Arc<str>, Vec<Replicas>>, mut b: HashMap<Arc<str>, Vec<Replicas>>| {
            a.retain(|topic, partitions| {
                b.remove(topic).is_some_and(|others| {
                    partitions.truncate(others.len());
                    true
                })
            });
            a
        };
        told.await?.into_iter().reduce(known_to_both).ok_or(KafkaError::Canceled)
    }

    /// Asks each of the clients. Their calls block, so they have a thread to themselves.
    async fn ask_clients<T: Send + 'static>(
        &self,
        ask: impl Fn(&Handle) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<Vec<T>, KafkaError> {
        let clients = self.clients.clone();
        let asked = tokio::task::spawn_blocking(move || clients.iter().map(ask).collect());
        asked.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// Who keeps a partition that is looked at, and how many have to.
struct Kept {
    at: TopicPartition,
    replicas: Replicas,
    min_in_sync: Option<usize>,
}

/// Whether these topics are asked for with few questions, and not one by one.
fn are_asked_together(topics: &[Arc<str>]) -> bool {
    topics.len() > SINGLE_QUESTIONS
}

/// The partitions that a client is told of.
fn replicas(found: &MetadataTopic) -> Result<Vec<Replicas>, KafkaError> {
    if let Some(error) = found.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let mut partitions: Vec<_> = found.partitions().iter().collect();
    partitions.sort_unstable_by_key(|partition| partition.id());
    let is_whole = partitions.iter().zip(0..).all(|(partition, number)| partition.id() == number);
    // A topic in the making.
    if partitions.is_empty() || !is_whole {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable));
    }
    let replicas =
        |partition: &MetadataPartition| Replicas { leader: partition.leader(), in_sync: partition.isr().len() };
    Ok(partitions.into_iter().map(replicas).collect())
}
