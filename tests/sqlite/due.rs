//! Rows that become due where the reader has passed: they come, once, in every way to settle that can tell.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::{Checkpoint, Database, Inspect, OutboxStore, Reader};
use outboxd::outbox::{Held, HoldCause, Lane, Record, Settle, Settlement, Table, Term};
use outboxd::sqlite::Store;

use crate::sqlite::{File, lead, read_all};
use crate::support::wait;

async fn settle(store: &Store, records: &[Record]) {
    let mut settlement = Settlement::default();
    records.iter().for_each(|record| settlement.push(record));
    store.settle(&settlement).await.expect("settled");
}

async fn save(reader: &mut Box<dyn Reader>, term: Term, held: Vec<Held>) {
    let checkpoint = Checkpoint { term, position: reader.position(), read_to: reader.position(), held };
    reader.save(&checkpoint).await.expect("the checkpoint is stored");
}

/// Reads, settles and stores the checkpoint.
async fn pass(store: &Store, reader: &mut Box<dyn Reader>, term: Term) -> Vec<Record> {
    let records = read_all(reader).await;
    settle(store, &records).await;
    save(reader, term, Vec::new()).await;
    records
}

fn ids(records: &[Record]) -> Vec<i64> {
    records.iter().map(|record| record.id).collect()
}

fn lanes(records: &[Record]) -> Vec<(Arc<str>, Option<String>)> {
    records.iter().map(|record| (Arc::clone(&record.topic), record.key.clone())).collect()
}

#[tokio::test]
async fn a_row_that_is_corrected_while_its_lane_is_held_comes_in_the_lane_where_it_belongs() {
    for mode in Settle::ALL {
        let file = File::migrated().await;
        let store = file.store_of(Table::default(), mode);
        let (_leader, term) = lead(&store, "one").await;
        file.run(
            "insert into outbox (topic, key) values ('oders', 'a'), ('oders', 'b'), ('orders', 'c'), ('orders', 'wrong')",
        )
        .await;
        let mut reader = store.open().await.expect("a session opens");
        let since = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time");
        let oders =
            Held { lane: Lane::topic_of("oders"), from_id: 1, after: None, cause: HoldCause::MissingTopic, since };
        let wrong = Lane::from_columns("orders", Some("wrong"), None);
        let wrong = Held { lane: wrong, cause: HoldCause::Rejected, ..oders.clone() };
        [&oders, &wrong].into_iter().for_each(|held| reader.hold(held.clone()));
        settle(&store, &read_all(&mut reader).await).await;
        save(&mut reader, term, vec![oders, wrong]).await;
        file.run(
            "update outbox set topic = 'orders' where topic = 'oders'; update outbox set key = 'd' where key = 'wrong'",
        )
        .await;
        let corrected = lanes(&read_all(&mut reader).await);
        let expected = ["a", "b", "d"].map(|key| (Arc::from("orders"), Some(key.to_owned())));
        assert_eq!(corrected, expected, "{mode}");
    }
}

#[tokio::test]
async fn a_row_that_is_moved_back_comes_and_its_id_is_never_given_again() {
    for mode in Settle::ALL {
        let file = File::migrated().await;
        let store = file.store_of(Table::default(), mode);
        let (_leader, term) = lead(&store, "one").await;
        let mut reader = store.open().await.expect("a session opens");
        file.write(&Table::default(), 5, "orders").await;
        assert_eq!(pass(&store, &mut reader, term).await.len(), 5);
        file.run(
            "delete from outbox;
             insert into outbox (id, topic, key) values (2, 'archive', 1), (3, 'archive', 2), (4, 'archive', 3)",
        )
        .await;
        let back = pass(&store, &mut reader, term).await;
        assert_eq!(ids(&back), [6, 7, 8], "{mode}");
        file.run("delete from outbox").await;
        file.write(&Table::default(), 1, "orders").await;
        assert_eq!(ids(&pass(&store, &mut reader, term).await), [9], "{mode}");
    }
}

#[tokio::test]
async fn rows_come_where_ids_began_anew() {
    for mode in Settle::ALL {
        let file = File::migrated().await;
        let store = file.store_of(Table::default(), mode);
        let (_leader, term) = lead(&store, "one").await;
        let mut reader = store.open().await.expect("a session opens");
        file.write(&Table::default(), 50, "orders").await;
        pass(&store, &mut reader, term).await;
        file.run("delete from outbox; update sqlite_sequence set seq = 0 where name = 'outbox'").await;
        file.write(&Table::default(), 20, "orders").await;
        assert_eq!(ids(&pass(&store, &mut reader, term).await), (51..=70).collect::<Vec<i64>>(), "{mode}");
    }
}

