//! The API: who may read and change what, and what its description says of it.

mod changes;
mod payloads;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::daemon::small::Small;
use crate::support::daemon::Running;

const READ: &str = "Authorization: Bearer reader-0123456789abcdef";
const ADMIN: &str = "Authorization: Bearer admin-0123456789abcdef0";
const JSON: &str = "Content-Type: application/json";
const HELD: &str = "insert into outbox_held (topic, key, from_id, cause, since) values
    ('orders', 'secret-1', 9007199254740993, 'rejected', '2026-01-31T12:00:00Z'),
    ('users', null, 2, 'missing_topic', '2026-01-31T13:00:00Z')";

/// What a request is answered with.
async fn ask(relay: &Running, what: &str, headers: &[&str], body: &str) -> (u16, Value) {
    let answer = relay.request(what, headers, body).await.expect("the page is served");
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body)))
}

async fn held(small: &Small) -> i64 {
    let asked = sqlx::query_scalar("select count(*) from outbox_held where release_requested");
    asked.fetch_one(&mut small.connection().await).await.expect("the held lanes can be read")
}

/// A relay that does not lead, so that nothing but requests changes anything.
async fn standby(small: &Small, settings: &[(&str, &str)]) -> (Running, Running) {
    let leader = small.daemon().start().await;
    let with = |daemon: crate::support::daemon::Daemon, (setting, value): &(&str, &str)| daemon.with(setting, value);
    let standby = settings.iter().fold(small.daemon(), with).start().await;
    (leader, standby)
}

