//! Reading: complete, in order, never early, bounded, and cheap when nothing is new.

use std::sync::Arc;
use std::time::Duration;

use outboxd::contract::StoreError;
use outboxd::outbox::{Limit, Settle};
use tokio::time::Instant;

use super::server::{AMPLE, Outbox, checkpoint, drain, execute, keys, newest, servers};
use super::workload::{self, WRITERS};

#[tokio::test]
async fn a_late_commit_is_read_when_it_commits_and_delays_nobody() {
    for url in servers() {
        let outbox = Outbox::new(&url, "late").await;
        let (mut early, mut late) = (outbox.connect().await, outbox.connect().await);
        let mut reader = outbox.open().await;
        execute(&mut late, "begin").await;
        outbox.write(&mut late, "t", "late").await;
        outbox.write(&mut early, "t", "early").await;
        assert_eq!(keys(&drain(&mut *reader, AMPLE).await), ["early"]);
        execute(&mut late, "commit").await;
        assert_eq!(keys(&drain(&mut *reader, AMPLE).await), ["late"]);
        assert!(drain(&mut *reader, AMPLE).await.is_empty());
    }
}

#[tokio::test]
async fn a_key_comes_in_the_order_of_commits_where_transaction_ids_say_otherwise() {
    for url in servers() {
        let outbox = Outbox::new(&url, "inversion").await;
        let (mut first, mut second) = (outbox.connect().await, outbox.connect().await);
        let mut reader = outbox.open().await;
        execute(&mut first, "begin; select pg_current_xact_id()").await;
        outbox.run(&mut second, "insert into outbox (topic, key, payload) values ('t', 'k', 'second')").await;
        outbox.run(&mut first, "insert into outbox (topic, key, payload) values ('t', 'k', 'first')").await;
        execute(&mut first, "commit").await;
        let payloads: Vec<_> = drain(&mut *reader, AMPLE).await.into_iter().map(|r| r.payload.unwrap()).collect();
        assert_eq!(payloads, [b"second".to_vec(), b"first".to_vec()]);
    }
}

#[tokio::test]
async fn each_window_is_proven_durable_and_its_pages_need_no_proof_of_their_own() {
    for url in servers() {
        let outbox = Outbox::new(&url, "proof").await;
        let term = outbox.lead().await;
        let mut conn = outbox.connect().await;
        let insert = "insert into outbox (topic, key) select 't', n::text from generate_series(1, 5) n";
        let mut proofs = Vec::new();
        // The first window is what is there when a reader begins.
        outbox.run(&mut conn, insert).await;
        let mut reader = outbox.open().await;
        for _window in 0..3 {
            let (mut pages, mut read) = (0, 0);
            while read < 5 {
                read += reader.fetch(Limit { records: 2, ..AMPLE }).await.unwrap().records.len();
                reader.prove(term).await.unwrap();
                proofs.push(outbox.number("select xmin::text::bigint from outbox_lease").await);
                pages += 1;
            }
            assert!(pages >= 3, "{pages}");
            outbox.run(&mut conn, insert).await;
        }
        proofs.dedup();
        assert_eq!(proofs.len(), 3, "one for each window");
    }
}

#[tokio::test]
async fn a_savepoint_is_read_once_its_transaction_commits_and_never_when_rolled_back() {
    for url in servers() {
        let outbox = Outbox::new(&url, "savepoints").await;
        let mut conn = outbox.connect().await;
        let mut reader = outbox.open().await;
        execute(&mut conn, "begin; savepoint a").await;
        outbox.write(&mut conn, "t", "released").await;
        execute(&mut conn, "release savepoint a; savepoint b").await;
        outbox.write(&mut conn, "t", "rolled back").await;
        execute(&mut conn, "rollback to savepoint b").await;
        assert!(drain(&mut *reader, AMPLE).await.is_empty());
        execute(&mut conn, "commit").await;
        assert_eq!(keys(&drain(&mut *reader, AMPLE).await), ["released"]);
    }
}