/// Where no trigger sees it: housekeeping does, and counts each row once.
#[tokio::test]
async fn a_row_that_is_due_again_behind_the_reader_is_brought_back_and_counted_once() {
    let again = [
        (Settle::Mark, "update outbox set sent_at = null where id in (2, 4)"),
        (Settle::Delete, "update outbox set id = id - 8 where id in (10, 12)"),
    ];
    for (mode, statement) in again {
        let file = File::migrated().await;
        let store = file.store_of(Table::default(), mode);
        let (_leader, term) = lead(&store, "one").await;
        let mut reader = store.open().await.expect("a session opens");
        file.write(&Table::default(), 9, "orders").await;
        pass(&store, &mut reader, term).await;
        file.write(&Table::default(), 3, "orders").await;
        file.run(statement).await;
        // What no trigger has seen yet.
        let others = pass(&store, &mut reader, term).await.len();
        assert_eq!(others, if mode == Settle::Mark { 3 } else { 1 }, "{mode}");
        let mut late = 0;
        for _ in 0..5 {
            late += store.bring_back_late().await.expect("a look");
        }
        assert_eq!(late, 2, "{mode}");
        let back = pass(&store, &mut reader, term).await;
        assert_eq!(ids(&back), [13, 14], "{mode}");
        assert_eq!(store.backlog(100).await.expect("a backlog").unsent, 0, "{mode}");
        file.write(&Table::default(), 1, "orders").await;
        assert_eq!(ids(&read_all(&mut reader).await), [15], "{mode}");
    }
}

#[tokio::test]
async fn held_rows_are_not_brought_back() {
    let file = File::migrated().await;
    let store = file.store();
    let (_leader, term) = lead(&store, "one").await;
    let mut reader = store.open().await.expect("a session opens");
    file.write(&Table::default(), 3, "held").await;
    file.write(&Table::default(), 3, "orders").await;
    let since = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time");
    let held = Held { lane: Lane::topic_of("held"), from_id: 1, after: None, cause: HoldCause::MissingTopic, since };
    reader.hold(held.clone());
    settle(&store, &read_all(&mut reader).await).await;
    save(&mut reader, term, vec![held]).await;
    let backlog = store.backlog(100).await.expect("a backlog");
    assert_eq!((backlog.unsent, store.bring_back_late().await.expect("a look")), (3, 0));
    assert_eq!(file.number("select max(id) from outbox where topic = 'held'").await, 3);
}

#[tokio::test]
async fn ordinary_writers_keep_the_ids_that_they_are_given() {
    let file = File::migrated().await;
    file.run(
        "insert into outbox (topic) values ('orders');
         insert into outbox (topic) values ('orders'), ('orders'), ('orders');
         insert into outbox (id, topic) values (5, 'orders') on conflict (id) do update set topic = 'never';
         insert into outbox (id, topic) values (5, 'orders') on conflict (id) do update set payload = 'again';
         insert into outbox (topic) select 'orders' from json_each('[1, 2]');
         begin; insert into outbox (topic) values ('orders'); insert into outbox (topic) values ('orders'); commit;
         update outbox set payload = '{}', headers = '{\"a\": 1}', topic = topic",
    )
    .await;
    assert_eq!(ids(&file.read().await), (1..=9).collect::<Vec<i64>>());
    let mut connection = file.connect().await;
    let returned: Vec<i64> =
        sqlx::query_scalar("insert into outbox (topic) values ('orders'), ('orders') returning id")
            .fetch_all(&mut connection)
            .await
            .expect("inserted");
    assert_eq!(returned, [10, 11]);
}

#[tokio::test]
async fn what_was_read_without_marking_rows_is_settled_for_a_relay_that_marks_or_deletes_them() {
    for mode in [Settle::Mark, Settle::Delete] {
        let file = File::migrated().await;
        let before = file.store_of(Table::default(), Settle::Checkpoint);
        let (_leader, term) = lead(&before, "one").await;
        file.write(&Table::default(), 250, "orders").await;
        let mut reader = before.open().await.expect("a session opens");
        assert_eq!(pass(&before, &mut reader, term).await.len(), 250);
        let after = file.store_of(Table::default(), mode);
        file.write(&Table::default(), 5, "orders").await;
        let backlog = after.backlog(1_000).await.expect("a backlog");
        assert_eq!((backlog.unsent, after.bring_back_late().await.expect("a look")), (5, 0), "{mode}");
        let mut reader = after.open().await.expect("a session opens");
        assert_eq!(pass(&after, &mut reader, term).await.len(), 5, "{mode}");
        let mut audit = after.audit(None).await.expect("an audit");
        let rows = audit.rows(0, 1_000).await.expect("rows");
        assert!(rows.iter().all(|row| row.is_published), "{mode}");
        wait::until_true("all are removed", wait::PATIENCE, async || {
            after.purge(term, Duration::ZERO).await.expect("purged");
            file.number("select count(*) from outbox").await == 0
        })
        .await;
    }
}
