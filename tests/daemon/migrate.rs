//! `outboxd migrate`, over SQLite; the tables themselves are tested with their databases.

use crate::daemon::small::Small;
use crate::daemon::{ran, stderr, stdout};

#[tokio::test]
async fn migrating_again_changes_nothing_and_the_check_is_content() {
    let small = Small::without_tables();
    let migrate = ["migrate", "--database-url", &small.url()];
    let check = [&migrate[..], &["--check"]].concat();
    assert_eq!(ran(&check).status.code(), Some(1));
    let first = ran(&migrate);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(stdout(&first).contains("applied 0001_outbox, 0002_history, 0003_operators"), "{}", stdout(&first));
    assert!(stdout(&ran(&migrate)).contains("were up to date"));
    assert_eq!(ran(&check).status.code(), Some(0));
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_refused_before_anything_is_published() {
    let small = Small::new().await;
    let url = format!("{}?mode=ro", small.url());
    let refused = ran(&["migrate", "--check", "--database-url", &url]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("let the relay write to the file"), "{}", stderr(&refused));
    assert_eq!(ran(&["migrate", "--check", "--database-url", &small.url()]).status.code(), Some(0));
}

#[tokio::test]
async fn an_outbox_of_another_name_is_another_outbox() {
    let small = Small::new().await;
    let url = small.url();
    let check = ["migrate", "--check", "--database-url", &url, "--table", "letters"];
    let refused = ran(&check);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("letters"), "{}", stderr(&refused));
    assert_eq!(ran(&["migrate", "--database-url", &url, "--table", "letters"]).status.code(), Some(0));
    assert_eq!(ran(&check).status.code(), Some(0));
}

#[test]
fn the_sql_is_printed_without_connecting_to_anything() {
    let postgres = stdout(&ran(&["migrate", "--print", "--table", "shop.letters", "--grants", "app,relay"]));
    for part in ["\"shop\".\"letters\"", "xid8", "to \"app\"", "to \"relay\""] {
        assert!(postgres.contains(part), "{part} is missing:\n{postgres}");
    }
    let same = stdout(&ran(&["migrate", "--print", "--database-url", "postgres://nobody@127.0.0.1:1/x"]));
    assert!(same.contains("xid8") && !same.contains("grant "), "{same}");
    let sqlite = stdout(&ran(&["migrate", "--print", "--database-url", "sqlite:/nowhere/x.db"]));
    assert!(sqlite.contains("autoincrement") && !sqlite.contains("xid8"), "{sqlite}");
    let url = "mysql://nobody@127.0.0.1:1/x";
    let mysql = stdout(&ran(&["migrate", "--print", "--database-url", url, "--grants", "app,relay@10.0.0.%"]));
    for part in ["auto_increment", "engine = innodb", "to 'app'@'%';", "to 'relay'@'10.0.0.%';"] {
        assert!(mysql.contains(part), "{part} is missing:\n{mysql}");
    }
}

#[test]
fn what_cannot_be_done_is_told_with_what_would_do() {
    let unknown = ran(&["migrate", "--database-url", "oracle://app:hunter2@db/shop"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("no database that outboxd knows") && !stderr(&unknown).contains("hunter2"));
    let roles = ran(&["migrate", "--print", "--database-url", "sqlite:x.db", "--grants", "app,relay"]);
    assert_eq!(roles.status.code(), Some(1));
    assert!(stderr(&roles).contains("SQLite has no roles"), "{}", stderr(&roles));
}
