//! A release: what was left out comes first, in id order, and each row once.

use outboxd::outbox::{Held, Lane, Record, Settle};
use uuid::Uuid;

use crate::contract::purging::{NO_TIME, purge};
use crate::contract::session::{ALL, Session, events, held, key_lane, lead, settle};
use crate::contract::{Implementation, event_ids, message, messages, write, write_all};

/// Reads until this lane's release is complete, and on until nothing is new. Nothing of the lane may come before
/// the batch that says `opened`.
async fn read_released(session: &mut Session, lane: &Lane, at_a_time: usize) -> Vec<Record> {
    let mut records = Vec::new();
    loop {
        let batch = session.next(at_a_time).await;
        if !session.opened.contains(lane) {
            let early = batch.records.iter().find(|record| is_of(record, lane));
            assert_eq!(early, None, "the lane flows before its release opened");
        }
        let is_closed = session.closed.contains(lane);
        assert!(is_closed || batch.more, "a release under way is worth reading on at once");
        let is_over = is_closed && batch.records.is_empty() && !batch.more;
        records.extend(batch.records);
        if is_over {
            return records;
        }
    }
}

fn is_of(record: &Record, lane: &Lane) -> bool {
    match lane {
        Lane::Topic { topic } => record.topic == *topic,
        lane => record.lane().as_ref() == Some(lane),
    }
}

fn of(records: &[Record], lane: &Lane) -> Vec<Uuid> {
    records.iter().filter(|record| is_of(record, lane)).map(|record| record.event_id).collect()
}

pub(crate) async fn what_was_left_out_comes_first_and_in_id_order(implementation: &dyn Implementation) {
    for at_a_time in [1, 3, ALL] {
        let outbox = implementation.outbox(Settle::Mark).await;
        let mut session = Session::open(&outbox.store()).await;
        let lane = Lane::topic_of("held");
        session.reader.hold(held(lane.clone(), 0));
        let mut left_out = messages(7, "held", "a");
        let mut flowing = messages(4, "flowing", "a");
        write_all(&*outbox, &left_out[..4]).await;
        write_all(&*outbox, &flowing).await;
        write_all(&*outbox, &left_out[4..]).await;
        assert_eq!(events(&session.read(2).await), event_ids(&flowing));
        session.reader.release(&lane);
        let (new, other) = (message("held", "a"), message("flowing", "a"));
        write_all(&*outbox, &[new.clone(), other.clone()]).await;
        left_out.push(new);
        flowing.push(other);
        let read = read_released(&mut session, &lane, at_a_time).await;
        assert_eq!(of(&read, &lane), event_ids(&left_out), "{at_a_time} at a time");
        assert_eq!(of(&read, &Lane::topic_of("flowing")), event_ids(&flowing[4..]));
        assert_eq!((&session.opened[..], &session.closed[..]), (&[lane.clone()][..], &[lane.clone()][..]));
        let last = message("held", "a");
        write(&*outbox, &last).await;
        assert_eq!(events(&session.read(ALL).await), [last.event_id()], "the lane flows again");
    }
}

pub(crate) async fn what_was_in_flight_at_the_hold_comes_again(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let mut session = Session::open(&store).await;
    let lane = key_lane("orders", "a");
    let written = messages(6, "orders", "a");
    write_all(&*outbox, &written).await;
    let read = session.some(4).await.records;
    settle(&store, &read[..1]).await;
    session.reader.hold(held(lane.clone(), read[1].id));
    assert_eq!(session.read(ALL).await, []);
    session.reader.release(&lane);
    let again = read_released(&mut session, &lane, 2).await;
    assert_eq!(events(&again), event_ids(&written[1..]), "what was settled does not come again");
}

pub(crate) async fn a_stored_hold_is_released_by_a_later_session(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let lane = Lane::topic_of("held");
        let mut session = Session::open(&store).await;
        session.reader.hold(held(lane.clone(), 0));
        let (left_out, flowing) = (messages(5, "held", "a"), messages(5, "flowing", "a"));
        for (one, other) in left_out.iter().zip(&flowing) {
            write_all(&*outbox, &[one.clone(), other.clone()]).await;
        }
        settle(&store, &session.read(2).await).await;
        session.save(term, vec![held(lane.clone(), 0)]).await;
        let mut next = Session::open(&outbox.store()).await;
        assert_eq!(next.read(ALL).await, [], "{mode}");
        next.reader.release(&lane);
        let read = read_released(&mut next, &lane, 2).await;
        assert_eq!(of(&read, &lane), event_ids(&left_out), "{mode}");
        settle(&store, &read).await;
        next.save(term, Vec::new()).await;
        let mut last = Session::open(&outbox.store()).await;
        assert_eq!(last.read(ALL).await, [], "{mode}: the release is stored with the checkpoint");
    }
}

