//! Rows that become due behind the reader, by the hands of people: corrected, restored, moved back, sent once more.

use outboxd::contract::{Inspect, Reader};
use outboxd::outbox::{Record, Settle};

use super::server::{AMPLE, Outbox, checkpoint, drain, servers};

/// Ten rows that were read and settled, the checkpoint stored behind them, and a reader that goes on.
async fn ten_settled(url: &str, name: &str, settle: Settle) -> (Outbox, Box<dyn Reader>) {
    let outbox = Outbox::settling(url, name, settle).await;
    let term = outbox.lead().await;
    let rows = "insert into outbox (topic, key) select 't', n::text from generate_series(1, 10) n";
    outbox.run(&mut outbox.connect().await, rows).await;
    let mut reader = outbox.open().await;
    let read = drain(&mut *reader, AMPLE).await;
    outbox.settle(&read).await;
    let last = reader.fetch(AMPLE).await.unwrap();
    reader.save(&checkpoint(term, &last, &[])).await.unwrap();
    (outbox, reader)
}

fn names(records: &[Record]) -> Vec<(i64, &str, &str)> {
    records.iter().map(|record| (record.id, &*record.topic, record.key.as_deref().unwrap_or_default())).collect()
}

/// What a reader finds after what no trigger has seen was looked for; and how many those were.
async fn found(outbox: &Outbox, reader: &mut dyn Reader) -> (Vec<Record>, u64) {
    let late = outbox.store.bring_back_late().await.unwrap();
    (drain(reader, AMPLE).await, late)
}

#[tokio::test]
async fn a_row_that_is_corrected_below_the_checkpoint_is_read_as_what_it_is_now() {
    for url in servers() {
        for settle in Settle::ALL {
            let outbox = Outbox::settling(&url, "corrected", settle).await;
            let term = outbox.lead().await;
            let mut conn = outbox.connect().await;
            outbox
                .run(&mut conn, "insert into outbox (topic, key) select 'oders', n::text from generate_series(1, 4) n")
                .await;
            let mut reader = outbox.open().await;
            let lane = outboxd::outbox::Lane::topic_of("oders");
            let cause = outboxd::outbox::HoldCause::MissingTopic;
            let held = outboxd::outbox::Held { lane, from_id: 1, after: None, cause, since: chrono::Utc::now() };
            reader.hold(held.clone());
            assert!(drain(&mut *reader, AMPLE).await.is_empty());
            let last = reader.fetch(AMPLE).await.unwrap();
            reader.save(&checkpoint(term, &last, &[held])).await.unwrap();

            outbox.run(&mut conn, "update outbox set topic = 'orders' where id <= 2").await;
            outbox.run(&mut conn, "update outbox set topic = 'orders', partition = 5 where id = 3").await;
            let (read, late) = found(&outbox, &mut *reader).await;
            let expected = [(1, "orders", "1"), (2, "orders", "2"), (3, "orders", "3")];
            assert_eq!((names(&read), late), (expected.to_vec(), 0), "{settle}");
            outbox.settle(&read).await;
            assert!(drain(&mut *reader, AMPLE).await.is_empty(), "once, in mode {settle}");
        }
    }
}

#[tokio::test]
async fn a_row_that_is_copied_back_with_all_its_columns_is_read() {
    for url in servers() {
        for settle in Settle::ALL {
            let (outbox, mut reader) = ten_settled(&url, "copied_back", settle).await;
            let mut conn = outbox.connect().await;
            // Out of the way before it was sent, and back when the position is far beyond.
            outbox.run(&mut conn, "begin; insert into outbox (topic, key) values ('t', 'moved'); create table outbox_archive as select * from outbox where key = 'moved'; delete from outbox where key = 'moved'; commit").await;
            outbox.run(&mut conn, "insert into outbox (topic, key) values ('t', 'later')").await;
            assert_eq!(names(&drain(&mut *reader, AMPLE).await), [(12, "t", "later")]);
            outbox.run(&mut conn, "insert into outbox overriding system value select * from outbox_archive").await;
            let (read, late) = found(&outbox, &mut *reader).await;
            assert_eq!((names(&read), late), (vec![(11, "t", "moved")], 0), "{settle}");
        }
    }
}

