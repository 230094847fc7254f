//! Settling, counting and purging.

use std::time::Duration;

use chrono::Utc;
use outboxd::contract::{Inspect, OutboxStore, StoreError};
use outboxd::outbox::{Held, HoldCause, Lane, Limit, ReadToken, Record, Settle, Settlement, Term};

use super::server::{AMPLE, Outbox, checkpoint, drain, keys, newest, servers};
use crate::support::machine;
use crate::support::throwaway::Postgres;

/// Purges until there is no more; returns how many rows went.
async fn purge(outbox: &Outbox, term: Term, retention: Duration) -> u64 {
    let mut removed = 0;
    loop {
        let round = outbox.store.purge(term, retention).await.unwrap();
        removed += round.removed;
        if !round.more {
            return removed;
        }
    }
}

async fn write_many(outbox: &Outbox, rows: u32) {
    let rows =
        format!("insert into outbox (topic, key, payload) select 't', n::text, 'x' from generate_series(1, {rows}) n");
    outbox.run(&mut outbox.connect().await, &rows).await;
}

#[tokio::test]
async fn a_row_whose_event_differs_is_left_alone() {
    for (url, how) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Delete)]) {
        let outbox = Outbox::settling(&url, "event", how).await;
        write_many(&outbox, 2).await;
        let read = drain(&mut *outbox.open().await, AMPLE).await;
        let mut settlement = Settlement::default();
        settlement.push(&read[0]);
        settlement.push_row(read[1].id, uuid::Uuid::nil());
        for _ in 0..2 {
            outbox.store.settle(&settlement).await.unwrap();
        }
        let left = drain(&mut *outbox.open().await, AMPLE).await;
        assert_eq!(left.iter().map(|record| record.id).collect::<Vec<_>>(), [read[1].id]);
    }
}

/// Commits a row, reads it, loses it in some way, and commits another that gets its id. Then the first is settled by
/// who was connected before it was read, and the other must not be taken for it.
async fn another_row_of_the_same_id_waits(name: &str, lose: impl AsyncFn(&Outbox)) {
    for (url, how) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Delete)]) {
        let outbox = Outbox::settling(&url, name, how).await;
        write_many(&outbox, 2).await;
        let mut reader = outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        let token = reader.fetch(AMPLE).await.unwrap().token;
        assert!(token.is_some());
        settle_with(token, &outbox, &read[..1]).await;
        assert_eq!(outbox.number("select count(*) from outbox where sent_at is null").await, 1, "{how}");

        lose(&outbox).await;
        let again = "insert into outbox (id, topic, key) overriding system value values (2, 't', 'another')";
        outbox.run(&mut outbox.connect().await, again).await;
        settle_with(token, &outbox, &read[1..]).await;
        let key = "select count(*) from outbox where sent_at is null and key = 'another'";
        assert_eq!(outbox.number(key).await, 1, "{how}");
    }
}

async fn settle_with(token: Option<ReadToken>, outbox: &Outbox, records: &[Record]) {
    let mut settlement = Settlement::default();
    settlement.add_token(token);
    records.iter().for_each(|record| settlement.push(record));
    // A session that was lost says so once.
    if outbox.store.settle(&settlement).await.is_err() {
        outbox.store.settle(&settlement).await.unwrap();
    }
}

#[tokio::test]
async fn an_id_that_comes_again_after_the_sessions_were_lost_names_another_row() {
    another_row_of_the_same_id_waits("crashed", async |outbox| {
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "delete from outbox").await;
        let sessions = "select pg_terminate_backend(pid) from pg_stat_activity
            where application_name like '%/settle' and query like '%t_crashed%'";
        assert!(outbox.run(&mut conn, sessions).await > 0);
    })
    .await;
}

#[tokio::test]
async fn an_id_that_comes_again_after_the_table_was_truncated_names_another_row() {
    another_row_of_the_same_id_waits("truncated", async |outbox| {
        outbox.run(&mut outbox.connect().await, "truncate outbox").await;
    })
    .await;
}

