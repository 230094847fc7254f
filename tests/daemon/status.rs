//! `outboxd status`, over outboxes in every state.

use std::process::Output;

use outboxd::{Message, sqlite};
use serde_json::Value;

use crate::daemon::small::Small;
use crate::daemon::{ran, stderr, stdout};
use crate::support::machine;
use crate::support::scene::Scene;
use crate::support::wait::{self, PATIENCE};

fn status(url: &str, arguments: &[&str]) -> Output {
    ran(&[&["status", "--database-url", url], arguments].concat())
}

fn json(url: &str) -> Value {
    serde_json::from_slice(&status(url, &["--json"]).stdout).expect("the status is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_who_leads_and_what_waits_and_that_nobody_leads_is_wrong() {
    let small = Small::new().await;
    small.write(3).await;
    let output = status(&small.url(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).starts_with("wrong     nobody leads, and 3 messages wait, the oldest for "));
    assert!(stdout(&output).contains("orders: 3, the oldest for "), "{}", stdout(&output));

    let mut relay = small.daemon().start().await;
    relay.reaches("outboxd_published_total", 3.0).await;
    wait::until_true("it is well", PATIENCE, async || status(&small.url(), &[]).status.success()).await;
    let seen = json(&small.url());
    assert_eq!((&seen["well"], &seen["leader"]["term"], &seen["unsent"]), (&true.into(), &1.into(), &0.into()));
    assert!(stdout(&status(&small.url(), &[])).starts_with("well      nothing waits\nleader    "));
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(json(&small.url())["leader"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_named_with_what_to_do() {
    let small = Small::new().await;
    let message = Message::to("oders").key("order-1").text("{}").expect("valid");
    sqlite::enqueue(&mut small.connection().await, &message).await.expect("a message is written");
    small.write(1).await;
    let _relay = small.daemon().start().await;
    let expected = "wrong     topic oders: held, missing_topic; create the topic oders, or correct the rows;";
    wait::until_true("the topic is named", PATIENCE, async || stdout(&status(&small.url(), &[])).starts_with(expected))
        .await;
    assert_eq!(status(&small.url(), &[]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_the_same_of_postgresql_and_changes_nothing_there() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let url = scene.database.url();
    scene.insert("k", "v").await;
    assert_eq!(status(url, &[]).status.code(), Some(1));
    let relay = scene.relay().start().await;
    scene.all_settled().await;
    wait::until_true("it is well", PATIENCE, async || status(url, &[]).status.success()).await;
    let seen = json(url);
    assert_eq!((&seen["leader"]["term"], &seen["unsent"]), (&1.into(), &0.into()));
    // A row that became due behind the reader is the relay's to bring back, and to count.
    drop(relay);
    scene.database.run("update outbox set sent_at = null").await;
    let before = scene.database.number("select xid::text::bigint from outbox").await;
    let _ = status(url, &[]);
    assert_eq!(scene.database.number("select xid::text::bigint from outbox").await, before);
}

#[test]
fn an_outbox_that_is_not_there_is_an_error_with_the_repair() {
    let output = status("postgres://nobody@127.0.0.1:1/nothing", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("outboxd: error: the database is not available while connecting"));
}
