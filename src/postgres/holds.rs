//! The held lanes of a reading session, and the condition that leaves their rows out.

use serde_json::{Map, Value};

use crate::outbox::{Held, Lane};

/// The condition on a row that no held lane covers it, given what stands for [`Holds::to_json`] in the statement, null
/// when nothing is held. One lookup a row by the topic and one by the lane, whatever the number of lanes; and no join,
/// which could cost the order of the primary key.
pub(super) fn not_held(held: &str) -> String {
    format!(
        "({held} is null or id < least(coalesce(({held} ->> topic)::bigint, 9223372036854775807), \
         coalesce(({held} ->> case when partition is null then topic || ' ' || key else topic || ':' || partition end)::bigint, \
         9223372036854775807)))"
    )
}

/// What is held, by lane.
#[derive(Debug, Clone, Default)]
pub(super) struct Holds {
    lanes: Vec<Held>,
    json: Map<String, Value>,
}

impl Holds {
    /// Begins with what is stored.
    pub(super) fn new(stored: &[Held]) -> Self {
        let mut holds = Self::default();
        for held in stored {
            holds.hold(held.clone());
        }
        holds
    }

    /// Adds a lane, or lowers where it begins.
    pub(super) fn hold(&mut self, held: Held) {
        let name = name(&held.lane);
        match self.lanes.iter_mut().find(|known| known.lane == held.lane) {
            Some(known) => {
                known.from_id = known.from_id.min(held.from_id);
                self.json.insert(name, known.from_id.into());
            }
            None => {
                self.json.insert(name, held.from_id.into());
                self.lanes.push(held);
            }
        }
    }

    /// Removes a lane.
    pub(super) fn free(&mut self, lane: &Lane) {
        self.lanes.retain(|held| held.lane != *lane);
        self.json.remove(&name(lane));
    }

    /// From which id on a lane is held, if it is.
    pub(super) fn held_from(&self, lane: &Lane) -> Option<i64> {
        self.lanes.iter().find(|held| held.lane == *lane).map(|held| held.from_id)
    }

    /// The lowest id that is held of any lane.
    pub(super) fn lowest(&self) -> Option<i64> {
        self.lanes.iter().map(|held| held.from_id).min()
    }

    /// The names of the lanes, each with the id from which on it is held; nothing when nothing is held.
    pub(super) fn to_json(&self) -> Option<Value> {
        (!self.json.is_empty()).then(|| Value::Object(self.json.clone()))
    }

    /// The same without one lane: what a release of it must leave out.
    pub(super) fn to_json_without(&self, lane: &Lane) -> Option<Value> {
        let mut json = self.json.clone();
        json.remove(&name(lane));
        (!json.is_empty()).then_some(Value::Object(json))
    }
}

/// A name for each lane that [`not_held`] puts together in SQL. Topics hold neither blanks nor colons.
fn name(lane: &Lane) -> String {
    match lane {
        Lane::Topic { topic } => topic.to_string(),
        Lane::Key { topic, key } => format!("{topic} {key}"),
        Lane::Partition { topic, partition } => format!("{topic}:{partition}"),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::HoldCause;

    fn held(lane: Lane, from_id: i64) -> Held {
        Held { lane, from_id, cause: HoldCause::MissingTopic, since: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn holding_again_only_lowers_where_a_lane_begins() {
        let lane = Lane::topic_of("a");
        let mut holds = Holds::new(&[held(lane.clone(), 7)]);
        holds.hold(held(lane.clone(), 9));
        assert_eq!(holds.held_from(&lane), Some(7));
        holds.hold(held(lane.clone(), 3));
        assert_eq!(holds.to_json(), Some(serde_json::json!({"a": 3})));
        holds.free(&lane);
        assert_eq!(holds.to_json(), None);
    }

    #[test]
    fn lanes_of_one_topic_are_told_apart() {
        let topic = Lane::topic_of("a");
        let key = Lane::from_columns("a", Some("1"), None);
        let partition = Lane::from_columns("a", None, Some(1));
        let holds = Holds::new(&[held(topic.clone(), 3), held(key, 2), held(partition, 1)]);
        assert_eq!(holds.to_json_without(&topic), Some(serde_json::json!({"a 1": 2, "a:1": 1})));
        assert_eq!(holds.lowest(), Some(1));
    }
}
