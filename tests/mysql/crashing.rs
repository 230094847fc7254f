//! Servers that are killed: what was stored is where reading begins, and nothing committed is lost.

use std::time::Duration;

use outboxd::contract::Reader;
use outboxd::outbox::{Limit, Settle};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::{AMPLE, Outbox, execute, keys, lead, open, read, read_until_missing, save};
use crate::support::machine;
use crate::support::throwaway::MySql;
use crate::support::wait;

/// Inserts a row as soon as the server takes it.
async fn insert(outbox: &Outbox, key: &str) {
    let sql = format!("insert into outbox (topic, `key`) values ('t', '{key}')");
    wait::until_true("the server takes a row", wait::PATIENCE, async || {
        let Ok(mut conn) = MySqlConnection::connect(&outbox.url()).await else { return false };
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut conn).await.is_ok()
    })
    .await;
}

async fn fails(reader: &mut Box<dyn Reader>) {
    let fetched = tokio::time::timeout(Duration::from_secs(60), reader.fetch(Limit { records: 1, ..AMPLE })).await;
    assert!(fetched.is_ok_and(|batch| batch.is_err()), "a session ends with the server that it was of");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_reading_goes_on_where_it_was_stored_and_ids_that_come_again_are_other_rows() {
    let _machine = machine::shared().await;
    for throwaway in [MySql::start(), MySql::start_mariadb()] {
        let outbox = Outbox::new(throwaway.server(), Settle::Checkpoint).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut reader = open(&store).await;
        insert(&outbox, "one").await;
        let mut open_one = outbox.connect().await;
        execute(&mut open_one, "begin; insert into outbox (topic, `key`) values ('t', 'never')").await;
        insert(&outbox, "two").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["one", "two"]);
        save(&mut reader, term, Vec::new()).await;
        insert(&outbox, "three").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["three"], "and that is not stored");
        execute(&mut open_one, "insert into outbox (topic, `key`) values ('t', 'never'), ('t', 'never')").await;

        throwaway.crash();
        fails(&mut reader).await;
        insert(&outbox, "four").await;
        let mut next = open(&store).await;
        assert_eq!(keys(&read_until_missing(&mut next, 0).await), ["three", "four"]);
        insert(&outbox, "five").await;
        assert_eq!(keys(&read(&mut next, 10).await), ["five"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_outlives_a_crash_and_is_waited_for() {
    let _machine = machine::shared().await;
    for throwaway in [MySql::start(), MySql::start_mariadb()] {
        let outbox = Outbox::new(throwaway.server(), Settle::Checkpoint).await;
        let store = outbox.store();
        let (_leader, term) = lead(&store).await;
        let mut reader = open(&store).await;
        let mut conn = outbox.connect().await;
        for statement in [
            "xa start 'x'",
            "insert into outbox (topic, `key`) values ('t', 'prepared')",
            "xa end 'x'",
            "xa prepare 'x'",
        ] {
            execute(&mut conn, statement).await;
        }
        insert(&outbox, "early").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["early"]);
        save(&mut reader, term, Vec::new()).await;
        throwaway.crash();
        let mut rolled_back = outbox.connect().await;
        execute(&mut rolled_back, "begin; insert into outbox (topic) values ('t'); rollback").await;
        insert(&outbox, "later").await;
        let mut next = open(&store).await;
        assert_eq!(keys(&read_until_missing(&mut next, 1).await), ["later"]);
        execute(&mut rolled_back, "xa commit 'x'").await;
        assert_eq!(keys(&read(&mut next, 10).await), ["prepared"]);
    }
}
