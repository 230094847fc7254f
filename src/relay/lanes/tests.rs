//! What a held lane goes through.

use super::*;
use futures_util::FutureExt;
use uuid::Uuid;

const CAUSE: HoldCause = HoldCause::MissingTopic;

fn record(id: i64, topic: &str, key: &str) -> Record {
    Record {
        id,
        event_id: Uuid::nil(),
        topic: topic.into(),
        key: Some(key.to_owned()),
        payload: None,
        headers: Vec::new(),
        partition: None,
        created_at: Utc::now(),
    }
}

fn before(batch: u64) -> Before {
    Before { batch, position: Position::new(format!("before {batch}")) }
}

fn kept_back(lanes: &mut HeldLaneStates, records: &[Record]) -> Vec<i64> {
    let mut left = records.to_vec();
    lanes.keep_back(1, &mut left, &mut Vec::new());
    let kept = |record: &&Record| !left.iter().any(|other| other.id == record.id);
    records.iter().filter(kept).map(|record| record.id).collect()
}

#[test]
fn a_held_topic_keeps_back_its_records_and_no_others() {
    let mut lanes = HeldLaneStates::default();
    assert!(lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(1)));
    assert!(!lanes.hold(Lane::topic_of("a"), 7, CAUSE, &before(1)), "it was held before");
    let records = [record(6, "a", "k"), record(7, "b", "k"), record(8, "a", "j")];
    assert_eq!(kept_back(&mut lanes, &records), [6, 8]);
}

#[test]
fn a_held_key_keeps_back_its_own_records_only() {
    let mut lanes = HeldLaneStates::default();
    lanes.hold(record(5, "a", "k").lane().expect("a lane"), 5, CAUSE, &before(1));
    let records = [record(6, "a", "k"), record(7, "a", "j"), record(8, "b", "k")];
    assert_eq!(kept_back(&mut lanes, &records), [6]);
}

#[test]
fn a_late_record_of_a_held_lane_lowers_where_its_release_begins() {
    let mut lanes = HeldLaneStates::default();
    lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(1));
    lanes.take_commands();
    assert_eq!(kept_back(&mut lanes, &[record(3, "a", "k")]), [3]);
    assert_eq!(lanes.held()[0].from_id, 3);
    let (told, _) = lanes.take_commands();
    assert!(matches!(&told[0], Command::Hold(held) if held.from_id == 3), "{told:?}");
}

#[test]
fn a_lane_that_waits_or_waits_again_is_news() {
    let mut lanes = HeldLaneStates::default();
    let (lane, news) = (Lane::topic_of("a"), lanes.news());
    let is_news = || news.notified().now_or_never().is_some();
    assert!(!is_news());
    lanes.hold(lane.clone(), 5, CAUSE, &before(1));
    assert!(is_news());
    lanes.release(&lane);
    assert!(!is_news() && lanes.waiting().next().is_none());
    kept_back(&mut lanes, &[record(3, "a", "k")]);
    assert!(is_news() && lanes.waiting().map(|held| &held.lane).eq([&lane]));
}

#[test]
fn a_released_lane_flows_once_opened_and_is_stored_until_closed() {
    let mut lanes = HeldLaneStates::default();
    let lane = Lane::topic_of("a");
    lanes.hold(lane.clone(), 5, CAUSE, &before(1));
    lanes.release(&lane);
    assert_eq!(kept_back(&mut lanes, &[record(9, "a", "k")]), [9], "read before the release began");
    assert!(lanes.waiting().next().is_none());
    let (_, heard) = lanes.take_commands();
    lanes.open(&lane, heard);
    assert!(kept_back(&mut lanes, &[record(5, "a", "k")]).is_empty());
    assert_eq!(lanes.held().len(), 1, "a crash now must release it again");
    lanes.close(&lane, heard);
    assert!(lanes.held().is_empty());
}

#[test]
fn a_lane_held_again_during_its_release_stays_held_when_the_old_release_closes() {
    let mut lanes = HeldLaneStates::default();
    let lane = Lane::topic_of("a");
    lanes.hold(lane.clone(), 5, CAUSE, &before(1));
    lanes.release(&lane);
    let (_, heard) = lanes.take_commands();
    lanes.open(&lane, heard);
    assert!(lanes.hold(lane.clone(), 8, CAUSE, &before(1)));
    lanes.close(&lane, heard);
    assert_eq!(lanes.held()[0].from_id, 5, "what was left out before may be unsettled still");
    assert_eq!(kept_back(&mut lanes, &[record(9, "a", "k")]), [9]);
}

