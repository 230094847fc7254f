//! Questions to the broker about topics: does it exist, how many partitions, how large may a batch be.
//!
//! A question never creates a topic, whatever the broker's `auto.create.topics.enable` says: the client asks with
//! `allow.auto.create.topics=false`, for one topic by name or for all there are (asked for "the local ones" it would
//! allow it).

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::Producer as _;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::kafka::admin::{Admin, PATIENCE, Terms};
use crate::kafka::config::OnMissingTopic;
use crate::kafka::errors::{self, Verdict};
use crate::kafka::producer::Handle;
use crate::outbox::{HoldCause, is_topic_name};

/// Topics that are asked for one by one, so many at once. Of more, all that the broker has are asked for: it answers the
/// questions of a client one after the other.
const QUESTIONS: usize = 16;

/// How often a topic that was just created is asked for before it is held like a missing one.
const CREATED_ASKS: usize = 10;

/// What the broker says about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It exists.
    Known {
        /// Its number of partitions.
        partitions: i32,
        /// What its settings say about records, where we may know it.
        terms: Terms,
    },
    /// Its records must wait.
    Held(HoldCause),
    /// No topic can have this name.
    Impossible,
}

/// Asks about topics, through each of the producer's own clients, so that they know them too.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) clients: Vec<Handle>,
    pub(crate) admin: Arc<Admin>,
}

impl Asker {
    /// Answers about all of these topics, each as soon as there is one.
    pub(crate) fn answers(self, topics: Vec<Arc<str>>) -> impl Stream<Item = (Arc<str>, Answer)> {
        let (possible, impossible): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| is_topic_name(topic));
        let impossible = impossible.into_iter().map(|topic| (topic, Answer::Impossible));
        let asker = self.clone();
        let together = stream::once(async move { asker.ask_together(possible).await });
        let possible = together.flat_map(move |(answers, rest)| {
            let asker = self.clone();
            let one_by_one = stream::iter(rest).map(move |topic| {
                let asker = asker.clone();
                async move {
                    let answer = asker.ask_patiently(&topic).await;
                    (topic, answer)
                }
            });
            stream::iter(answers).chain(one_by_one.buffer_unordered(QUESTIONS))
        });
        stream::iter(impossible).chain(possible)
    }

    /// Asks again about topics that are known, once: another time will do as well for those that it says nothing of.
    pub(crate) async fn refresh(&self, topics: Vec<Arc<str>>) -> Vec<(Arc<str>, Answer)> {
        let (mut answers, rest) = self.ask_together(topics).await;
        let one_by_one = stream::iter(rest).map(async |topic| {
            let answer = self.ask(&topic).await.ok()?;
            Some((topic, answer))
        });
        answers.extend(one_by_one.buffer_unordered(QUESTIONS).filter_map(ready).collect::<Vec<_>>().await);
        answers
    }

    /// Asks for many topics with few questions. What that does not tell is to be asked for one by one: topics that are
    /// missing, or that the broker will not name.
    async fn ask_together(&self, topics: Vec<Arc<str>>) -> (Vec<(Arc<str>, Answer)>, Vec<Arc<str>>) {
        if topics.len() <= QUESTIONS {
            return (Vec::new(), topics);
        }
        let Ok(known) = self.counts().await else { return (Vec::new(), topics) };
        self.admin.reach.answered();
        let (found, rest): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| known.contains_key(&**topic));
        let terms = self.admin.terms(&found).await;
        let answer = |topic: Arc<str>| {
            let terms = terms.get(&*topic).copied().unwrap_or_default();
            let answer = Answer::Known { partitions: known[&*topic], terms };
            (topic, answer)
        };
        (found.into_iter().map(answer).collect(), rest)
    }

    /// Asks once, and creates the topic if it is missing and that is wanted.
    ///
    /// # Errors
    /// When the broker cannot tell right now.
    pub(crate) async fn ask(&self, topic: &str) -> Result<Answer, KafkaError> {
        let answer = self.look(topic).await?;
        self.admin.reach.answered();
        match (answer, self.admin.on_missing_topic) {
            (Answer::Held(HoldCause::MissingTopic), OnMissingTopic::Create { partitions, replication }) => {
                if !self.admin.create(&NewTopic::new(topic, partitions, TopicReplication::Fixed(replication))).await? {
                    return Ok(answer);
                }
                self.look_again(topic).await
            }
            _ => Ok(answer),
        }
    }

    /// Asks until there is an answer, for as long as the producer lives.
    pub(crate) async fn ask_patiently(&self, topic: &str) -> Answer {
        let mut backoff = Backoff::default();
        loop {
            match self.ask(topic).await {
                Ok(answer) => return answer,
                Err(error) => self.admin.reach.unanswered(&error),
            }
            sleep(backoff.next_wait()).await;
        }
    }

    /// Brokers learn of a new topic one after the other.
    pub(crate) async fn look_again(&self, topic: &str) -> Result<Answer, KafkaError> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 1..CREATED_ASKS {
            match self.look(topic).await {
                Ok(answer @ Answer::Known { .. }) => return Ok(answer),
                Ok(_) | Err(_) => sleep(backoff.next_wait()).await,
            }
        }
        self.look(topic).await
    }

    pub(crate) async fn look(&self, topic: &str) -> Result<Answer, KafkaError> {
        match self.partitions(topic).await {
            Ok(partitions) => {
                let terms = self.admin.terms(&[topic]).await;
                Ok(Answer::Known { partitions, terms: terms.get(topic).copied().unwrap_or_default() })
            }
            Err(error) => match errors::code(&error).map(errors::verdict) {
                Some(Verdict::Hold(cause)) => Ok(Answer::Held(cause)),
                Some(Verdict::Reject(_)) => Ok(Answer::Impossible),
                _ => Err(error),
            },
        }
    }

    /// The number of partitions that all clients know of.
    async fn partitions(&self, topic: &str) -> Result<i32, KafkaError> {
        let topic = topic.to_owned();
        self.ask_clients(move |client| {
            let metadata = client.client().fetch_metadata(Some(&topic), PATIENCE)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            count(found.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable))?)
        })
        .await
        .map(|counts| counts.into_iter().min().unwrap_or(i32::MAX))
    }

    /// The numbers of partitions of all topics that all clients know of.
    async fn counts(&self) -> Result<HashMap<String, i32>, KafkaError> {
        let counts = self.ask_clients(|client| {
            let metadata = client.client().fetch_metadata(None, PATIENCE)?;
            let known =
                metadata.topics().iter().filter_map(|topic| Some((topic.name().to_owned(), count(topic).ok()?)));
            Ok(known.collect::<HashMap<_, _>>())
        });
        let known_to_both = |mut a: HashMap<String, i32>, b: HashMap<String, i32>| {
            a.retain(|topic, count| {
                b.get(topic).is_some_and(|other| {
                    *count = (*count).min(*other);
                    true
                })
            });
            a
        };
        counts.await.map(|counts| counts.into_iter().reduce(known_to_both).unwrap_or_default())
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

/// The number of partitions that a client is told of.
fn count(found: &MetadataTopic) -> Result<i32, KafkaError> {
    match found.error() {
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
        // A topic in the making.
        None if found.partitions().is_empty() => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)),
        None => Ok(i32::try_from(found.partitions().len()).expect("Kafka counts partitions in 32 bits")),
    }
}
