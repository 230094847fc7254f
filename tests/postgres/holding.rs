//! Held lanes: left out while the others flow, and back in order once released.

use std::sync::Arc;

use chrono::Utc;
use outboxd::contract::Reader;
use outboxd::outbox::{Batch, Held, HoldCause, Lane, Limit, Record};

use super::server::{AMPLE, Outbox, checkpoint, drain, keys, newest, servers};
use super::workload::{self, WRITERS};

fn held(lane: Lane, from_id: i64) -> Held {
    Held { lane, from_id, after: None, cause: HoldCause::MissingTopic, since: Utc::now() }
}

/// Reads until the release of a lane is complete and nothing is left; returns all records.
async fn drain_release(reader: &mut dyn Reader, lane: &Lane, limit: Limit) -> Vec<Record> {
    let (mut records, mut opened, mut closed) = (Vec::new(), 0, 0);
    loop {
        let batch: Batch = reader.fetch(limit).await.unwrap();
        opened += batch.opened.iter().filter(|name| *name == lane).count();
        let released = batch.records.iter().any(|record| record.topic.as_ref() == lane.topic());
        assert!(!released || opened == 1 || lane.key().is_some(), "rows of the lane before it is opened");
        closed += batch.closed.iter().filter(|name| *name == lane).count();
        records.extend(batch.records);
        if !batch.more {
            assert_eq!((opened, closed), (1, 1));
            return records;
        }
    }
}

#[tokio::test]
async fn a_held_lane_is_left_out_from_its_id_on_and_comes_back_in_order() {
    for url in servers() {
        let outbox = Outbox::new(&url, "held").await;
        let mut conn = outbox.connect().await;
        let lane = Lane::from_columns("t", Some("a"), None);
        let mut reader = outbox.open().await;
        for key in ["a", "b", "a", "a", "b"] {
            outbox.write(&mut conn, "t", key).await;
        }
        reader.hold(held(lane.clone(), 3));
        let read = drain(&mut *reader, AMPLE).await;
        assert_eq!(read.iter().map(|record| record.id).collect::<Vec<_>>(), [1, 2, 5]);
        reader.release(&lane);
        outbox.write(&mut conn, "t", "a").await;
        let read = drain_release(&mut *reader, &lane, AMPLE).await;
        assert_eq!(read.iter().map(|record| record.id).collect::<Vec<_>>(), [3, 4, 6]);
        outbox.write(&mut conn, "t", "a").await;
        assert_eq!(keys(&drain(&mut *reader, AMPLE).await), ["a"]);
    }
}

#[tokio::test]
async fn lanes_inside_a_held_topic_are_released_each_by_itself() {
    let outbox = Outbox::new(&newest(), "nested").await;
    let mut conn = outbox.connect().await;
    let (topic, key) = (Lane::topic_of("t"), Lane::from_columns("t", Some("a"), None));
    let partition = Lane::from_columns("t", None, Some(1));
    for columns in ["'t', 'a', null", "'t', 'b', null", "'t', 'a', 1", "'u', 'a', null", "'t', null, null"] {
        outbox.run(&mut conn, &format!("insert into outbox (topic, key, partition) values ({columns})")).await;
    }
    let mut reader = outbox.open().await;
    [&topic, &key, &partition].into_iter().for_each(|lane| reader.hold(held(lane.clone(), 1)));
    let ids = |records: Vec<Record>| records.iter().map(|record| record.id).collect::<Vec<_>>();
    assert_eq!(ids(drain(&mut *reader, AMPLE).await), [4]);
    reader.release(&topic);
    assert_eq!(ids(drain_release(&mut *reader, &topic, AMPLE).await), [2, 5]);
    reader.release(&partition);
    assert_eq!(ids(drain(&mut *reader, AMPLE).await), [3]);
    reader.release(&key);
    assert_eq!(ids(drain(&mut *reader, AMPLE).await), [1]);
}