#[tokio::test]
async fn rows_between_those_that_are_settled_stay() {
    for (url, how) in servers().into_iter().flat_map(|url| [(url.clone(), Settle::Mark), (url, Settle::Delete)]) {
        let outbox = Outbox::settling(&url, "between", how).await;
        write_many(&outbox, 20).await;
        let mut reader = outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        let token = reader.fetch(AMPLE).await.unwrap().token;
        // Two long runs of ids, and then one in two.
        let (runs, scattered): (Vec<_>, Vec<_>) = read.into_iter().partition(|record| record.id <= 10);
        let runs: Vec<Record> = runs.into_iter().filter(|record| record.id != 5).collect();
        let scattered: Vec<Record> = scattered.into_iter().filter(|record| record.id % 2 == 0).collect();
        settle_with(token, &outbox, &runs).await;
        settle_with(token, &outbox, &scattered).await;
        let left = drain(&mut *outbox.open().await, AMPLE).await;
        assert_eq!(left.iter().map(|record| record.id).collect::<Vec<_>>(), [5, 11, 13, 15, 17, 19], "{how}");
    }
}

/// A crash of the server takes back settlements that were not flushed. Were a later one recorded after it, the earlier
/// rows would be published once more behind it, and stay the last that a consumer hears of.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_forgotten_settlement_is_not_settled_before_it() {
    let _machine = machine::shared().await;
    for how in [Settle::Mark, Settle::Delete] {
        let postgres = Postgres::start();
        let outbox = Outbox::settling(postgres.server().url(), "forgotten", how).await;
        outbox.run(&mut outbox.connect().await, "alter system set wal_writer_delay = '10s'").await;
        postgres.restart();
        write_many(&outbox, 2).await;
        let mut reader = outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        outbox.settle(&read[..1]).await;
        postgres.kill();
        postgres.restart();

        let mut second = Settlement::default();
        second.push(&read[1]);
        // The session that was lost says so once; what it forgot is told for as long as no reader is opened.
        assert!(matches!(outbox.store.settle(&second).await, Err(StoreError::Unavailable { .. })));
        for _ in 0..2 {
            let refused = outbox.store.settle(&second).await;
            assert!(matches!(refused, Err(StoreError::Forgotten)), "{how}: {refused:?}");
        }
        let again = drain(&mut *outbox.open().await, AMPLE).await;
        assert_eq!(keys(&again), keys(&read), "{how}");
        outbox.settle(&again).await;
        assert!(drain(&mut *outbox.open().await, AMPLE).await.is_empty(), "{how}");
    }
}

#[tokio::test]
async fn marking_touches_no_index() {
    let outbox = Outbox::new(&newest(), "hot").await;
    write_many(&outbox, 5_000).await;
    let read = drain(&mut *outbox.open().await, AMPLE).await;
    outbox.settle(&read).await;
    let mut conn = outbox.connect().await;
    outbox.run(&mut conn, "select pg_stat_clear_snapshot()").await;
    let hot = "select coalesce(min(n_tup_hot_upd * 100 / n_tup_upd), -1)::bigint from pg_stat_user_tables
        where relid = to_regclass('outbox') and n_tup_upd >= 5000";
    // Statistics arrive when the settling session is idle for a moment.
    let mut share = -1;
    for _ in 0..100 {
        share = outbox.number(hot).await;
        if share >= 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(share >= 95, "{share} % of the updates were HOT");
}

#[tokio::test]
async fn purging_removes_what_was_sent_and_nothing_else() {
    for url in servers() {
        let outbox = Outbox::new(&url, "purge").await;
        let term = outbox.lead().await;
        write_many(&outbox, 5_000).await;
        let mut reader = outbox.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        outbox.settle(&read[..4_990]).await;
        assert_eq!(purge(&outbox, term, Duration::from_secs(3600)).await, 0);
        assert_eq!(purge(&outbox, term, Duration::ZERO).await, 4_990);
        assert_eq!(outbox.number("select count(*) from outbox where sent_at is null").await, 10);
        outbox.settle(&read[4_990..]).await;
        assert_eq!(purge(&outbox, term, Duration::ZERO).await, 10);
    }
}

#[tokio::test]
async fn purging_by_checkpoint_spares_what_was_not_read_and_what_is_held() {
    for url in servers() {
        let outbox = Outbox::settling(&url, "spares", Settle::Checkpoint).await;
        let term = outbox.lead().await;
        write_many(&outbox, 100).await;
        assert_eq!(purge(&outbox, term, Duration::ZERO).await, 0, "nothing was stored yet");
        let mut reader = outbox.open().await;
        let lane = Lane::from_columns("t", Some("7"), None);
        let held = Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() };
        reader.hold(held.clone());
        let mut late = outbox.connect().await;
        outbox.run(&mut late, "begin; insert into outbox (topic) values ('t')").await;
        let limit = Limit { records: 60, ..AMPLE };
        let batch = reader.fetch(limit).await.unwrap();
        reader.save(&checkpoint(term, &batch, std::slice::from_ref(&held))).await.unwrap();
        let read = batch.records.len() as u64;
        assert_eq!(purge(&outbox, term, Duration::from_secs(3600)).await, 0, "too young");
        assert_eq!(purge(&outbox, term, Duration::ZERO).await, read);
        outbox.run(&mut late, "commit").await;
        assert_eq!(purge(&outbox, term, Duration::ZERO).await, 0);
        assert_eq!(outbox.number("select count(*) from outbox").await, 101 - read as i64);
    }
}