#[tokio::test]
async fn rows_restored_where_no_trigger_fires_are_found_and_counted_once() {
    for url in servers() {
        for settle in [Settle::Mark, Settle::Delete] {
            let (outbox, mut reader) = ten_settled(&url, "no_trigger", settle).await;
            let mut conn = outbox.connect().await;
            let restored = "set session_replication_role = replica;
                insert into outbox (id, topic, key, xid) overriding system value values (100, 't', 'old', '3');
                insert into outbox (id, topic, key, xid) overriding system value values (101, 't', 'future', '9223372036854775807')";
            outbox.run(&mut conn, restored).await;
            let (read, late) = found(&outbox, &mut *reader).await;
            assert_eq!((names(&read), late), (vec![(100, "t", "old"), (101, "t", "future")], 2), "{settle}");
            let (again, late) = found(&outbox, &mut *reader).await;
            assert_eq!((names(&again), late), (vec![], 0), "not twice while it is under way, in mode {settle}");
        }
    }
}

#[tokio::test]
async fn a_row_whose_mark_is_taken_off_is_sent_once_more() {
    for url in servers() {
        let (outbox, mut reader) = ten_settled(&url, "mark_off", Settle::Mark).await;
        outbox.run(&mut outbox.connect().await, "update outbox set sent_at = null where id in (3, 7)").await;
        let (read, late) = found(&outbox, &mut *reader).await;
        assert_eq!((names(&read), late), (vec![(3, "t", "3"), (7, "t", "7")], 2));
        outbox.settle(&read).await;
        assert_eq!(found(&outbox, &mut *reader).await.1, 0);
    }
}

#[tokio::test]
async fn an_ordinary_row_keeps_the_id_of_its_own_transaction() {
    for url in servers() {
        let outbox = Outbox::new(&url, "ordinary").await;
        let mut conn = outbox.connect().await;
        let rows = "begin; insert into outbox (topic, key) values ('t', 'a'), ('t', 'b'); savepoint s;
            insert into outbox (topic) values ('t'); release s; commit";
        outbox.run(&mut conn, rows).await;
        // A version that no update replaced: the row was written once.
        assert_eq!(outbox.number("select count(*) from outbox where xmax = 0 and ctid < '(0,4)'").await, 3);
        outbox.run(&mut conn, "update outbox set payload = 'x', topic = topic").await;
        assert_eq!(outbox.number("select count(distinct xid::text) from outbox").await, 1);
    }
}

#[tokio::test]
async fn what_the_checkpoint_settled_stays_settled_once_rows_are_marked() {
    use std::time::Duration;

    for url in servers() {
        for settle in [Settle::Mark, Settle::Delete] {
            let (outbox, reader) = ten_settled(&url, "switched", Settle::Checkpoint).await;
            drop(reader);
            let outbox = Outbox { store: super::server::store(&outbox.url, &outbox.table, settle), ..outbox };
            let term = outbox.lead().await;
            let mut reader = outbox.open().await;
            let (read, late) = found(&outbox, &mut *reader).await;
            assert_eq!((read.len(), late), (0, 0), "{settle}");
            outbox.write(&mut outbox.connect().await, "t", "new").await;
            let read = drain(&mut *reader, AMPLE).await;
            assert_eq!(names(&read), [(11, "t", "new")]);
            let last = reader.fetch(AMPLE).await.unwrap();
            outbox.settle(&read).await;
            reader.save(&checkpoint(term, &last, &[])).await.unwrap();
            assert_eq!(outbox.store.bring_back_late().await.unwrap(), 0);
            while outbox.store.purge(term, Duration::ZERO).await.unwrap().more {}
            assert_eq!(outbox.number("select count(*) from outbox").await, 0, "all is old in mode {settle}");
        }
    }
}

/// A trigger's function that runs with its owner's rights would run a stranger's code, put on a stranger's table.
#[tokio::test]
async fn no_other_role_can_put_the_owners_functions_on_a_table_of_its_own() {
    for url in servers() {
        let outbox = Outbox::new(&url, "strangers").await;
        let callable = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 't_strangers' and p.prosecdef and has_function_privilege('public', p.oid, 'execute')";
        assert_eq!(outbox.number(callable).await, 0);
        let owned = "select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname = 't_strangers' and p.prosecdef";
        assert_eq!(outbox.number(owned).await, 3);
    }
}
