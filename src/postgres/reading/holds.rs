//! The held lanes of a reading session, and the condition that leaves their rows out.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::outbox::{Held, Lane};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::table::Columns;

/// The condition on a row that no held lane covers it, given what stands for [`Holds::to_json`] in the statement, null
/// when nothing is held. One lookup a row by the topic and one by the lane, whatever the number of lanes; and no join,
/// which could cost the order of the primary key.
///
/// For rows that the position does not call read: of others a lane's own position may say that they were published before
/// the lane was held, which is for [`left_to_a_lane`] to tell.
pub(crate) fn not_held(columns: &Columns, held: &str) -> String {
    let Columns { id, topic, .. } = columns;
    let lane = columns.lane();
    format!(
        "({held} is null or {id} < least(coalesce(({held} ->> {topic})::bigint, 9223372036854775807), \
         coalesce(({held} ->> {lane})::bigint, 9223372036854775807)))"
    )
}

/// The condition on any row that it is left to a held lane, given what stands for [`Holds::to_told_json`] in the statement,
/// null when nothing is held. It is never null itself.
pub(crate) fn left_to_a_lane(columns: &Columns, held: &str) -> String {
    let Columns { id, topic, xid, .. } = columns;
    let lane = columns.lane();
    format!(
        "({held} is not null and exists (
             select from (values ({held} -> {topic}), ({held} -> {lane})) lane (told)
             where {id} >= (told ->> 'from')::bigint and not coalesce(
                 pg_visible_in_snapshot({xid}, (told ->> 'prev')::pg_snapshot)
                 or {id} <= (told ->> 'last')::bigint and pg_visible_in_snapshot({xid}, (told ->> 'cur')::pg_snapshot), false)))"
    )
}

/// Lanes that a statement is told of at most. It reads the names anew each time it runs, which costs the database more
/// than to send the rows of more lanes, each once, that are then [left out](Holds::leave_out) here.
const TOLD_LANES: usize = 500;

/// Where the rest of a held lane begins.
#[derive(Debug, Clone)]
struct Hold {
    from_id: i64,
    after: Option<ReadPosition>,
}

/// What is held, by lane.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holds {
    lanes: HashMap<Lane, Hold>,
    /// From which id on each lane is held, by its name.
    json: Map<String, Value>,
}

impl Holds {
    /// Begins with what is stored.
    pub(crate) fn new(stored: &[Held]) -> Self {
        let mut holds = Self::default();
        for held in stored {
            holds.hold(held);
        }
        holds
    }

    /// Adds a lane, or lowers where it begins.
    pub(crate) fn hold(&mut self, held: &Held) {
        // Without a position that can be read nothing is known, and rows may be published again.
        let after = held.after.as_ref().and_then(|after| ReadPosition::from_position(after.as_str()).ok());
        let known = self.lanes.get(&held.lane).map_or(held.from_id, |known| known.from_id);
        let from_id = known.min(held.from_id);
        self.json.insert(name(&held.lane), from_id.into());
        self.lanes.insert(held.lane.clone(), Hold { from_id, after });
    }

    /// Removes a lane.
    pub(crate) fn free(&mut self, lane: &Lane) {
        self.lanes.remove(lane);
        self.json.remove(&name(lane));
    }

    /// From which id on a lane is held, if it is.
    pub(crate) fn held_from(&self, lane: &Lane) -> Option<i64> {
        self.lanes.get(lane).map(|held| held.from_id)
    }

    /// The position that tells which rows of a held lane were published before it was held, if it is known.
    pub(crate) fn held_after(&self, lane: &Lane) -> Option<&ReadPosition> {
        self.lanes.get(lane).and_then(|held| held.after.as_ref())
    }

    /// The lowest id that is held of any lane.
    pub(crate) fn lowest(&self) -> Option<i64> {
        self.lanes.values().map(|held| held.from_id).min()
    }

    /// The names of the lanes, each with the id from which on it is held; nothing when nothing is held.
    pub(crate) fn to_json(&self) -> Option<Value> {
        (!self.json.is_empty()).then(|| Value::Object(self.json.clone()))
    }

    /// Whether statements that read leave the rows of held lanes out; where they do not, [`leave_out`](Self::leave_out)
    /// does.
    pub(crate) fn are_told(&self) -> bool {
        self.lanes.len() <= TOLD_LANES
    }

    /// What a statement that reads is told of the lanes whose rows it leaves out, but for `except`, which is being
    /// released.
    pub(crate) fn to_leave_out(&self, except: Option<&Lane>) -> Option<Value> {
        if !self.are_told() {
            return None;
        }
        let mut json = self.json.clone();
        if let Some(lane) = except {
            json.remove(&name(lane));
        }
        (!json.is_empty()).then_some(Value::Object(json))
    }

    /// Whether the row of this id is left to a held lane, its topic's or its own, other than `except`.
    pub(crate) fn leave_out(&self, id: i64, topic: &Lane, lane: Option<&Lane>, except: Option<&Lane>) -> bool {
        let mut lanes = [Some(topic), lane].into_iter().flatten().filter(|lane| except != Some(*lane));
        lanes.any(|lane| self.held_from(lane).is_some_and(|from_id| id >= from_id))
    }

    /// The names of the lanes, each with all that is known of where its rest begins; nothing when nothing is held.
    pub(crate) fn to_told_json(&self) -> Option<Value> {
        let told = |(lane, hold): (&Lane, &Hold)| {
            let frozen = hold.after.as_ref().and_then(|at| at.frozen.as_ref());
            let told = json!({
                "from": hold.from_id,
                "prev": hold.after.as_ref().map(|at| at.prev.shown()),
                "cur": frozen.map(|frozen| frozen.cur.to_string()),
                "last": frozen.map(|frozen| frozen.last),
            });
            (name(lane), told)
        };
        (!self.lanes.is_empty()).then(|| Value::Object(self.lanes.iter().map(told).collect()))
    }
}

/// A name for each lane, as [`Columns::lane`] puts it together in SQL; that of a topic is the topic's. Topics hold neither
/// blanks nor colons.
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
        Held { lane, from_id, after: None, cause: HoldCause::MissingTopic, since: DateTime::UNIX_EPOCH }
    }

    #[test]
    fn holding_again_only_lowers_where_a_lane_begins() {
        let lane = Lane::topic_of("a");
        let mut holds = Holds::new(&[held(lane.clone(), 7)]);
        holds.hold(&held(lane.clone(), 9));
        assert_eq!(holds.held_from(&lane), Some(7));
        holds.hold(&held(lane.clone(), 3));
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
        assert_eq!(holds.to_leave_out(Some(&topic)), Some(serde_json::json!({"a 1": 2, "a:1": 1})));
        assert_eq!(holds.lowest(), Some(1));
    }
}