const TOKENS: [(&str, &str); 2] =
    [("http.read_token", "reader-0123456789abcdef"), ("http.admin_token", "admin-0123456789abcdef0")];

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_anyone_may_read_but_for_keys_and_nobody_may_change() {
    let small = Small::new().await;
    let (_leader, relay) = standby(&small, &[]).await;
    small.run(HELD).await;
    let (code, listed) = ask(&relay, "GET /api/held", &[], "").await;
    assert_eq!(code, 200, "{listed}");
    let lane = &listed["held"][0];
    assert_eq!((&lane["topic"], &lane["key"]), (&"orders".into(), &"…".into()));
    assert_eq!(lane["from_id"], "9007199254740993", "an id is a string");
    let (code, status) = ask(&relay, "GET /api/status", &[], "").await;
    assert_eq!((code, &status["held_lanes"]), (200, &2.into()), "{status}");
    let (code, refused) = ask(&relay, "POST /api/held/release", &[JSON], r#"{"all": true}"#).await;
    assert_eq!(code, 403, "{refused}");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("http.admin_token_file")), "{refused}");
    assert_eq!(held(&small).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_only_those_who_know_one_may_read_and_only_the_admin_may_change() {
    let small = Small::new().await;
    let (_leader, relay) = standby(&small, &TOKENS).await;
    small.run(HELD).await;
    for path in ["GET /api/status", "GET /api/held", "GET /api/audit-log"] {
        assert_eq!(ask(&relay, path, &[], "").await.0, 401, "{path}");
        assert_eq!(ask(&relay, path, &["Authorization: Bearer reader"], "").await.0, 401, "{path}");
        assert_eq!(ask(&relay, path, &["Authorization: Basic cmVhZGVyOnNlY3JldA=="], "").await.0, 401, "{path}");
        assert_eq!(ask(&relay, path, &[READ], "").await.0, 200, "{path}");
        assert_eq!(ask(&relay, path, &[ADMIN], "").await.0, 200, "{path}");
    }
    assert_eq!(ask(&relay, "GET /api/held", &[READ], "").await.1["held"][0]["key"], "secret-1");

    let (release, all) = ("POST /api/held/release", r#"{"all": true, "reason": "the topic is there"}"#);
    for headers in [&[JSON][..], &[JSON, READ], &[JSON, "Cookie: token=admin-0123456789abcdef0"]] {
        assert_eq!(ask(&relay, release, headers, all).await.0, 401, "{headers:?}");
    }
    assert_eq!(ask(&relay, release, &[ADMIN, "Content-Type: text/plain"], all).await.0, 400, "a form of another site");
    assert_eq!(held(&small).await, 0);
    let dry = ask(&relay, release, &[JSON, ADMIN], r#"{"all": true, "dry_run": true}"#).await;
    assert_eq!((dry.0, &dry.1["would_release"], held(&small).await), (200, &2.into(), 0));
    let done = ask(&relay, release, &[JSON, ADMIN], all).await;
    assert_eq!((done.0, &done.1["asked_for_release"]), (200, &2.into()), "{}", done.1);

    let changes = ask(&relay, "GET /api/audit-log?limit=1", &[READ], "").await.1;
    let change = &changes["changes"][0];
    assert_eq!((&change["command"], &change["subject"]), (&"held release".into(), &"--all".into()), "{changes}");
    assert_eq!((&change["reason"], &change["actor"]), (&"the topic is there".into(), &"admin over HTTP".into()));
    assert!(!relay.log().contains("0123456789abcdef"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_said_in_json() {
    let small = Small::new().await;
    let (_leader, relay) = standby(&small, &TOKENS).await;
    let release = "POST /api/held/release";
    for (what, body, code) in [
        (release, "{", 400),
        (release, "{}", 400),
        (release, r#"{"all": true, "topic": "orders"}"#, 400),
        (release, r#"{"topic": "orders", "kee": "a"}"#, 400),
        (release, r#"{"topic": "orders", "key": "a", "partition": 1}"#, 400),
        (release, r#"{"topic": "nothing"}"#, 404),
        ("GET /api/held?key=a", "", 400),
        ("GET /api/held?tropic=a", "", 400),
        ("GET /api/audit-log?limit=0", "", 400),
        ("GET /api/nothing", "", 404),
        ("DELETE /api/held", "", 405),
        ("GET /api/held/release", "", 405),
    ] {
        let (answered, error) = ask(&relay, what, &[JSON, ADMIN], body).await;
        assert_eq!(answered, code, "{what} {body}: {error}");
        assert!(error["error"].as_str().is_some_and(|error| !error.is_empty()), "{what} {body}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_names_every_path_and_needs_no_token() {
    let small = Small::new().await;
    let (_leader, relay) = standby(&small, &TOKENS).await;
    let (code, description) = ask(&relay, "GET /api/openapi.json", &[], "").await;
    assert_eq!((code, &description["openapi"]), (200, &"3.1.0".into()));
    let paths = description["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let what = format!("{} /api{}", method.to_uppercase(), path.replace("{id}", "17"));
            let (answered, error) = ask(&relay, &what, &[JSON, ADMIN], "{}").await;
            assert!(
                answered != 405 && !error["error"].to_string().contains("openapi.json describes"),
                "{method} {path}: {error}"
            );
        }
    }
    let routes = include_str!("../../../src/admin/api/mod.rs");
    let routed: BTreeSet<&str> = routes.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(routed, paths.keys().map(String::as_str).collect(), "what is routed is what is described");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_said_and_a_short_token_is_refused() {
    let mut relay = crate::support::daemon::Daemon::new("postgres://nobody@127.0.0.1:1/nothing", "127.0.0.1:1").spawn();
    crate::support::wait::until_true("the page is served", crate::support::wait::PATIENCE, async || {
        relay.get("/livez").await.is_ok()
    })
    .await;
    let (code, error) = ask(&relay, "GET /api/status", &[], "").await;
    assert_eq!(code, 503, "{error}");
    assert!(error["error"].as_str().is_some_and(|error| error.contains("the database is not available")), "{error}");
    assert_eq!(relay.stop().await, Some(0));

    let arguments = ["config", "--check", "--database-url", "sqlite:a.db", "--brokers", "localhost:9092"];
    for token in ["read_token", "admin_token", "payload_token"] {
        let mut command = crate::daemon::outboxd(&arguments);
        let output = command.env(format!("OUTBOXD_HTTP__{}", token.to_uppercase()), "hunter2").output();
        let output = output.expect("the binary starts");
        assert_eq!(output.status.code(), Some(2));
        let complaint = crate::daemon::stderr(&output);
        assert!(complaint.contains(&format!("http.{token}")) && !complaint.contains("hunter2"), "{complaint}");
    }
    let token = "reader-0123456789abcdef";
    let mut command = crate::daemon::outboxd(&arguments);
    command.env("OUTBOXD_HTTP__READ_TOKEN", token).env("OUTBOXD_HTTP__PAYLOAD_TOKEN", token);
    let output = command.output().expect("the binary starts");
    let complaint = crate::daemon::stderr(&output);
    assert!(output.status.code() == Some(2) && complaint.contains("is that of http.read_token"), "{complaint}");
}

const LETTERS: &str = "insert into outbox_dead (id, event_id, topic, key, payload, headers, created_at, code, message) values
    (101, '018f5f7c-9a30-7cc3-8d2e-0c5f6f1b2a71', 'orders', 'secret-1', 'p', '{}', '2026-01-31T12:00:00Z', 'message_too_large', 'm'),
    (102, '018f5f7c-9a30-7cc3-8d2e-0c5f6f1b2a72', 'orders', 'secret-2', 'p', '{}', '2026-01-31T12:00:00Z', 'message_too_large', 'm'),
    (103, '018f5f7c-9a30-7cc3-8d2e-0c5f6f1b2a73', 'users', null, 'p', '{}', '2026-01-31T12:00:00Z', 'encoding', 'm')";

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_dead_letters_are_found_and_letters_go_back_or_away_as_by_the_commands() {
    let small = Small::new().await;
    let (_leader, relay) = standby(&small, &TOKENS).await;
    small.run(LETTERS).await;
    let listed = ask(&relay, "GET /api/dead?cause=message_too_large", &[READ], "").await.1;
    assert_eq!(listed["messages"].as_array().map(Vec::len), Some(2), "{listed}");
    assert!(listed["messages"][0].get("payload").is_none(), "payloads are not listed");
    let requeue = "POST /api/dead/requeue";
    for (body, code) in [
        ("{}", 400),
        (r#"{"all": true, "topic": "orders"}"#, 400),
        (r#"{"ids": ["x"]}"#, 400),
        (r#"{"topic": "no"}"#, 404),
    ] {
        assert_eq!(ask(&relay, requeue, &[JSON, ADMIN], body).await.0, code, "{body}");
    }
    let (_, dry) = ask(&relay, requeue, &[JSON, ADMIN], r#"{"topic": "orders", "dry_run": true}"#).await;
    assert_eq!(dry["would_requeue"], 2, "{dry}");
    let (_, done) = ask(&relay, requeue, &[JSON, ADMIN], r#"{"topic": "orders", "reason": "limit raised"}"#).await;
    assert_eq!(done["requeued"], 2, "{done}");
    let discard = "POST /api/dead/discard";
    assert_eq!(ask(&relay, discard, &[JSON, ADMIN], r#"{"ids": ["103"]}"#).await.0, 400, "a reason is needed");
    let (_, done) = ask(&relay, discard, &[JSON, ADMIN], r#"{"ids": ["103"], "reason": "sent by hand"}"#).await;
    assert_eq!(done["discarded"], 1, "{done}");
    crate::support::wait::until_true("both are sent", crate::support::wait::PATIENCE, async || {
        small.published().await == 2
    })
    .await;
    let (_, sent) = ask(&relay, "GET /api/messages?topic=orders&limit=10", &[READ], "").await;
    assert_eq!(sent["messages"].as_array().map(Vec::len), Some(2), "{sent}");
    assert_eq!(ask(&relay, "GET /api/messages?state=lost", &[READ], "").await.0, 400);
    let commands = ask(&relay, "GET /api/audit-log", &[READ], "").await.1;
    let told: Vec<&str> =
        commands["changes"].as_array().expect("changes").iter().filter_map(|c| c["command"].as_str()).collect();
    assert_eq!(told, ["dead discard", "dead requeue"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_is_paused_and_resumed_and_steps_down_as_by_the_commands() {
    let small = Small::new().await;
    let (leader, relay) = standby(&small, &TOKENS).await;
    let (pause, resume) = ("POST /api/pause", "POST /api/resume");
    assert_eq!(ask(&relay, pause, &[JSON, READ], "{}").await.0, 401);
    assert_eq!(ask(&relay, pause, &[JSON, ADMIN], r#"{"until": "2026-01-31T12:00:00Z"}"#).await.0, 400, "it is over");
    assert_eq!(ask(&relay, pause, &[JSON, ADMIN], r#"{"topic": "ord*", "reason": "a migration"}"#).await.0, 200);
    let (_, pauses) = ask(&relay, "GET /api/pauses", &[READ], "").await;
    assert_eq!(
        (&pauses["pauses"][0]["topics"], &pauses["pauses"][0]["actor"]),
        (&"ord*".into(), &"admin over HTTP".into())
    );
    assert_eq!(ask(&relay, resume, &[JSON, ADMIN], "{}").await.0, 404, "everything is not paused");
    assert_eq!(ask(&relay, resume, &[JSON, ADMIN], r#"{"topic": "ord*"}"#).await.0, 200);
    assert_eq!(ask(&relay, "GET /api/operations", &[READ], "").await.1["operations"], Value::Array(Vec::new()));
    assert_eq!(ask(&relay, "POST /api/operations/cancel", &[JSON, ADMIN], r#"{"id": "1"}"#).await.0, 404);
    let (code, asked) = ask(&relay, "POST /api/step-down", &[JSON, ADMIN], r#"{"reason": "maintenance"}"#).await;
    assert_eq!((code, &asked["term"]), (200, &1.into()), "{asked}");
    relay.reaches("outboxd_leader", 1.0).await;
    drop(leader);
}