pub(crate) async fn a_hold_ends_a_release_that_is_under_way(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let store = outbox.store();
    let mut session = Session::open(&store).await;
    let lane = Lane::topic_of("held");
    session.reader.hold(held(lane.clone(), 0));
    let written = messages(6, "held", "a");
    write_all(&*outbox, &written).await;
    assert_eq!(session.read(ALL).await, []);
    session.reader.release(&lane);
    let mut came = Vec::new();
    while came.is_empty() {
        came = session.next(2).await.records;
    }
    settle(&store, &came[..1]).await;
    session.reader.hold(held(lane.clone(), came[1].id));
    assert_eq!(session.read(ALL).await, [], "the lane is held again");
    assert!(!session.closed.contains(&lane), "and its release is not complete");
    session.reader.release(&lane);
    let rest = read_released(&mut session, &lane, 2).await;
    assert_eq!(events(&rest), event_ids(&written[1..]));
}

pub(crate) async fn holding_again_lowers_where_it_begins(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let lane = key_lane("orders", "a");
    let written = messages(6, "orders", "a");
    write_all(&*outbox, &written).await;
    let ids: Vec<i64> = session.some(4).await.records.iter().map(|record| record.id).collect();
    session.reader.hold(held(lane.clone(), ids[3]));
    session.reader.hold(held(lane.clone(), ids[1]));
    session.reader.hold(held(lane.clone(), ids[2]));
    assert_eq!(session.read(ALL).await, []);
    session.reader.release(&lane);
    assert_eq!(events(&read_released(&mut session, &lane, ALL).await), event_ids(&written[1..]));
}

pub(crate) async fn a_topic_leaves_its_held_keys_behind(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let (topic, key) = (Lane::topic_of("held"), key_lane("held", "a"));
    session.reader.hold(held(topic.clone(), 0));
    session.reader.hold(held(key.clone(), 0));
    let (of_key, others) = (messages(3, "held", "a"), messages(3, "held", "b"));
    write_all(&*outbox, &[of_key.clone(), others.clone()].concat()).await;
    assert_eq!(session.read(1).await, []);
    session.reader.release(&topic);
    assert_eq!(events(&read_released(&mut session, &topic, 1).await), event_ids(&others));
    session.reader.release(&key);
    assert_eq!(events(&read_released(&mut session, &key, 1).await), event_ids(&of_key));
}

pub(crate) async fn what_waits_for_its_topic_again_comes_with_its_held_key(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let (topic, key) = (Lane::topic_of("held"), key_lane("held", "a"));
    session.reader.hold(held(key.clone(), 0));
    let (of_key, others) = (messages(3, "held", "a"), messages(3, "held", "b"));
    write_all(&*outbox, &of_key).await;
    assert_eq!(session.read(1).await, []);
    session.reader.release(&key);
    let came = session.some(1).await.records;
    assert_eq!(events(&came), event_ids(&of_key[..1]), "the release has begun");
    // The first record turns out to wait for its topic, so that its key waits again.
    session.reader.hold(held(topic.clone(), came[0].id));
    session.reader.hold(held(key.clone(), came[0].id));
    write_all(&*outbox, &others).await;
    assert_eq!(session.read(1).await, []);
    session.reader.release(&topic);
    assert_eq!(events(&read_released(&mut session, &topic, 1).await), event_ids(&others));
    session.reader.release(&key);
    assert_eq!(events(&read_released(&mut session, &key, 1).await), event_ids(&of_key));
}