/// Reads while eight writers work, and verifies what came.
async fn read_beside_writers(outbox: Outbox, limit: Limit, transactions: u32) {
    let outbox = Arc::new(outbox);
    workload::prepare(&outbox).await;
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..WRITERS {
        let outbox = Arc::clone(&outbox);
        writers.spawn(async move { workload::write(&outbox, seed, transactions).await });
    }
    let mut reader = outbox.open().await;
    let mut read = Vec::new();
    while !writers.is_empty() {
        read.extend(reader.fetch(limit).await.unwrap().records);
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
    }
    read.extend(drain(&mut *reader, limit).await);
    workload::verify(&outbox, &read).await;
}

#[tokio::test]
async fn pages_of_three_beside_writers_lose_nothing_repeat_nothing_and_keep_order() {
    for url in servers() {
        let limit = Limit { records: 3, ..AMPLE };
        read_beside_writers(Outbox::new(&url, "pages_of_three").await, limit, 60).await;
    }
}

#[tokio::test]
async fn large_pages_beside_writers_lose_nothing_repeat_nothing_and_keep_order() {
    for url in servers() {
        read_beside_writers(Outbox::settling(&url, "large_pages", Settle::Checkpoint).await, AMPLE, 60).await;
    }
}

#[tokio::test]
async fn a_batch_ends_where_its_bytes_end_and_loses_nothing() {
    let outbox = Outbox::new(&newest(), "bytes").await;
    let mut conn = outbox.connect().await;
    let rows = "insert into outbox (topic, key, payload)
        select 't', n::text, convert_to(repeat(chr(64 + n % 50), (n % 7) * 6000), 'UTF8') from generate_series(1, 200) n";
    outbox.run(&mut conn, rows).await;
    let limit = Limit { records: 50, bytes: 30_000 };
    let mut reader = outbox.open().await;
    let mut expected = 1..=200_usize;
    loop {
        let batch = reader.fetch(limit).await.unwrap();
        assert!(batch.footprint() <= limit.bytes || batch.records.len() == 1, "{} bytes", batch.footprint());
        for record in batch.records {
            let n = expected.next().unwrap();
            let payload = record.payload.unwrap();
            assert_eq!((record.key.as_deref(), payload.len()), (Some(n.to_string().as_str()), (n % 7) * 6000));
        }
        if !batch.more {
            break;
        }
    }
    assert_eq!(expected.next(), None);
}

#[tokio::test]
async fn a_checkpoint_inside_a_window_is_where_the_next_session_begins() {
    for url in servers() {
        let outbox = Outbox::settling(&url, "inside", Settle::Checkpoint).await;
        let mut conn = outbox.connect().await;
        let term = outbox.lead().await;
        let rows = "insert into outbox (topic, key) select 't', n::text from generate_series(1, 10) n";
        outbox.run(&mut conn, rows).await;
        let (mut open, limit) = (outbox.connect().await, Limit { records: 3, ..AMPLE });
        execute(&mut open, "begin").await;
        outbox.write(&mut open, "t", "late").await;

        let mut reader = outbox.open().await;
        let mut read = reader.fetch(limit).await.unwrap();
        while read.records.is_empty() {
            read = reader.fetch(limit).await.unwrap();
        }
        assert_eq!(keys(&read.records), ["1", "2", "3"]);
        reader.save(&checkpoint(term, &read, &[])).await.unwrap();
        outbox.write(&mut conn, "t", "new").await;
        execute(&mut open, "commit").await;
        drop(reader);

        let rest = drain(&mut *outbox.open().await, limit).await;
        let mut rest = keys(&rest);
        // Those that came after the window may come in either order: they are of different lanes.
        rest[7..].sort_unstable();
        assert_eq!(rest, ["4", "5", "6", "7", "8", "9", "10", "late", "new"]);
    }
}

#[tokio::test]
async fn rows_whose_ids_are_far_apart_are_found_at_a_start_and_later() {
    for url in servers() {
        let outbox = Outbox::new(&url, "far_apart").await;
        let mut conn = outbox.connect().await;
        let spread = "insert into outbox (id, topic, key) overriding system value
            select n * 40000000, 't', n::text from generate_series(FROM, TO) n";
        let limit = Limit { records: 2, ..AMPLE };
        outbox.run(&mut conn, &spread.replace("FROM", "1").replace("TO", "5")).await;
        let mut reader = outbox.open().await;
        assert_eq!(keys(&drain(&mut *reader, limit).await), ["1", "2", "3", "4", "5"]);
        outbox.run(&mut conn, &spread.replace("FROM", "6").replace("TO", "10")).await;
        assert_eq!(keys(&drain(&mut *reader, limit).await), ["6", "7", "8", "9", "10"]);
        assert!(drain(&mut *reader, limit).await.is_empty());
    }
}

