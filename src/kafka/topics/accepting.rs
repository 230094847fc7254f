//! Which of the lanes that wait flow by now.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kafka::config::Settings;
use crate::kafka::topics::answer::{Answer, Found, TopicPartition};
use crate::kafka::topics::bar::Bar;
use crate::kafka::topics::inbox::Inbox;
use crate::kafka::topics::lookup::TopicLookup;
use crate::kafka::topics::table::{Topics, Whereto};
use crate::outbox::Lane;

/// Held lanes, by what is to be asked about them.
#[derive(Debug, Default)]
pub(crate) struct HeldLanes {
    /// Nothing: what they wait for is over, as far as is known.
    accepted: Vec<Lane>,
    /// These whole topics.
    topics: Vec<Arc<str>>,
    /// These partitions, and the lanes that wait for each.
    partitions: HashMap<TopicPartition, Vec<Lane>>,
}

impl HeldLanes {
    /// Sorts these lanes. The records of a topic that is barred go on to be rejected.
    pub(crate) fn sort(lanes: Vec<Lane>, known: &Topics, settings: &Settings) -> Self {
        let mut held = Self::default();
        for lane in lanes {
            if Bar::of(lane.topic(), settings).is_some() {
                held.accepted.push(lane);
                continue;
            }
            match (known.destinations_of(&lane), lane) {
                (Whereto::Held | Whereto::Unknown, Lane::Topic { topic }) => held.topics.push(topic),
                // The sink knows no better, or the lane waits for its topic.
                (Whereto::Held | Whereto::Unknown, lane) => held.accepted.push(lane),
                (Whereto::Partitions(any), lane) if any.iter().any(|to| known.looks_available(*to)) => {
                    held.accepted.push(lane);
                }
                (Whereto::Partitions(any), lane) => {
                    if let Some(to) = any.into_iter().find(|to| !known.unavailable.rests(*to)) {
                        held.partitions.entry(known.named(to)).or_default().push(lane);
                    }
                }
            }
        }
        held.topics.retain(|topic| !known.is_too_early(topic));
        held
    }

    /// Asks the broker. Returns the lanes that are accepted, and leaves in the inbox that they are, and what else was learnt.
    pub(crate) async fn ask(self, lookup: &TopicLookup, inbox: &Inbox) -> Vec<Lane> {
        let Self { mut accepted, topics, mut partitions } = self;
        let (told, seen) =
            tokio::join!(lookup.ask_about_held(topics), lookup.look_at(partitions.keys().cloned().collect()));
        let known = told.into_iter().filter(|(_, answer)| matches!(answer, Answer::Known { .. }));
        accepted.extend(known.map(|(topic, _)| Lane::Topic { topic }));
        seen.answers.into_iter().for_each(|(topic, answer)| inbox.refreshed(&topic, answer));
        for looked in seen.looked {
            if let Found::Available { .. } = looked.found {
                accepted.extend(partitions.remove(&looked.at).unwrap_or_default());
            }
            inbox.looked(looked);
        }
        inbox.accepted(&accepted);
        accepted
    }
}
