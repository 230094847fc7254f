//! The operator's commands that change something, over the real binary: what they say, do, and write to the audit log.

use serde_json::Value;

use crate::daemon::small::Small;
use crate::daemon::{ran, stderr, stdout};
use crate::support::scene::Scene;

const HELD_LANES: &str = "insert into outbox_held (topic, key, from_id, cause, since) values
    ('orders', 'secret-1', 1, 'rejected', '2026-01-31T12:00:00Z'), ('orders', 'secret-2', 2, 'rejected', '2026-01-31T12:00:00Z'),
    ('users', null, 3, 'missing_topic', '2026-01-31T12:00:00Z')";

/// What the audit log tells, the last change first.
fn audit_log(url: &str) -> Vec<Value> {
    let output = ran(&["audit-log", "--json", "--database-url", url]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn release(url: &str, arguments: &[&str]) -> std::process::Output {
    ran(&[&["held", "release", "--database-url", url], arguments].concat())
}

fn releases_asked_for_are_in_the_audit_log(url: &str, role: &Value) {
    let output = release(url, &["--topic", "orders", "--dry-run"]);
    assert_eq!(stdout(&output), "would release 2 lanes; nothing was changed\n");
    assert!(audit_log(url).is_empty(), "a dry run changes nothing");
    assert!(stdout(&ran(&["audit-log", "--database-url", url])).starts_with("no operator has changed anything"));

    let output = release(url, &["--topic", "orders", "--reason", "the limit was raised"]);
    assert!(stdout(&output).starts_with("asked for the release of 2 lanes;"), "{}", stderr(&output));
    let output = release(url, &["--topic", "users", "--yes"]);
    assert!(stdout(&output).starts_with("asked for the release of 1 lane;"), "{}", stderr(&output));
    let output = release(url, &["--topic", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nothing of that is held"), "{}", stderr(&output));

    let entries = audit_log(url);
    let told = |entry: &Value| {
        let text = |name: &str| entry[name].as_str().map(str::to_owned);
        (text("command"), text("subject"), entry["affected"].as_u64(), text("reason"))
    };
    let expected = |subject: &str, affected, reason: Option<&str>| {
        (Some("held release".to_owned()), Some(subject.to_owned()), Some(affected), reason.map(str::to_owned))
    };
    let told: Vec<_> = entries.iter().map(told).collect();
    assert_eq!(
        told,
        [expected("--topic users", 1, None), expected("--topic orders", 2, Some("the limit was raised"))],
        "the last change first, and what changed nothing not at all"
    );
    assert!(entries.iter().all(|entry| entry["role"] == *role), "{entries:?}");
    assert!(entries.iter().all(|entry| entry["actor"].as_str().is_some_and(|actor| actor.contains('@'))));

    let one = release(url, &["--topic", "orders", "--key", "secret-1"]);
    assert_eq!(one.status.code(), Some(0), "{}", stderr(&one));
    let text = stdout(&ran(&["audit-log", "--database-url", url]));
    assert!(
        text.contains("--topic orders --key …") && !text.contains("secret"),
        "keys are the application's data: {text}"
    );
    assert_eq!(audit_log(url).len(), 3);
    let limited = ran(&["audit-log", "--json", "--limit", "1", "--database-url", url]);
    assert_eq!(stdout(&limited).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_changes_is_written_down_on_sqlite() {
    let small = Small::new().await;
    small.run(HELD_LANES).await;
    releases_asked_for_are_in_the_audit_log(&small.url(), &Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_changes_is_written_down_on_postgresql_with_the_role() {
    let scene = Scene::set().await;
    scene.database.run(HELD_LANES).await;
    let role: String =
        sqlx::query_scalar("select current_user::text").fetch_one(scene.database.pool()).await.expect("a role");
    releases_asked_for_are_in_the_audit_log(scene.database.url(), &role.into());
}