#[tokio::test]
async fn nothing_is_purged_and_nothing_stored_once_the_term_is_over() {
    let outbox = Outbox::new(&newest(), "over").await;
    let term = outbox.lead().await;
    write_many(&outbox, 3).await;
    let mut reader = outbox.open().await;
    let batch = reader.fetch(AMPLE).await.unwrap();
    outbox.settle(&batch.records).await;
    outbox.run(&mut outbox.connect().await, "update outbox_lease set term = term + 1").await;
    let over = |result| matches!(result, Err(StoreError::TermOver { .. }));
    assert!(over(outbox.store.purge(term, Duration::ZERO).await.map(drop)));
    assert!(over(reader.save(&checkpoint(term, &batch, &[])).await));
    assert_eq!(outbox.number("select count(*) from outbox").await, 3);
    assert_eq!(outbox.number("select count(*) from outbox_checkpoint").await, 0);
    reader.fetch(AMPLE).await.unwrap();
}

#[tokio::test]
async fn the_backlog_counts_what_is_not_settled_and_knows_its_age() {
    for url in servers() {
        let outbox = Outbox::new(&url, "backlog").await;
        let term = outbox.lead().await;
        let empty = outbox.store.backlog(1_000).await.unwrap();
        assert_eq!((empty.unsent, empty.capped, empty.oldest), (0, false, Duration::ZERO));
        write_many(&outbox, 50).await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "update outbox set created_at = created_at - interval '1 hour' where id = 7").await;
        let full = outbox.store.backlog(1_000).await.unwrap();
        assert_eq!((full.unsent, full.capped), (50, false));
        assert!(full.oldest >= Duration::from_secs(3600) && full.oldest < Duration::from_secs(3700));
        let capped = outbox.store.backlog(20).await.unwrap();
        assert_eq!((capped.unsent, capped.capped), (20, true));

        let mut reader = outbox.open().await;
        let lane = Lane::from_columns("t", Some("7"), None);
        let held = Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() };
        reader.hold(held.clone());
        outbox.settle(&drain(&mut *reader, AMPLE).await).await;
        let last = reader.fetch(AMPLE).await.unwrap();
        reader.save(&checkpoint(term, &last, &[held])).await.unwrap();
        let left = outbox.store.backlog(1_000).await.unwrap();
        assert_eq!((left.unsent, outbox.store.bring_back_late().await.unwrap()), (1, 0));
        assert!(left.oldest >= Duration::from_secs(3600));
        write_many(&outbox, 3).await;
        assert_eq!(outbox.store.backlog(1_000).await.unwrap().unsent, 4);
    }
}

#[tokio::test]
async fn a_row_that_was_forgotten_below_the_checkpoint_is_counted_as_late() {
    let outbox = Outbox::new(&newest(), "forgotten").await;
    let term = outbox.lead().await;
    write_many(&outbox, 20).await;
    let mut reader = outbox.open().await;
    let read = drain(&mut *reader, AMPLE).await;
    outbox.settle(&read[1..]).await;
    let last = reader.fetch(AMPLE).await.unwrap();
    reader.save(&checkpoint(term, &last, &[])).await.unwrap();
    assert_eq!(outbox.store.bring_back_late().await.unwrap(), 1);
    outbox.settle(&read[..1]).await;
    outbox.store.bring_back_late().await.unwrap();
    assert_eq!(outbox.store.bring_back_late().await.unwrap(), 0);
}

#[tokio::test]
async fn an_old_snapshot_shows_its_age() {
    let outbox = Outbox::new(&newest(), "snapshot").await;
    let mut old = outbox.connect().await;
    outbox.run(&mut old, "begin isolation level repeatable read").await;
    outbox.run(&mut old, "select 1").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let age = outbox.store.backlog(1).await.unwrap().oldest_snapshot.unwrap();
    assert!(age >= Duration::from_millis(30), "{age:?}");
}
