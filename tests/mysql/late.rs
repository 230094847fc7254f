//! Rows that commit late: they come, however much was read and forgotten meanwhile.

use outboxd::outbox::Settle;
use sqlx::{AssertSqlSafe, MySqlConnection};

use super::{Outbox, execute, keys, missing, number, open, read, read_until_missing, servers};
use crate::support::wait;

/// Inserts a row, in whatever transaction is open.
async fn insert(conn: &mut MySqlConnection, key: &str) {
    execute(conn, &format!("insert into outbox (topic, `key`) values ('t', '{key}')")).await;
}

/// Commits two rows, and rolls one in between back, which leaves a gap.
async fn pass_by(outbox: &Outbox) {
    let mut conn = outbox.connect().await;
    insert(&mut conn, "before").await;
    execute(&mut conn, "begin").await;
    insert(&mut conn, "rolled back").await;
    execute(&mut conn, "rollback").await;
    insert(&mut conn, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_commits_late_comes_though_gaps_that_are_younger_were_forgotten() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut late = outbox.connect().await;
        execute(&mut late, "begin").await;
        insert(&mut late, "late").await;
        pass_by(&outbox).await;
        assert_eq!(keys(&read_until_missing(&mut reader, 1).await), ["before", "after"]);
        assert_eq!(missing(&*reader), ["1"], "the row that was rolled back is forgotten, and the open one is not");
        execute(&mut late, "commit").await;
        assert_eq!(keys(&read(&mut reader, 1).await), ["late"]);
        assert!(missing(&*reader).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_savepoint_took_back_is_forgotten_and_the_rest_of_its_transaction_comes() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut conn = outbox.connect().await;
        execute(&mut conn, "begin").await;
        insert(&mut conn, "first").await;
        execute(&mut conn, "savepoint here").await;
        insert(&mut conn, "taken back").await;
        execute(&mut conn, "rollback to savepoint here").await;
        insert(&mut conn, "second").await;
        assert!(read(&mut reader, 10).await.is_empty());
        execute(&mut conn, "commit").await;
        assert_eq!(keys(&read_until_missing(&mut reader, 0).await), ["first", "second"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_is_waited_for_though_its_session_is_gone() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let name = format!("'{:016x}'", rand::random::<u64>());
        let mut conn = outbox.connect().await;
        execute(&mut conn, &format!("xa start {name}")).await;
        insert(&mut conn, "prepared").await;
        execute(&mut conn, &format!("xa end {name}")).await;
        execute(&mut conn, &format!("xa prepare {name}")).await;
        drop(conn);
        pass_by(&outbox).await;
        assert_eq!(keys(&read_until_missing(&mut reader, 1).await), ["before", "after"]);
        // The server needs a moment to find out that the session is gone.
        wait::until_true("the transaction is anybody's", wait::PATIENCE, async || {
            let commit = format!("xa commit {name}");
            sqlx::raw_sql(AssertSqlSafe(commit)).execute(&mut outbox.connect().await).await.is_ok()
        })
        .await;
        assert_eq!(keys(&read(&mut reader, 1).await), ["prepared"]);
    }
}

/// A statement that inserts many rows reserves ids before the rows are there.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_running_statement_reserved_are_waited_for() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut slow = outbox.connect().await;
        let writing = tokio::spawn(async move {
            let statement = "insert into outbox (topic, `key`, payload)
                 select 't', concat('slow-', n), sleep(2) from (select 1 n union all select 2 union all select 3) rows_of_it";
            execute(&mut slow, statement).await;
        });
        let mut dirty = outbox.connect().await;
        execute(&mut dirty, "set session transaction isolation level read uncommitted").await;
        wait::until_true("two of three rows are there", wait::PATIENCE, async || {
            number(&mut dirty, "select count(*) from outbox").await >= 2
        })
        .await;
        // Where the server hands ids out one statement after the other, this one waits.
        outbox.run("insert into outbox (topic, `key`) values ('t', 'quick')").await;
        let mut came = Vec::new();
        while !writing.is_finished() {
            came.extend(read(&mut reader, 10).await);
        }
        writing.await.unwrap();
        came.extend(read(&mut reader, 10).await);
        let mut came: Vec<&str> = keys(&came);
        came.sort_unstable();
        assert_eq!(came, ["quick", "slow-1", "slow-2", "slow-3"]);
    }
}

/// `innodb_trx` is renewed only when nobody has read it for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_that_reads_innodb_trx_all_the_time_hides_no_transaction() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut monitor = outbox.connect().await;
        let watching = tokio::spawn(async move {
            loop {
                number(&mut monitor, "select count(*) from information_schema.innodb_trx").await;
            }
        });
        let mut late = outbox.connect().await;
        execute(&mut late, "begin").await;
        insert(&mut late, "late").await;
        pass_by(&outbox).await;
        assert_eq!(keys(&read_until_missing(&mut reader, 1).await), ["before", "after"]);
        execute(&mut late, "commit").await;
        assert_eq!(keys(&read(&mut reader, 1).await), ["late"]);
        watching.abort();
    }
}
