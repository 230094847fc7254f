//! Held lanes as conditions in SQL, and which of their rows are left.

use crate::mysql::reading::position::{ReadPosition, is_read};
use crate::mysql::table::Columns;
use crate::outbox::{Held, Lane};

/// What is left of a held lane: its rows from an id on that were not read before it was held.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    pub(crate) from_id: i64,
    after: Option<ReadPosition>,
}

impl Rest {
    /// The rest of a held lane. A position that cannot be read tells nothing, and rows may be published again.
    pub(crate) fn of(held: &Held) -> Self {
        let after = held.after.as_ref().and_then(|after| ReadPosition::parse(after.as_str()).ok());
        Self { from_id: held.from_id, after }
    }

    /// Whether the lane's row of an id is part of it.
    pub(crate) fn contains(&self, id: i64) -> bool {
        id >= self.from_id && !self.after.as_ref().is_some_and(|after| after.contains(id))
    }
}

/// The condition on a row that it is left to one of these lanes; false without any, and never null.
pub(crate) fn covered(held: &[Held], o: &Columns) -> String {
    let lanes: Vec<String> = held.iter().map(|held| is_left(held, o)).collect();
    if lanes.is_empty() { "false".to_owned() } else { format!("({})", lanes.join(" or ")) }
}

fn is_left(held: &Held, o: &Columns) -> String {
    let Rest { from_id, after } = Rest::of(held);
    let (id, of_lane) = (&o.id, of_lane(&held.lane, o));
    match after {
        None => format!("({id} >= {from_id} and {of_lane})"),
        Some(after) => format!("({id} >= {from_id} and {of_lane} and not {})", is_read(Some(&after), id)),
    }
}

/// The condition on a row that it is of a lane; never null. Bytes are compared with bytes: as text "a" and "a " would be the
/// same.
pub(crate) fn of_lane(lane: &Lane, o: &Columns) -> String {
    let Columns { topic, key, partition, .. } = o;
    let its_topic = format!("cast({topic} as binary) <=> {}", bytes(lane.topic()));
    match (lane.key(), lane.partition()) {
        (_, Some(number)) => format!("{its_topic} and {partition} <=> {number}"),
        (Some(name), None) => {
            format!("{its_topic} and {partition} is null and cast({key} as binary) <=> {}", bytes(name))
        }
        (None, None) => its_topic,
    }
}

/// Text as a literal of bytes, which nothing in it can end.
pub(crate) fn bytes(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// Text as a literal of text.
pub(crate) fn text(text: &str) -> String {
    format!("convert({} using utf8mb4)", bytes(text))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::outbox::{HoldCause, Position};

    fn held(lane: Lane, from_id: i64, after: Option<&str>) -> Held {
        let after = after.map(Position::new);
        Held { lane, from_id, after, cause: HoldCause::MissingTopic, since: DateTime::UNIX_EPOCH }
    }

    fn columns() -> Columns {
        Columns::of_dead()
    }

    #[test]
    fn lanes_are_told_in_bytes_and_nothing_breaks_out_of_them() {
        let lanes = [
            held(Lane::topic_of("a"), 3, None),
            held(Lane::from_columns("a", Some("'`"), None), 4, Some(r#"{"last":9,"gaps":"5"}"#)),
            held(Lane::from_columns("a", None, Some(7)), 5, None),
        ];
        let [topic, key, partition] = lanes.clone().map(|held| covered(&[held], &columns()));
        assert_eq!(topic, "((`id` >= 3 and cast(`topic` as binary) <=> x'61'))");
        assert_eq!(
            key,
            "((`id` >= 4 and cast(`topic` as binary) <=> x'61' and `partition` is null and cast(`key` as binary) <=> x'2760' and not (`id` <= 9 and not `id` in (5))))"
        );
        assert_eq!(partition, "((`id` >= 5 and cast(`topic` as binary) <=> x'61' and `partition` <=> 7))");
        assert_eq!(covered(&[], &columns()), "false");
    }

    #[test]
    fn the_rest_of_a_lane_is_what_its_position_does_not_call_read() {
        let held = held(Lane::topic_of("a"), 4, Some(r#"{"last":9,"gaps":"2 3+1"}"#));
        let left = |rest: &Rest| (0..13).filter(|id| rest.contains(*id)).collect::<Vec<_>>();
        assert_eq!(left(&Rest::of(&held)), [5, 6, 10, 11, 12]);
        // A row of the lane that committed late lowers where it begins.
        let lowered = Held { from_id: 2, ..held };
        assert_eq!(left(&Rest::of(&lowered)), [2, 5, 6, 10, 11, 12]);
    }
}