#[test]
fn the_end_of_a_release_that_was_broken_off_does_not_end_a_later_one() {
    let mut lanes = HeldLaneStates::default();
    let lane = Lane::topic_of("a");
    lanes.hold(lane.clone(), 5, CAUSE, &before(1));
    lanes.release(&lane);
    let (_, first) = lanes.take_commands();
    lanes.hold(lane.clone(), 5, CAUSE, &before(1));
    lanes.release(&lane);
    lanes.open(&lane, first);
    lanes.close(&lane, first);
    assert_eq!(lanes.held().len(), 1, "nothing of the second release has come yet");
    let (_, second) = lanes.take_commands();
    lanes.open(&lane, second);
    lanes.close(&lane, second);
    assert!(lanes.held().is_empty());
}

fn after(lanes: &HeldLaneStates, lane: &Lane) -> Option<Position> {
    lanes.held().into_iter().find(|held| held.lane == *lane).and_then(|held| held.after)
}

#[test]
fn a_lane_held_anew_keeps_the_position_before_it_was_held_first() {
    let mut lanes = HeldLaneStates::default();
    let lane = Lane::topic_of("a");
    lanes.hold(lane.clone(), 5, CAUSE, &before(3));
    lanes.hold(lane.clone(), 4, CAUSE, &before(8));
    lanes.release(&lane);
    let (_, heard) = lanes.take_commands();
    lanes.open(&lane, heard);
    lanes.hold(lane.clone(), 7, CAUSE, &before(9));
    assert_eq!(after(&lanes, &lane), Some(before(3).position));
}

#[test]
fn what_was_under_way_when_its_lane_was_held_is_no_longer_called_read() {
    let mut lanes = HeldLaneStates::default();
    let key = record(7, "a", "k").lane().expect("a lane");
    lanes.hold(key.clone(), 7, HoldCause::Rejected, &before(8));
    lanes.hold_topic_of(&Row::from(record(5, "a", "k")), CAUSE, &before(6));
    assert_eq!(after(&lanes, &key), Some(before(6).position));
    lanes.hold(key.clone(), 4, HoldCause::Rejected, &before(5));
    assert_eq!(after(&lanes, &key), Some(before(5).position));
    let told = lanes.take_commands().0.into_iter().rev();
    let last = told.filter_map(|command| if let Command::Hold(held) = command { Some(held) } else { None });
    assert_eq!(last.into_iter().find(|held| held.lane == key).and_then(|held| held.after), Some(before(5).position));
}

#[test]
fn a_key_of_a_held_topic_begins_where_the_topic_does() {
    let mut lanes = HeldLaneStates::default();
    let key = record(7, "a", "k").lane().expect("a lane");
    lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(3));
    lanes.hold(key.clone(), 7, HoldCause::Rejected, &before(8));
    assert_eq!(after(&lanes, &key), Some(before(3).position), "what comes out of line is read at any later one");
}

#[test]
fn what_waits_for_its_topic_is_in_the_care_of_its_own_lane() {
    let mut lanes = HeldLaneStates::default();
    let (topic, key) = (Lane::topic_of("a"), record(7, "a", "k").lane().expect("a lane"));
    lanes.hold(key.clone(), 4, HoldCause::Rejected, &before(3));
    let since = lanes.held()[0].since;
    lanes.release(&key);
    let (_, heard) = lanes.take_commands();
    lanes.open(&key, heard);
    lanes.hold_topic_of(&Row::from(record(4, "a", "k")), CAUSE, &before(8));
    assert_eq!(kept_back(&mut lanes, &[record(6, "a", "k"), record(3, "a", "k")]), [6, 3]);
    let held: Vec<(Lane, i64)> = lanes.held().into_iter().map(|held| (held.lane, held.from_id)).collect();
    assert_eq!(held, [(topic, 4), (key.clone(), 3)]);
    lanes.close(&key, heard);
    let requested = lanes.held()[1].clone();
    assert!(requested.since == since && lanes.may_release(&requested), "who asked is heard again");
}

#[test]
fn a_checkpoint_tells_of_lanes_as_they_are_there() {
    let mut lanes = HeldLaneStates::default();
    let settled = |number: u64| Frontier::after(number, Position::new(format!("after {number}")));
    lanes.hold(Lane::topic_of("a"), 5, CAUSE, &before(3));
    assert_eq!(lanes.stored(&settled(1)), [], "it flows there still");
    let stored = |settled: &Frontier| lanes.stored(settled)[0].after.clone();
    assert_eq!(stored(&settled(2)), Some(settled(2).position));
    assert_eq!(stored(&settled(3)), Some(before(3).position));
    // A position that stands still is before rows that cannot be recorded, however many batches came after them.
    assert_eq!(lanes.stored(&settled(1).still(7)), []);
    assert_eq!(stored(&settled(2).still(7)), Some(settled(2).position));
}
