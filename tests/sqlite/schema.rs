//! The tables: made once, checked always, and every complaint with its repair.

use outboxd::contract::{Database, DatabaseSettings, OutboxStore, StoreError};
use outboxd::outbox::{Settle, Table};
use outboxd::secret::Secret;
use outboxd::sqlite;

use crate::sqlite::File;

#[tokio::test]
async fn migrating_again_does_nothing() {
    let file = File::new();
    let applied = sqlite::migrate(&file.url(), &Table::default()).await.expect("migrated").applied;
    assert_eq!(applied, ["0001_outbox", "0002_history", "0003_operators"]);
    let applied = sqlite::migrate(&file.url(), &Table::default()).await.expect("migrated").applied;
    assert_eq!(applied, [""; 0]);
    sqlite::check(&file.url(), &Table::default()).await.expect("the tables are right");
    assert_eq!(file.store().preflight().await.expect("it can work"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_may_migrate_at_once() {
    let file = File::new();
    let table = Table::default();
    let url = file.url();
    let all = futures_util::future::join_all((0..8).map(|_| sqlite::migrate(&url, &table))).await;
    let applied: usize = all.into_iter().map(|one| one.expect("migrated").applied.len()).sum();
    assert_eq!(applied, 3, "each migration is applied once");
}

#[tokio::test]
async fn outboxes_of_several_names_live_in_one_file() {
    let file = File::migrated().await;
    let other: Table = "shop_events".parse().expect("a name");
    sqlite::migrate(&file.url(), &other).await.expect("migrated");
    sqlite::check(&file.url(), &other).await.expect("the tables are right");
    sqlite::check(&file.url(), &Table::default()).await.expect("the tables are right");
}

#[tokio::test]
async fn printed_sql_makes_tables_that_pass_the_check() {
    let file = File::new();
    let table: Table = "shop_events".parse().expect("a name");
    let sql = sqlx::AssertSqlSafe(sqlite::migration_sql(&table));
    sqlx::raw_sql(sql).execute(&mut file.connect().await).await.expect("the SQL runs");
    sqlite::check(&file.url(), &table).await.expect("the tables are right");
}

#[tokio::test]
async fn a_schema_that_is_not_what_is_needed_is_refused_with_the_repair() {
    let file = File::new();
    assert_repair(sqlite::check(&file.url(), &Table::default()).await, "there is no database file", "outboxd migrate");
    file.run("create table unrelated (id integer)").await;
    assert_repair(sqlite::check(&file.url(), &Table::default()).await, "SQLite refused", "outboxd migrate");
    assert_repair(file.store().preflight().await, "SQLite refused", "outboxd migrate");
    assert_repair(file.store().open().await.map(|_| ()), "SQLite refused", "outboxd migrate");
    sqlite::migrate(&file.url(), &Table::default()).await.expect("migrated");
    file.run("insert into outbox_migrations (number, name) values (9999, 'later')").await;
    assert_repair(sqlite::check(&file.url(), &Table::default()).await, "has migration 9999", "newer outboxd");
    assert_repair(sqlite::migrate(&file.url(), &Table::default()).await, "has migration 9999", "newer outboxd");
    file.run("delete from outbox_migrations").await;
    assert_repair(sqlite::check(&file.url(), &Table::default()).await, "lacks migration 0001", "outboxd migrate");
}

#[tokio::test]
async fn a_table_that_gives_ids_twice_is_refused() {
    let file = File::migrated().await;
    file.run(
        "drop table outbox;
         create table outbox (id integer primary key, event_id text, topic text, key text, payload blob, headers text,
            partition integer, created_at text, sent_at text)",
    )
    .await;
    assert_repair(file.store().preflight().await, "not autoincrement", "outboxd migrate");
}

#[tokio::test]
async fn a_rollback_journal_is_warned_of() {
    let file = File::new();
    let sql = sqlx::AssertSqlSafe(sqlite::migration_sql(&Table::default()));
    sqlx::raw_sql(sql).execute(&mut file.connect().await).await.expect("the SQL runs");
    let warnings = file.store().preflight().await.expect("it can work");
    assert!(warnings.len() == 1 && warnings[0].contains("journal mode delete"), "{warnings:?}");
}

#[test]
fn what_cannot_be_an_outbox_in_sqlite_is_refused_before_anything_connects() {
    for (url, table) in
        [("sqlite::memory:", "outbox"), ("sqlite:shop.db", "main.outbox"), ("sqlite:shop.db?mode=memory", "outbox")]
    {
        let table = table.parse().expect("a name");
        let refused = sqlite::Store::new(DatabaseSettings::new(Secret::new(url), table, Settle::Mark));
        assert!(matches!(refused, Err(StoreError::Unusable { .. })), "{url}");
    }
}

#[tokio::test]
async fn the_source_is_the_file_and_the_table() {
    let file = File::new();
    assert_eq!(file.store().source().await.expect("a name"), "shop.db.outbox");
}

fn assert_repair<T>(result: Result<T, StoreError>, problem: &str, repair: &str) {
    let Err(error) = result else { panic!("expected: {problem}") };
    assert!(!error.is_transient(), "{error}");
    let text = error.to_string();
    assert!(text.contains(problem) && text.contains(repair), "{text}");
}
