//! The tables: created, upgraded, judged, and granted.

use std::process::Command;

use outboxd::Message;
use outboxd::contract::{Database, Inspect, LeaseStore, OutboxStore};
use outboxd::outbox::{Settle, Table};
use outboxd::postgres::{self, EnqueueError, check, migrate, migration_sql};
use outboxd::secret::Secret;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::server::{AMPLE, Outbox, drain, execute, newest, problem, servers, store};

/// An empty schema, and the name of an outbox in it.
async fn schema(url: &str, name: &str) -> (PgConnection, Table) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let statement = format!("drop schema if exists t_{name} cascade; create schema t_{name}");
    execute(&mut conn, &statement).await;
    (conn, format!("t_{name}.queue").parse().unwrap())
}

#[tokio::test]
async fn two_that_migrate_at_once_apply_each_migration_once() {
    for url in servers() {
        let (_conn, table) = schema(&url, "at_once").await;
        let secret = Secret::new(&url);
        let (first, second) = tokio::join!(migrate(&secret, &table), migrate(&secret, &table));
        let mut applied = [first.unwrap().applied, second.unwrap().applied].concat();
        applied.sort();
        assert_eq!(applied, ["0001_outbox", "0002_history", "0003_operators"]);
        assert!(migrate(&secret, &table).await.unwrap().applied.is_empty());
        check(&secret, &table).await.unwrap();
    }
}

#[tokio::test]
async fn the_printed_sql_makes_a_schema_that_passes() {
    for url in servers() {
        let (mut conn, table) = schema(&url, "printed").await;
        execute(&mut conn, &migration_sql(&table)).await;
        check(&Secret::new(&url), &table).await.unwrap();
        assert!(migrate(&Secret::new(&url), &table).await.unwrap().applied.is_empty());
    }
}

#[tokio::test]
async fn a_schema_that_is_not_what_is_needed_is_refused_with_the_repair() {
    let url = newest();
    let (mut conn, table) = schema(&url, "refused").await;
    let secret = Secret::new(&url);
    let missing = problem(check(&secret, &table).await.unwrap_err());
    assert!(missing.contains("outboxd migrate --table t_refused.queue"), "{missing}");
    migrate(&secret, &table).await.unwrap();
    for (damage, complaint) in [
        ("alter table t_refused.queue disable trigger wake", "wakes the relay"),
        ("alter table t_refused.queue disable trigger stamp_restored", "restored and corrected rows"),
        ("alter table t_refused.queue drop column headers", "column headers is missing"),
        (
            "drop trigger stamp_corrected on t_refused.queue; alter table t_refused.queue alter column partition type bigint",
            "partition is bigint",
        ),
        ("alter table t_refused.queue alter column id set cache 50", "cache 1"),
        ("drop index t_refused.queue_xid_idx", "index on xid"),
        ("insert into t_refused.queue_migrations values ('9999_future')", "9999_future"),
    ] {
        execute(&mut conn, damage).await;
        let refusal = problem(check(&secret, &table).await.unwrap_err());
        assert!(refusal.contains(complaint), "{complaint}: {refusal}");
    }
    assert!(problem(migrate(&secret, &table).await.unwrap_err()).contains("newer"));
    let elsewhere = "t_no_such_schema.queue".parse().unwrap();
    assert!(problem(migrate(&secret, &elsewhere).await.unwrap_err()).contains("create it"));
}

#[tokio::test]
async fn any_language_enqueues_by_a_function() {
    for url in servers() {
        let outbox = Outbox::new(&url, "function").await;
        let mut conn = outbox.connect().await;
        for call in [
            r#"('t', 'json', '{"a": "\\x41"}'::jsonb, '{"traceparent": "00-1"}')"#,
            r#"('t', 'text', '{"a": "\\x41"}')"#,
            r"('t', 'bytes', '\x00ff'::bytea)",
            r"('t', null, null::bytea, null)",
        ] {
            outbox.run(&mut conn, &format!("select outbox_enqueue{call}")).await;
        }
        let read = drain(&mut *outbox.open().await, AMPLE).await;
        let payloads: Vec<_> = read.iter().map(|record| record.payload.as_deref()).collect();
        let json = br#"{"a": "\\x41"}"#.as_slice();
        assert_eq!(payloads, [Some(json), Some(json), Some(&[0, 0xff]), None]);
        assert_eq!(read[0].headers, [("traceparent".to_owned(), Some("00-1".to_owned()))]);
        assert_eq!(read[3].key, None);
    }
}