#[tokio::test]
async fn a_session_that_failed_refuses_to_read_on() {
    let outbox = Outbox::new(&newest(), "failed").await;
    let mut reader = outbox.open().await;
    let mut conn = outbox.connect().await;
    let backend = "select pg_terminate_backend(pid) from pg_stat_activity a
        where application_name = 'outboxd/reader' and query like '%t_failed%'";
    reader.fetch(AMPLE).await.unwrap();
    execute(&mut conn, backend).await;
    for _ in 0..2 {
        let error = reader.fetch(AMPLE).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn rows_that_were_marked_are_not_read_again_in_any_mode() {
    let outbox = Outbox::new(&newest(), "marked").await;
    let mut conn = outbox.connect().await;
    outbox.write(&mut conn, "t", "a").await;
    outbox.write(&mut conn, "t", "b").await;
    let read = drain(&mut *outbox.open().await, AMPLE).await;
    outbox.settle(&read[..1]).await;
    let other = super::server::store(&outbox.url, &outbox.table, Settle::Checkpoint);
    let mut reader = outboxd::contract::OutboxStore::open(&other).await.unwrap();
    assert_eq!(keys(&drain(&mut *reader, AMPLE).await), ["b"]);
}

/// The quickest of some empty reads: what it costs, without what else the machine does.
async fn empty_read(outbox: &Outbox) -> Duration {
    let mut reader = outbox.open().await;
    let mut best = Duration::MAX;
    drain(&mut *reader, AMPLE).await;
    for _ in 0..20 {
        let begin = Instant::now();
        let batch = reader.fetch(AMPLE).await.unwrap();
        best = best.min(begin.elapsed());
        assert!(batch.records.is_empty() && !batch.more);
    }
    best
}

#[tokio::test]
async fn an_empty_read_is_cheap_on_a_large_table_that_was_never_analysed() {
    for url in servers() {
        let outbox = Outbox::new(&url, "never_analysed").await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "alter table outbox set (autovacuum_enabled = off)").await;
        let term = outbox.lead().await;
        let rows = "insert into outbox (topic, key, payload, sent_at) overriding user value
            select 't', n::text, 'x', now() from generate_series(1, 1000000) n";
        outbox.run(&mut conn, rows).await;
        let mut reader = outbox.open().await;
        let batch = loop {
            let batch = reader.fetch(AMPLE).await.unwrap();
            if !batch.more {
                break batch;
            }
        };
        reader.save(&checkpoint(term, &batch, &[])).await.unwrap();
        let took = empty_read(&outbox).await;
        assert!(took < Duration::from_millis(5), "{took:?} on {url}");
    }
}

#[tokio::test]
async fn an_empty_read_is_cheap_among_dead_rows_that_an_old_snapshot_keeps() {
    let outbox = Outbox::settling(&newest(), "dead_rows", Settle::Delete).await;
    let (mut conn, mut old) = (outbox.connect().await, outbox.connect().await);
    let rows = "insert into outbox (topic, key, payload) select 't', n::text, 'x' from generate_series(1, 300000) n";
    outbox.run(&mut conn, rows).await;
    execute(&mut old, "begin isolation level repeatable read; select 1").await;
    let term = outbox.lead().await;
    let mut reader = outbox.open().await;
    let limit = Limit { records: 20_000, ..AMPLE };
    let batch = loop {
        let batch = reader.fetch(limit).await.unwrap();
        outbox.settle(&batch.records).await;
        if !batch.more {
            break batch;
        }
    };
    reader.save(&checkpoint(term, &batch, &[])).await.unwrap();
    assert_eq!(outbox.number("select count(*) from outbox").await, 0);
    let took = empty_read(&outbox).await;
    assert!(took < Duration::from_millis(5), "{took:?}");
}