#[tokio::test]
async fn holding_again_ends_a_release_and_the_next_one_begins_where_the_lane_was_left() {
    let outbox = Outbox::new(&newest(), "again").await;
    let mut conn = outbox.connect().await;
    let (lane, limit) = (Lane::topic_of("t"), Limit { records: 2, ..AMPLE });
    let mut reader = outbox.open().await;
    reader.hold(held(lane.clone(), 1));
    for _ in 0..6 {
        outbox.write(&mut conn, "t", "k").await;
    }
    assert!(drain(&mut *reader, limit).await.is_empty());
    reader.release(&lane);
    let first = reader.fetch(limit).await.unwrap();
    assert_eq!((first.records.len(), &first.opened[..]), (2, &[lane.clone()][..]));
    outbox.settle(&first.records[..1]).await;
    reader.hold(held(lane.clone(), 2));
    assert!(drain(&mut *reader, limit).await.is_empty());
    reader.release(&lane);
    let read = drain_release(&mut *reader, &lane, limit).await;
    assert_eq!(read.iter().map(|record| record.id).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_lane_that_is_not_held_is_released_at_once() {
    let outbox = Outbox::new(&newest(), "not_held").await;
    let mut reader = outbox.open().await;
    let lane = Lane::topic_of("t");
    reader.release(&lane);
    assert!(drain_release(&mut *reader, &lane, AMPLE).await.is_empty());
}

#[tokio::test]
async fn held_lanes_are_stored_with_the_checkpoint_and_a_release_cut_short_begins_anew() {
    for url in servers() {
        let outbox = Outbox::new(&url, "stored").await;
        let mut conn = outbox.connect().await;
        let term = outbox.lead().await;
        let (lane, limit) = (Lane::topic_of("t"), Limit { records: 2, ..AMPLE });
        let mut reader = outbox.open().await;
        for topic in ["t", "u", "t", "t", "t", "u"] {
            outbox.write(&mut conn, topic, "k").await;
        }
        let lanes = [held(lane.clone(), 1)];
        reader.hold(lanes[0].clone());
        let read = drain(&mut *reader, limit).await;
        outbox.settle(&read).await;
        assert_eq!(read.len(), 2);
        let last = reader.fetch(limit).await.unwrap();
        reader.save(&checkpoint(term, &last, &lanes)).await.unwrap();
        reader.release(&lane);
        let begun = reader.fetch(limit).await.unwrap();
        outbox.settle(&begun.records[..1]).await;
        drop(reader);

        let mut reader = outbox.open().await;
        let stored: Vec<_> = reader.held().iter().map(|held| (&held.lane, held.from_id, held.cause)).collect();
        assert_eq!(stored, [(&lane, 1, HoldCause::MissingTopic)]);
        assert!(drain(&mut *reader, limit).await.is_empty());
        reader.release(&lane);
        let read = drain_release(&mut *reader, &lane, limit).await;
        assert_eq!(read.iter().map(|record| record.id).collect::<Vec<_>>(), [3, 4, 5]);
        let last = reader.fetch(limit).await.unwrap();
        reader.save(&checkpoint(term, &last, &[])).await.unwrap();
        assert!(outbox.open().await.held().is_empty());
    }
}

/// Holds and releases a topic and a key again and again while eight writers work. What was read of a lane when
/// it was held is settled, as the relay would.
async fn hold_and_release_beside_writers(outbox: Outbox, limit: Limit) {
    let outbox = Arc::new(outbox);
    workload::prepare(&outbox).await;
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..WRITERS {
        let outbox = Arc::clone(&outbox);
        writers.spawn(async move { workload::write(&outbox, seed, 60).await });
    }
    let lanes = [Lane::topic_of("few"), Lane::from_columns("many", Some("k7"), None)];
    let mut reader = outbox.open().await;
    let mut read: Vec<Record> = Vec::new();
    let mut releasing = 0;
    for turn in 0.. {
        let batch = reader.fetch(limit).await.unwrap();
        outbox.settle(&batch.records).await;
        releasing -= batch.closed.len();
        read.extend(batch.records);
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
        match turn % 40 {
            5 if releasing == 0 && !writers.is_empty() => {
                let next = read.iter().map(|record| record.id).max().unwrap_or_default() + 1;
                lanes.iter().for_each(|lane| reader.hold(held(lane.clone(), first_unread(&read, lane).min(next))));
            }
            30 if releasing == 0 => {
                lanes.iter().for_each(|lane| reader.release(lane));
                releasing = lanes.len();
            }
            35 if writers.is_empty() && releasing == 0 => break,
            _ => {}
        }
    }
    read.extend(drain(&mut *reader, limit).await);
    workload::verify(&outbox, &read).await;
}

/// From here on nothing of the lane was read: its rows come in id order.
fn first_unread(read: &[Record], lane: &Lane) -> i64 {
    let covers = |record: &&Record| match lane {
        Lane::Topic { topic } => record.topic == *topic,
        lane => record.lane().as_ref() == Some(lane),
    };
    read.iter().filter(covers).map(|record| record.id).min().unwrap_or(1)
}

#[tokio::test]
async fn lanes_held_and_released_beside_writers_lose_nothing_repeat_nothing_and_keep_order() {
    for url in servers() {
        hold_and_release_beside_writers(Outbox::new(&url, "hold_pages").await, Limit { records: 3, ..AMPLE }).await;
        hold_and_release_beside_writers(Outbox::new(&url, "hold_large").await, AMPLE).await;
    }
}

#[tokio::test]
async fn held_lanes_cannot_be_truncated() {
    for url in servers() {
        let outbox = Outbox::new(&url, "truncated").await;
        let mut conn = outbox.connect().await;
        let text = format!("truncate {}_held", outbox.table);
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut conn).await.expect_err("it is refused");
        assert!(refused.to_string().contains("held lanes cannot be truncated"), "{refused}");
    }
}
