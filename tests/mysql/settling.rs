//! Recording deliveries beside others who write and lock.

use std::time::Duration;

use outboxd::contract::{OutboxStore, StoreError};
use outboxd::outbox::{RecordMetadata, Settle, Settlement};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Outbox, execute, number, open, read, servers, settle};

const MARKED: &str = "select count(*) from outbox where sent_at <> '1000-01-01'";

fn of(records: &[outboxd::outbox::Record]) -> Settlement {
    let mut settlement = Settlement::default();
    records.iter().for_each(|record| settlement.push(record));
    settlement
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_writer_among_the_ids_keeps_no_settlement_waiting_and_waits_for_none() {
    for server in servers() {
        for mode in [Settle::Mark, Settle::Delete] {
            let outbox = Outbox::new(&server, mode).await;
            let store = outbox.store();
            let mut writer = outbox.connect().await;
            outbox.run("insert into outbox (topic, `key`) values ('t', 'a'), ('t', 'b')").await;
            execute(&mut writer, "begin; insert into outbox (topic, `key`) values ('t', 'open')").await;
            outbox.run("insert into outbox (topic, `key`) values ('t', 'c'), ('t', 'd')").await;
            let records = read(&mut open(&store).await, 10).await;
            assert_eq!(records.len(), 4);
            let mut settlement = of(&records);
            // Ids that are missing, in between and beyond, lock nothing either.
            settlement.push_row(records[3].id + 100, Uuid::now_v7());
            store.settle(&settlement).await.unwrap();
            let left = if mode == Settle::Mark { 4 } else { 0 };
            assert_eq!(outbox.number("select count(*) from outbox").await, left, "{mode}");
            execute(&mut writer, "insert into outbox (topic, `key`) values ('t', 'more'); commit").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_session_has_locked_is_named_and_the_others_are_settled() {
    for server in servers() {
        for mode in [Settle::Mark, Settle::Delete] {
            let outbox = Outbox::new(&server, mode).await;
            let store = outbox.store();
            outbox.run("insert into outbox (topic) values ('t'), ('t'), ('t')").await;
            let records = read(&mut open(&store).await, 10).await;
            let mut operator = outbox.connect().await;
            execute(&mut operator, "begin").await;
            number(&mut operator, &format!("select id from outbox where id = {} for update", records[1].id)).await;
            let refused = store.settle(&of(&records)).await;
            let names = |error: &StoreError| error.to_string().contains(&format!("row {} is locked", records[1].id));
            assert!(
                matches!(&refused, Err(error @ StoreError::Unusable { .. }) if names(error)),
                "{mode}: {refused:?}"
            );
            let unsettled = "select count(*) from outbox where sent_at = '1000-01-01'";
            assert_eq!(outbox.number(unsettled).await, 1, "{mode}");
            execute(&mut operator, "rollback").await;
            settle(&store, &records).await;
            assert_eq!(outbox.number(unsettled).await, 0, "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_takes_marks_away_is_told_of() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Mark).await;
        let store = outbox.store();
        outbox.run("insert into outbox (topic) values ('t'), ('t')").await;
        let records = read(&mut open(&store).await, 10).await;
        let mut owner = outbox.connect().await;
        execute(
            &mut owner,
            "create trigger outbox_undo before update on outbox for each row set new.sent_at = old.sent_at",
        )
        .await;
        let refused = store.settle(&of(&records)).await;
        assert!(
            matches!(&refused, Err(StoreError::Unusable { problem, .. }) if problem.contains("kept it")),
            "{refused:?}"
        );
        execute(&mut owner, "drop trigger outbox_undo").await;
        settle(&store, &records).await;
        assert_eq!(outbox.number(MARKED).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_took_the_ids_of_those_that_were_delivered_are_left_alone() {
    for server in servers() {
        for mode in [Settle::Mark, Settle::Delete] {
            let outbox = Outbox::new(&server, mode).await;
            let store = outbox.store();
            outbox.run("insert into outbox (topic) values ('t'), ('t'), ('t')").await;
            let records = read(&mut open(&store).await, 10).await;
            settle(&store, &records[..1]).await;
            outbox.run("truncate table outbox").await;
            outbox.run("insert into outbox (topic) values ('t'), ('t'), ('t')").await;
            settle(&store, &records[1..]).await;
            let unsettled = outbox.number("select count(*) from outbox where sent_at = '1000-01-01'").await;
            assert_eq!(unsettled, 3, "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_records_are_is_noted_with_their_mark() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Mark).await;
        let store = outbox.store();
        let rows = vec!["('t')"; 700].join(",");
        outbox.run(&format!("insert into outbox (topic) values {rows}")).await;
        let records = read(&mut open(&store).await, 1_000).await;
        let mut settlement = Settlement::default();
        for (offset, record) in records.iter().enumerate() {
            let place = RecordMetadata { partition: 3, offset: offset as i64 };
            settlement.push_with_metadata(record.id, record.event_id, place);
        }
        timeout(Duration::from_secs(60), store.settle(&settlement)).await.unwrap().unwrap();
        let placed = "select count(*) from outbox where sent_partition = 3 and sent_offset = id - (select * from
             (select min(id) from outbox) lowest) and sent_at <> '1000-01-01'";
        assert_eq!(outbox.number(placed).await, 700);
    }
}
