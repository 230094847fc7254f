//! Held lanes are left out, remembered, and hold up no other lane.

use crate::support::operator;
use chrono::TimeDelta;
use outboxd::Message;
use outboxd::outbox::{Held, Lane, Settle};

use crate::contract::session::{ALL, Session, events, held, key_lane, lead, settle};
use crate::contract::{Implementation, event_ids, message, messages, write, write_all};

fn at_partition(topic: &str, key: &str, partition: i32) -> Message {
    Message::to(topic).key(key).partition(partition).text("{}").expect("a valid message")
}

pub(crate) async fn a_held_lane_is_left_out_while_others_flow(implementation: &dyn Implementation) {
    let lanes = [
        Lane::topic_of("held"),
        key_lane("held", "a"),
        key_lane("held", r#"it's \' "$1" ☃"#),
        Lane::from_columns("held", None, Some(3)),
    ];
    for lane in lanes {
        let outbox = implementation.outbox(Settle::Mark).await;
        let mut session = Session::open(&outbox.store()).await;
        session.reader.hold(held(lane.clone(), 0));
        let partition = lane.partition();
        let key = lane.key().unwrap_or("a");
        let left_out = partition.map_or_else(|| message("held", key), |partition| at_partition("held", key, partition));
        let others = [message("flowing", "a"), message("flowing", "b")];
        write_all(&*outbox, &[left_out.clone(), others[0].clone(), left_out_again(&left_out), others[1].clone()]).await;
        assert_eq!(events(&session.read(1).await), event_ids(&others), "{lane}");
        assert!(session.opened.is_empty() && session.closed.is_empty());
    }
}

/// The same lane, another event.
fn left_out_again(message: &Message) -> Message {
    let draft = Message::to(message.topic()).key(message.key().unwrap_or_default());
    let draft = if let Some(partition) = message.partition() { draft.partition(partition) } else { draft };
    draft.text("{}").expect("a valid message")
}

pub(crate) async fn a_lane_is_its_key_or_its_partition_and_not_both(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    session.reader.hold(held(key_lane("orders", "a"), 0));
    session.reader.hold(held(Lane::from_columns("orders", None, Some(2)), 0));
    let keyless = Message::to("orders").text("{}").expect("a valid message");
    let flowing = [message("orders", "b"), at_partition("orders", "a", 1), keyless, message("others", "a")];
    let left_out = [message("orders", "a"), at_partition("orders", "a", 2), at_partition("orders", "b", 2)];
    write_all(&*outbox, &flowing).await;
    write_all(&*outbox, &left_out).await;
    assert_eq!(events(&session.read(ALL).await), event_ids(&flowing));
}

pub(crate) async fn rows_below_a_hold_come_nonetheless(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let written = messages(6, "orders", "a");
    write_all(&*outbox, &written).await;
    let third = outbox.rows().await[2].id;
    let mut session = Session::open(&outbox.store()).await;
    session.reader.hold(held(key_lane("orders", "a"), third));
    assert_eq!(events(&session.read(1).await), event_ids(&written[..2]));
}

pub(crate) async fn held_lanes_are_stored_with_the_checkpoint(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let mut session = Session::open(&store).await;
    assert_eq!(session.reader.held(), []);
    session.read(ALL).await;
    let mut lanes = vec![
        held(Lane::topic_of("orders"), 5),
        held(key_lane("orders", "it's ☃"), 3),
        held(key_lane("orders", ""), 4),
        held(Lane::from_columns("orders", None, Some(0)), 7),
    ];
    session.save(term, lanes.clone()).await;
    assert_same(Session::open(&outbox.store()).await.reader.held(), &lanes);
    lanes[0].from_id = 6;
    lanes.remove(2);
    session.save(term, lanes.clone()).await;
    assert_same(Session::open(&outbox.store()).await.reader.held(), &lanes);
    session.save(term, Vec::new()).await;
    assert_eq!(Session::open(&outbox.store()).await.reader.held(), []);
}

fn assert_same(stored: &[outboxd::outbox::Held], expected: &[outboxd::outbox::Held]) {
    let by_lane = |held: &[outboxd::outbox::Held]| {
        let mut held = held.to_vec();
        held.sort_by(|a, b| a.lane.cmp(&b.lane));
        held
    };
    assert_eq!(by_lane(stored), by_lane(expected));
}

pub(crate) async fn a_stored_hold_is_left_out_by_the_next_session(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        write_all(&*outbox, &[message("held", "a"), message("flowing", "a")]).await;
        let from_id = outbox.rows().await[0].id;
        let mut session = Session::open(&store).await;
        let lane = held(Lane::topic_of("held"), from_id);
        session.reader.hold(lane.clone());
        settle(&store, &session.read(ALL).await).await;
        session.save(term, vec![lane]).await;
        let new = message("flowing", "a");
        write_all(&*outbox, &[message("held", "b"), new.clone()]).await;
        let mut next = Session::open(&outbox.store()).await;
        assert_eq!(events(&next.read(1).await), [new.event_id()], "{mode}");
        write(&*outbox, &message("held", "a")).await;
        assert_eq!(next.read(1).await, [], "{mode}");
    }
}