pub(crate) async fn several_releases_bring_each_row_once(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let lanes = [Lane::topic_of("held"), key_lane("held", "a"), Lane::topic_of("other")];
    for lane in &lanes {
        session.reader.hold(held(lane.clone(), 0));
    }
    let written = [messages(3, "held", "a"), messages(3, "held", "b"), messages(3, "other", "a")].concat();
    write_all(&*outbox, &written).await;
    assert_eq!(session.read(1).await, []);
    for lane in &lanes {
        session.reader.release(lane);
    }
    let mut came = Vec::new();
    while session.closed.len() < lanes.len() {
        came.extend(session.next(2).await.records);
    }
    came.extend(session.read(2).await);
    for (key, topic) in [("a", "held"), ("b", "held"), ("a", "other")] {
        let lane = key_lane(topic, key);
        let expected = written.iter().filter(|message| (message.topic(), message.key()) == (topic, Some(key)));
        assert_eq!(of(&came, &lane), expected.map(|message| message.event_id()).collect::<Vec<_>>());
    }
    assert_eq!(came.len(), written.len());
}

pub(crate) async fn a_release_brings_late_rows_too(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let lane = Lane::topic_of("held");
    session.reader.hold(held(lane.clone(), 0));
    let (during_hold, during_release) = (message("held", "late"), message("held", "later"));
    let (mut one, mut other) = (outbox.begin().await, outbox.begin().await);
    one.enqueue(&during_hold).await;
    other.enqueue(&during_release).await;
    let written = messages(4, "held", "a");
    write_all(&*outbox, &written).await;
    assert_eq!(session.read(1).await, []);
    one.commit().await;
    assert_eq!(session.read(1).await, []);
    session.reader.release(&lane);
    let mut came = session.some(1).await.records;
    other.commit().await;
    came.extend(read_released(&mut session, &lane, 1).await);
    let mut came = events(&came);
    let mut expected = event_ids(&[written, vec![during_hold, during_release]].concat());
    came.sort();
    expected.sort();
    assert_eq!(came, expected, "each once");
}

pub(crate) async fn a_release_of_nothing_opens_and_closes(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let lane = key_lane("orders", "a");
    session.reader.hold(held(lane.clone(), 0));
    session.read(ALL).await;
    session.reader.release(&lane);
    assert_eq!(read_released(&mut session, &lane, 1).await, []);
    assert_eq!(session.opened, session.closed);
}

pub(crate) async fn a_key_in_a_held_topic_is_released_after_the_topic(implementation: &dyn Implementation) {
    let outbox = implementation.outbox(Settle::Mark).await;
    let mut session = Session::open(&outbox.store()).await;
    let (topic, key) = (Lane::topic_of("held"), key_lane("held", "a"));
    let (of_key, others) = (messages(3, "held", "a"), messages(3, "held", "b"));
    write_all(&*outbox, &of_key).await;
    session.reader.hold(held(key.clone(), 0));
    assert_eq!(session.read(ALL).await, []);
    // From here on rows of the topic wait. Those of the key were read, so that they wait for the key.
    let since = session.reader.position();
    session.reader.hold(Held { after: Some(since), ..held(topic.clone(), 0) });
    write_all(&*outbox, &others).await;
    session.reader.release(&key);
    assert_eq!(session.read(1).await, [], "and there is nothing to read on for");
    assert!(session.opened.is_empty() && session.closed.is_empty(), "the topic is held");
    session.reader.release(&topic);
    let mut came = Vec::new();
    while session.closed.len() < 2 {
        came.extend(session.next(2).await.records);
    }
    assert_eq!(session.closed, [topic, key]);
    assert_eq!(events(&came), event_ids(&[others, of_key].concat()));
}

pub(crate) async fn what_was_delivered_before_the_hold_never_comes_again(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        for lane in [Lane::topic_of("held"), key_lane("held", "a")] {
            let outbox = implementation.outbox(mode).await;
            let store = outbox.store();
            let (_leader, term) = lead(&store).await;
            let mut session = Session::open(&store).await;
            write_all(&*outbox, &messages(3, "held", "a")).await;
            let delivered = session.read(2).await;
            settle(&store, &delivered).await;
            let mut held = held(lane.clone(), delivered[0].id);
            held.after = Some(session.reader.position());
            let (left_out, flowing) = (messages(4, "held", "a"), message("flowing", "a"));
            write_all(&*outbox, &left_out).await;
            write(&*outbox, &flowing).await;
            session.reader.hold(held.clone());
            session.reader.hold(held.clone());
            let came = session.read(2).await;
            assert_eq!(events(&came), [flowing.event_id()], "{mode}, {lane}");
            settle(&store, &came).await;
            session.save(term, vec![held]).await;

            let backlog = store.backlog(100).await.expect("a backlog");
            let late = store.bring_back_late().await.expect("a look");
            assert_eq!((backlog.unsent, late), (4, 0), "{mode}, {lane}: {backlog:?}");
            let gone = if mode == Settle::Delete { 0 } else { 4 };
            let mut removed = 0;
            while removed < gone {
                removed += purge(&store, term, NO_TIME).await;
            }
            assert_eq!(outbox.rows().await.len(), 4, "{mode}, {lane}: what was delivered is settled");

            let mut next = Session::open(&outbox.store()).await;
            next.reader.release(&lane);
            assert_eq!(events(&read_released(&mut next, &lane, 3).await), event_ids(&left_out), "{mode}, {lane}");
            session.reader.release(&lane);
            assert_eq!(events(&read_released(&mut session, &lane, 3).await), event_ids(&left_out), "{mode}, {lane}");
        }
    }
}

