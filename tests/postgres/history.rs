//! Histories that fork: what the broker remembers is believed only where the database has the proof of it.

use outboxd::contract::{OutboxStore, Reader};
use outboxd::outbox::{Position, Settle, Settlement, Term};

use super::server::{AMPLE, Outbox, checkpoint, drain, problem, servers};

/// Rows that were read, proven, and published by a session, and the position that the broker remembers of them.
async fn published(outbox: &Outbox, reader: &mut dyn Reader, term: Term, rows: usize) -> Position {
    let write = format!("insert into outbox (topic, key) select 't', 'k' from generate_series(1, {rows})");
    outbox.run(&mut outbox.connect().await, &write).await;
    assert_eq!(drain(reader, AMPLE).await.len(), rows);
    reader.prove(term).await.unwrap();
    reader.position()
}

/// Keeps all tables of an outbox as they are now, or puts them back as they were: a backup, and its restoration. The
/// cluster's transaction ids go on, as they do where writers were quick after a restoration.
async fn back_up(outbox: &Outbox) {
    let tables = ["outbox", "outbox_checkpoint", "outbox_held", "outbox_lease", "outbox_dead"];
    for table in tables {
        let backup =
            format!("drop table if exists {table}_backup; create table {table}_backup as select * from {table}");
        outbox.run(&mut outbox.connect().await, &backup).await;
    }
}

async fn restore(outbox: &Outbox) {
    let restore = "set session_replication_role = replica; delete from outbox; delete from outbox_checkpoint; delete from outbox_lease;
        insert into outbox overriding system value select * from outbox_backup;
        insert into outbox_checkpoint select * from outbox_checkpoint_backup;
        insert into outbox_lease select * from outbox_lease_backup;
        set session_replication_role = origin";
    outbox.run(&mut outbox.connect().await, restore).await;
}

async fn unsettled(outbox: &Outbox) -> Vec<i64> {
    drain(&mut *outbox.open().await, AMPLE).await.iter().map(|record| record.id).collect()
}

#[tokio::test]
async fn a_progress_of_a_future_that_a_restored_backup_never_had_is_refused() {
    for url in servers() {
        for settle in Settle::ALL {
            let outbox = Outbox::settling(&url, "future", settle).await;
            let term = outbox.lead().await;
            let mut reader = outbox.open().await;
            published(&outbox, &mut *reader, term, 5).await;
            back_up(&outbox).await;
            // The same session goes on: only the number of its proof tells that the backup is behind.
            let progress = published(&outbox, &mut *reader, term, 30).await;
            drop(reader);
            restore(&outbox).await;
            outbox
                .run(&mut outbox.connect().await, "insert into outbox (topic) select 't' from generate_series(1, 50)")
                .await;
            let term = outbox.lead().await;
            let refused = outbox.store.recover(term, Some(&progress), &Settlement::default()).await;
            let said = problem(refused.unwrap_err());
            assert!(said.contains("not of this outbox's history") && said.contains("relay.progress_topic"), "{said}");
            assert_eq!(unsettled(&outbox).await.len(), 55, "nothing was recorded in mode {settle}");
        }
    }
}

#[tokio::test]
async fn a_progress_that_a_restored_backup_has_the_proof_of_is_believed() {
    for url in servers() {
        let outbox = Outbox::new(&url, "has_proof").await;
        let term = outbox.lead().await;
        let mut reader = outbox.open().await;
        let progress = published(&outbox, &mut *reader, term, 5).await;
        // Proven, and never published.
        published(&outbox, &mut *reader, term, 5).await;
        back_up(&outbox).await;
        restore(&outbox).await;
        outbox.write(&mut outbox.connect().await, "t", "new").await;
        let term = outbox.lead().await;
        outbox.store.recover(term, Some(&progress), &Settlement::default()).await.unwrap();
        assert_eq!(unsettled(&outbox).await, [6, 7, 8, 9, 10, 11]);
    }
}

#[tokio::test]
async fn a_progress_is_believed_through_takeovers_that_publish_nothing() {
    for url in servers() {
        let outbox = Outbox::new(&url, "idle_takeovers").await;
        let term = outbox.lead().await;
        let mut reader = outbox.open().await;
        let progress = published(&outbox, &mut *reader, term, 5).await;
        for _ in 0..3 {
            drop(reader);
            let term = outbox.lead().await;
            outbox.store.recover(term, Some(&progress), &Settlement::default()).await.unwrap();
            reader = outbox.open().await;
            // What it reads is proven, and then it is gone before anything is published.
            published(&outbox, &mut *reader, term, 0).await;
            reader.prove(term).await.unwrap();
        }
        assert!(unsettled(&outbox).await.is_empty());
    }
}

#[tokio::test]
async fn a_progress_of_another_outbox_with_the_same_name_is_refused() {
    for url in servers() {
        let (one, other) = (Outbox::new(&url, "one").await, Outbox::new(&url, "other").await);
        let term = one.lead().await;
        let progress = published(&one, &mut *one.open().await, term, 20).await;
        let term = other.lead().await;
        other
            .run(&mut other.connect().await, "insert into outbox (topic) select 't' from generate_series(1, 20)")
            .await;
        let refused = other.store.recover(term, Some(&progress), &Settlement::default()).await;
        assert!(problem(refused.unwrap_err()).contains("not of this outbox's history"));
        assert_eq!(unsettled(&other).await.len(), 20);
    }
}

#[tokio::test]
async fn a_progress_without_a_proof_is_believed_only_where_the_checkpoint_covers_it() {
    for url in servers() {
        let outbox = Outbox::new(&url, "without").await;
        let term = outbox.lead().await;
        let mut reader = outbox.open().await;
        let bare = |position: Position| {
            let mut json: serde_json::Value = serde_json::from_str(position.as_str()).unwrap();
            assert!(json.as_object_mut().unwrap().remove("proof").is_some());
            Position::new(json.to_string())
        };
        let progress = bare(published(&outbox, &mut *reader, term, 5).await);
        let refused = outbox.store.recover(term, Some(&progress), &Settlement::default()).await;
        assert!(problem(refused.unwrap_err()).contains("does not tell which history"));
        let last = reader.fetch(AMPLE).await.unwrap();
        reader.save(&checkpoint(term, &last, &[])).await.unwrap();
        outbox.store.recover(term, Some(&progress), &Settlement::default()).await.unwrap();
    }
}