pub(crate) async fn a_request_for_release_stays_until_it_was_granted_and_the_lane_is_held_anew(
    implementation: &dyn Implementation,
) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let (a, b) = (key_lane("orders", "a"), Lane::topic_of("payments"));
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    session.save(term, vec![held(a.clone(), 3), held(b.clone(), 4)]).await;
    let unheld = key_lane("orders", "b");
    assert_eq!(store.request_release(&[a.clone(), unheld], &operator::intent()).await.expect("noted"), 1);

    // A checkpoint that holds the lane as before, only from lower on, keeps the request.
    session.save(term, vec![held(a.clone(), 2), held(b.clone(), 4)]).await;
    assert_eq!(store.release_requests().await.expect("requests"), [held(a.clone(), 2)]);
    let listed = store.held_lanes().await.expect("lanes");
    let requested: Vec<bool> = listed.iter().map(|lane| lane.release_requested).collect();
    assert_eq!((listed.len(), requested), (2, vec![true, false]));

    // Held anew before it was granted, as another one may have been, it keeps the request.
    let anew = |seconds| Held { since: held(a.clone(), 2).since + TimeDelta::seconds(seconds), ..held(a.clone(), 2) };
    store.grant_releases(std::slice::from_ref(&b)).await.expect("noted");
    session.save(term, vec![anew(1), held(b.clone(), 4)]).await;
    assert_eq!(store.release_requests().await.expect("requests"), [anew(1)]);

    // Granted, it stays until that shows: a relay that ends meanwhile leaves it to the next one.
    store.grant_releases(std::slice::from_ref(&a)).await.expect("noted");
    session.save(term, vec![Held { from_id: 1, ..anew(1) }, held(b.clone(), 4)]).await;
    assert_eq!(store.release_requests().await.expect("requests"), [Held { from_id: 1, ..anew(1) }]);
    session.save(term, vec![anew(2), held(b, 4)]).await;
    assert_eq!(store.release_requests().await.expect("requests"), []);
}

/// An operator asks again while the lane is being held anew, of which the store does not know yet.
pub(crate) async fn what_is_asked_for_after_a_release_was_granted_is_another_request(
    implementation: &dyn Implementation,
) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let (_leader, term) = lead(&store).await;
    let lanes = [
        held(key_lane("orders", "a"), 3),
        held(Lane::topic_of("payments"), 4),
        held(Lane::from_columns("orders", None, Some(0)), 7),
    ];
    let names: Vec<Lane> = lanes.iter().map(|held| held.lane.clone()).collect();
    let anew =
        |seconds| lanes.clone().map(|held| Held { since: held.since + TimeDelta::seconds(seconds), ..held }).to_vec();
    let mut session = Session::open(&store).await;
    session.read(ALL).await;
    session.save(term, lanes.to_vec()).await;
    for seconds in 1..3 {
        store.request_release(&names, &operator::intent()).await.expect("noted");
        store.grant_releases(&names).await.expect("noted");
        assert_eq!(store.request_release(&names, &operator::intent()).await.expect("noted"), 3);
        session.save(term, anew(2 * seconds)).await;
        assert_same(&store.release_requests().await.expect("requests"), &anew(2 * seconds));
        // The other one is granted, too, and in vain.
        store.grant_releases(&names).await.expect("noted");
        session.save(term, anew(2 * seconds + 1)).await;
        assert_eq!(store.release_requests().await.expect("requests"), []);
    }
    // So it is where what is stored of the lanes was deleted by hand.
    store.request_release(&names, &operator::intent()).await.expect("noted");
    store.grant_releases(&names).await.expect("noted");
    outbox.delete_held().await;
    session.save(term, anew(9)).await;
    assert_same(&store.release_requests().await.expect("requests"), &anew(9));
}

pub(crate) async fn a_lane_deleted_by_hand_is_kept_and_its_release_asked_for(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut lanes = vec![
            held(Lane::topic_of("orders"), 5),
            held(key_lane("orders", "it's ☃"), 3),
            held(Lane::from_columns("orders", None, Some(0)), 7),
        ];
        let mut session = Session::open(&store).await;
        session.read(ALL).await;
        session.save(term, lanes.clone()).await;
        outbox.delete_held().await;
        assert_same(Session::open(&outbox.store()).await.reader.held(), &lanes);
        assert_same(&store.release_requests().await.expect("requests"), &lanes);

        // What the leader stores next forgets a lane of which all is settled, and no request.
        lanes[0].from_id = 4;
        lanes.pop();
        session.save(term, lanes.clone()).await;
        assert_same(&store.release_requests().await.expect("requests"), &lanes);
        session.save(term, Vec::new()).await;
        assert_eq!(store.held_lanes().await.expect("lanes"), [], "{mode}");
    }
}