#[tokio::test]
async fn messages_are_written_in_their_order_in_the_callers_transaction() {
    for url in servers() {
        let outbox = Outbox::new(&url, "enqueue").await;
        let mut conn = outbox.connect().await;
        let mut transaction = conn.begin().await.unwrap();
        let message = |n: u32| Message::to("t").key(n).header("n", n.to_string()).partition(1);
        let mut messages: Vec<Message> = (0..50).map(|n| message(n).bytes(vec![n as u8; 9]).unwrap()).collect();
        messages.push(message(50).tombstone().unwrap());
        let first = postgres::enqueue_into(&mut transaction, &outbox.table, &messages[0]).await.unwrap();
        let ids = postgres::enqueue_many_into(&mut transaction, &outbox.table, &messages[1..]).await.unwrap();
        assert!(first < ids[0] && ids.is_sorted());
        let mut reader = outbox.open().await;
        assert!(drain(&mut *reader, AMPLE).await.is_empty());
        transaction.commit().await.unwrap();
        let read = drain(&mut *reader, AMPLE).await;
        assert_eq!(read.len(), messages.len());
        for (record, message) in read.iter().zip(&messages) {
            assert_eq!((record.event_id, record.key.as_deref()), (message.event_id(), message.key()));
            assert_eq!((record.payload.as_deref(), record.partition), (message.payload(), Some(1)));
            assert_eq!(record.headers, [("n".to_owned(), Some(message.key().unwrap().to_owned()))]);
        }
        let nowhere = "t_enqueue.nothing".parse().unwrap();
        let error = postgres::enqueue_into(&mut conn, &nowhere, &messages[0]).await.unwrap_err();
        assert!(matches!(&error, EnqueueError::NoTable { .. }) && error.to_string().contains("outboxd migrate"));
    }
}

#[tokio::test]
async fn two_roles_with_the_least_privileges_suffice() {
    for url in servers() {
        let outbox = Outbox::new(&url, "roles").await;
        let mut admin = outbox.connect().await;
        for role in ["outboxd_test_app", "outboxd_test_relay"] {
            let create = format!(
                "do $$ begin create role {role} login password 'secret'; exception when duplicate_object then null; end $$"
            );
            execute(&mut admin, &create).await;
        }
        let mut grant = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        grant.args([
            "migrate",
            "--grants",
            "outboxd_test_app,outboxd_test_relay",
            "--table",
            &outbox.table.to_string(),
        ]);
        assert!(grant.args(["--database-url", &url]).status().unwrap().success());
        let login = |role: &str| url.replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);

        let mut app = PgConnection::connect(&login("outboxd_test_app")).await.unwrap();
        let message = Message::to("t").key("k").text("x").unwrap();
        postgres::enqueue_into(&mut app, &outbox.table, &message).await.unwrap();
        outbox.run(&mut app, "select outbox_enqueue('t', 'k', 'y')").await;
        let peek = format!("select payload from {}", outbox.table);
        sqlx::query(AssertSqlSafe(peek)).fetch_all(&mut app).await.expect_err("only ids may be selected");

        let relay = Outbox {
            url: login("outboxd_test_relay"),
            table: outbox.table.clone(),
            store: store(&login("outboxd_test_relay"), &outbox.table, Settle::Mark),
        };
        relay.store.preflight().await.unwrap();
        let mut lease = relay.store.lease("test", std::time::Duration::from_secs(9)).await.unwrap();
        let outboxd::contract::Bid::Won(term) = lease.bid().await.unwrap() else { panic!("nobody else leads") };
        let mut reader = relay.open().await;
        let read = drain(&mut *reader, AMPLE).await;
        relay.settle(&read).await;
        let last = reader.fetch(AMPLE).await.unwrap();
        reader.save(&super::server::checkpoint(term, &last, &[])).await.unwrap();
        relay.store.backlog(10).await.unwrap();
        assert_eq!(relay.store.purge(term, std::time::Duration::ZERO).await.unwrap().removed, 2);
        // Another cluster's rows are taken over with these privileges as well.
        outbox.run(&mut admin, "update outbox_checkpoint set system = 'elsewhere'").await;
        relay.open().await;
    }
}

#[tokio::test]
async fn the_server_is_reached_with_tls_and_over_a_unix_socket() {
    for name in ["OUTBOXD_TEST_POSTGRES_TLS", "OUTBOXD_TEST_POSTGRES_SOCKET"] {
        let url = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run through `make test`"));
        let outbox = Outbox::new(&url, &name.to_lowercase()).await;
        outbox.write(&mut outbox.connect().await, "t", "k").await;
        assert_eq!(drain(&mut *outbox.open().await, AMPLE).await.len(), 1);
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_waited_for_and_a_wrong_password_is_not() {
    let table = Table::default();
    let nobody = store("postgres://outboxd@127.0.0.1:1/outboxd", &table, Settle::Mark);
    assert!(nobody.backlog(1).await.unwrap_err().is_transient());
    let url = newest().replacen("outboxd:outboxd@", "outboxd_nobody:wrong@", 1);
    let refused = store(&url, &table, Settle::Mark).open().await.err().expect("no such role");
    assert!(problem(refused).contains("database.url"));
}
