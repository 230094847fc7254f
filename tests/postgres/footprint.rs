//! What the server knows of the table without looking at a row.

use outboxd::contract::{Footprint, Inspect};
use sqlx::Connection;

use super::server::{Outbox, execute, newest, servers};
use crate::support::wait::{self, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_are_told_until_a_vacuum_which_is_told_too() {
    for url in servers() {
        let outbox = Outbox::new(&url, "footprint").await;
        let mut conn = outbox.connect().await;
        outbox.run(&mut conn, "alter table outbox set (autovacuum_enabled = false)").await;
        outbox.run(&mut conn, "insert into outbox (topic) select 't' from generate_series(1, 1000)").await;
        outbox.run(&mut conn, "update outbox set sent_at = now()").await;
        let seen = async || outbox.store.footprint().await.unwrap();
        // The server counts a moment later, and of older ones none that stays connected and says nothing.
        conn.close().await.unwrap();
        wait::until_true("dead rows are told", PATIENCE, async || seen().await.dead_rows >= Some(1_000)).await;
        let Footprint { bytes, vacuumed_at, .. } = seen().await;
        assert!(bytes > 1_000 * 30 && vacuumed_at.is_none(), "{bytes}, {vacuumed_at:?}");
        // Again and again: while a snapshot of another test is open, a vacuum leaves what that one may still see.
        let vacuumed = async || {
            outbox.run(&mut outbox.connect().await, "vacuum outbox").await;
            let seen = seen().await;
            seen.vacuumed_at.is_some() && seen.dead_rows == Some(0)
        };
        wait::until_true("the vacuum is told", PATIENCE, vacuumed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_dropped_is_an_error_with_the_repair() {
    let outbox = Outbox::new(&newest(), "footprint_gone").await;
    outbox.store.footprint().await.unwrap();
    execute(&mut outbox.connect().await, "drop schema t_footprint_gone cascade").await;
    let error = outbox.store.footprint().await.unwrap_err().to_string();
    assert!(error.contains("there is no outbox table"), "{error}");
}
