//! Ids that are missing, in all numbers: they cost little, and hide nothing.

use outboxd::outbox::Settle;

use super::{Outbox, execute, keys, missing, open, read, read_until_missing, servers};
use crate::support::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_insert_that_was_rolled_back_is_forgotten_as_a_whole() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut bulk = outbox.connect().await;
        // Where reads repeat, copying rows would lock the end of the table.
        execute(&mut bulk, "set session transaction isolation level read committed").await;
        execute(&mut bulk, "begin; insert into outbox (topic, `key`) values ('t', 'x')").await;
        for _ in 0..14 {
            execute(&mut bulk, "insert into outbox (topic, `key`) select topic, `key` from outbox").await;
        }
        outbox.run("insert into outbox (topic, `key`) values ('t', 'other')").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["other"]);
        assert_eq!(missing(&*reader).len(), 1, "one gap, whatever its size");
        execute(&mut bulk, "rollback").await;
        assert!(read_until_missing(&mut reader, 0).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_an_application_names_far_ahead_are_one_gap_and_what_is_below_comes() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut late = outbox.connect().await;
        execute(&mut late, "begin; insert into outbox (topic, `key`) values ('t', 'late')").await;
        outbox.run("insert into outbox (id, topic, `key`) values (1000000000000, 't', 'far')").await;
        outbox.run("insert into outbox (topic, `key`) values ('t', 'farther')").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["far", "farther"]);
        assert_eq!(missing(&*reader).len(), 1);
        execute(&mut late, "commit").await;
        assert_eq!(keys(&read_until_missing(&mut reader, 0).await), ["late"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_grow_by_three_are_told_in_a_few_bytes_and_none_is_lost() {
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let mut reader = open(&outbox.store()).await;
        let mut conn = outbox.connect().await;
        execute(&mut conn, "set session auto_increment_increment = 3, auto_increment_offset = 2").await;
        let expected: Vec<String> = (0..300).map(|key| format!("k{key}")).collect();
        let mut came = Vec::new();
        for key in &expected {
            execute(&mut conn, &format!("insert into outbox (topic, `key`) values ('t', '{key}')")).await;
            came.extend(read(&mut reader, 7).await);
            assert!(reader.position().as_str().len() < 200, "{}", reader.position().as_str());
        }
        assert_eq!(keys(&came), expected);
        assert!(read_until_missing(&mut reader, 0).await.is_empty());
    }
}

/// A user who may not see what others run waits for a while, and more gaps pile up than a statement can name.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_see_statements_gaps_are_waited_out_and_merged_ones_hide_nothing() {
    const ROWS: usize = 5_000;
    for server in servers() {
        let outbox = Outbox::new(&server, Settle::Checkpoint).await;
        let user = format!("u{:08x}", rand::random::<u32>());
        // A password that any connection may carry.
        let is_mariadb = outbox.number("select version() like '%MariaDB%'").await == 1;
        let identified = if is_mariadb { "identified by" } else { "identified with mysql_native_password by" };
        // An anonymous user of the host would come before one of any host.
        for host in ["127.0.0.1", "localhost"] {
            outbox.run(&format!("create user {user}@'{host}' {identified} 'outboxd'")).await;
            outbox.run(&format!("grant all on {}.* to {user}@'{host}'", outbox.name)).await;
        }
        let url = outbox.url().replacen("outboxd:outboxd@", &format!("{user}:outboxd@"), 1);
        let mut reader = open(&outbox.store_at(url)).await;
        let insert = |first: usize| {
            let rows: Vec<String> = (first..=ROWS).step_by(2).map(|id| format!("({id}, 't', 'k{id}')")).collect();
            format!("insert into outbox (id, topic, `key`) values {}", rows.join(","))
        };
        let mut late = outbox.connect().await;
        outbox.run(&insert(1)).await;
        let mut came = read(&mut reader, 1_000).await;
        assert_eq!(came.len(), ROWS / 2);
        execute(&mut late, "begin").await;
        execute(&mut late, &insert(2)).await;
        assert!(read(&mut reader, 1_000).await.is_empty());
        execute(&mut late, "commit").await;
        let rest = read(&mut reader, 1_000).await;
        assert_eq!(rest.len(), ROWS / 2, "each once");
        assert!(rest.is_sorted_by_key(|record| record.id));
        came.extend(rest);
        came.sort_by_key(|record| record.id);
        assert!(came.iter().map(|record| record.id).eq(1..=ROWS as i64));

        outbox.run("insert into outbox (id, topic, `key`) values (6000, 't', 'last')").await;
        assert_eq!(keys(&read(&mut reader, 10).await), ["last"]);
        assert_eq!(missing(&*reader).len(), 1);
        wait::until_true("the gap was waited out", wait::PATIENCE, async || {
            read(&mut reader, 10).await;
            missing(&*reader).is_empty()
        })
        .await;
        for host in ["127.0.0.1", "localhost"] {
            outbox.run(&format!("drop user {user}@'{host}'")).await;
        }
    }
}