/// The release begins while the window is open in which a late row, below the hold, and one that followed it are.
pub(crate) async fn a_row_that_commits_late_below_a_hold_comes_before_those_that_follow_it(
    implementation: &dyn Implementation,
) {
    for (at_a_time, flowing) in [(3, 20), (10_000, 12_000)] {
        for lane in [Lane::topic_of("held"), Lane::from_columns("held", None, Some(3))] {
            let of = |key: &str| {
                let draft = outboxd::Message::to("held").key(key);
                let draft = if let Some(partition) = lane.partition() { draft.partition(partition) } else { draft };
                draft.text("{}").expect("a valid message")
            };
            let outbox = implementation.outbox(Settle::Mark).await;
            let (mut before, mut late) = (outbox.begin().await, outbox.begin().await);
            before.enqueue_many(&messages(flowing, "flowing", "a")).await;
            let (held_first, first, second) = (of("a"), of("b"), of("b"));
            late.enqueue(&first).await;
            write(&*outbox, &held_first).await;
            let from_id = outbox.rows().await[0].id;
            let mut session = Session::open(&outbox.store()).await;
            session.reader.hold(held(lane.clone(), from_id));
            assert_eq!(session.read(at_a_time).await, []);
            before.commit().await;
            late.commit().await;
            write(&*outbox, &second).await;

            let page = session.some(at_a_time).await;
            assert_eq!(page.records.len(), at_a_time, "the window is larger than that");
            session.reader.release(&lane);
            let read = read_released(&mut session, &lane, at_a_time).await;
            let b: Vec<Uuid> =
                read.iter().filter(|record| record.key.as_deref() == Some("b")).map(|r| r.event_id).collect();
            assert_eq!(b, event_ids(&[first, second]), "{at_a_time} at a time, {lane}");
            assert_eq!(read.len() + page.records.len(), flowing + 3, "each once");
        }
    }
}

pub(crate) async fn a_late_row_is_held_without_those_delivered_before_it(implementation: &dyn Implementation) {
    for mode in Settle::ALL {
        let outbox = implementation.outbox(mode).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let (late, later) = (message("held", "late"), message("held", "later"));
        let (mut one, mut other) = (outbox.begin().await, outbox.begin().await);
        other.enqueue(&later).await;
        one.enqueue(&late).await;
        write_all(&*outbox, &messages(3, "held", "a")).await;
        let mut session = Session::open(&store).await;
        settle(&store, &session.read(2).await).await;
        let after = Some(session.reader.position());
        one.commit().await;
        let waits = session.some(ALL).await.records;
        assert_eq!(events(&waits), [late.event_id()], "{mode}");
        let held = Held { after, ..held(Lane::topic_of("held"), waits[0].id) };
        session.reader.hold(held.clone());
        session.save(term, vec![held.clone()]).await;

        // One that commits after the checkpoint, below the hold, is neither settled nor forgotten.
        other.commit().await;
        while mode != Settle::Delete && outbox.rows().await.len() > 2 {
            purge(&store, term, NO_TIME).await;
        }
        purge(&store, term, NO_TIME).await;
        assert_eq!(outbox.rows().await.len(), 2, "{mode}");
        assert_eq!(store.backlog(100).await.expect("a backlog").unsent, 2, "{mode}");
        let mut next = Session::open(&outbox.store()).await;
        assert_eq!(events(&next.read(1).await), [later.event_id()], "{mode}");
        next.reader.release(&held.lane);
        assert_eq!(events(&read_released(&mut next, &held.lane, 1).await), [late.event_id()], "{mode}");
    }
}
