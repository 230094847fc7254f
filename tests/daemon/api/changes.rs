//! Changes over HTTP: who may make none, and that giving up, removing and sending again do what the commands do, and refuse what
//! they refuse.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{ADMIN, JSON, READ, TOKENS, ask};
use crate::daemon::place::Place;
use crate::daemon::small::Small;
use crate::support::daemon::Running;
use crate::support::machine;
use crate::support::wait::{self, PATIENCE};

/// What an administrator is answered.
async fn change(relay: &Running, path: &str, body: &Value) -> (u16, Value) {
    ask(relay, &format!("POST /api/{path}"), &[JSON, ADMIN], &body.to_string()).await
}

/// That each of these is refused with such a status, and why.
async fn refuses(relay: &Running, path: &str, requests: &[(Value, u16, &str)]) {
    for (body, status, why) in requests {
        let (answered, error) = change(relay, path, body).await;
        assert_eq!(answered, *status, "{path} {body}: {error}");
        assert!(error["error"].as_str().is_some_and(|error| error.contains(why)), "{path} {body}: {error}");
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The latest change: its command, how much it changed, why, and who asked.
async fn latest_change(relay: &Running) -> Value {
    ask(relay, "GET /api/audit-log?limit=1", &[READ], "").await.1["changes"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_for_those_who_lack_the_admin_token_nor_from_another_site() {
    let small = Small::new().await;
    let with = |daemon: crate::support::daemon::Daemon, (setting, value): &(&str, &str)| daemon.with(setting, value);
    let payload = ("http.payload_token", "payload-0123456789abcd");
    let relay = TOKENS.iter().chain([&payload]).fold(small.daemon(), with).start().await;
    let closed = small.daemon().with(TOKENS[0].0, TOKENS[0].1).start().await;
    let (_, description) = ask(&relay, "GET /api/openapi.json", &[], "").await;
    let paths = description["paths"].as_object().expect("paths");
    let changes: Vec<&String> =
        paths.iter().filter(|(_, methods)| methods["post"].is_object()).map(|it| it.0).collect();
    assert!(changes.len() >= 10, "{changes:?}");
    for path in changes {
        let what = format!("POST /api{path}");
        let payload = "Authorization: Bearer payload-0123456789abcd";
        let cookie = "Cookie: token=admin-0123456789abcdef0";
        let origin = "Origin: https://elsewhere.example";
        for headers in [&[JSON][..], &[JSON, READ], &[JSON, payload], &[JSON, cookie, origin]] {
            assert_eq!(ask(&relay, &what, headers, "{}").await.0, 401, "{path} {headers:?}");
        }
        let form = &[ADMIN, "Content-Type: text/plain", origin];
        assert_eq!(ask(&relay, &what, form, "{}").await.0, 400, "{path}: what a form of another site can send");
        assert_eq!(ask(&closed, &what, &[JSON, ADMIN], "{}").await.0, 403, "{path}: no admin token is set");
        let asked = format!("OPTIONS /api{path}");
        let headers = [origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"];
        let allowed = relay.request(&asked, &headers, "").await.expect("the page is served");
        assert_eq!(allowed.status, 405, "{path}");
        assert!(!allowed.head.to_lowercase().contains("access-control"), "{path}: {}", allowed.head);
    }
    assert_eq!(ask(&relay, "GET /api/audit-log", &[READ], "").await.1["changes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_given_up_and_what_the_command_refuses_is_refused() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(4, 4).await;
        place
            .run(
                "update outbox set sent_at = '2026-01-31T12:00:00Z' where id = 4;
                 insert into outbox_held (topic, key, from_id, cause, since) values
                     ('TOPIC', 'key-1', 1, 'rejected', '2026-01-31T12:00:00Z'),
                     ('TOPIC', 'key-2', 2, 'missing_topic', '2026-01-31T12:00:00Z')",
            )
            .await;
        let relay = place.waiting_relay(&TOKENS).await;
        let (topic, why) = (place.topic(), "garbage");
        let refused = [
            (json!({}), 400, "say which"),
            (json!({ "reason": why }), 400, "say which"),
            (json!({ "topic": topic }), 400, "reason"),
            (json!({ "topic": topic, "dry_run": true }), 400, "reason"),
            (json!({ "topic": topic, "reason": why, "limit": 0 }), 400, "limit"),
            (json!({ "topic": topic, "reason": why, "limit": 10_001 }), 400, "limit"),
            (json!({ "ids": ["x"], "reason": why }), 400, "is no id"),
            (json!({ "all": true, "reason": why }), 400, "unknown field"),
            (json!({ "topic": "nothing", "reason": why }), 404, "nothing of that waits in a held lane"),
            (json!({ "ids": ["77"], "reason": why }), 404, "nothing of that waits"),
            (json!({ "ids": ["2"], "reason": why }), 409, "may be in flight at any time: missing_topic"),
            (json!({ "ids": ["3"], "reason": why }), 409, "its lane is not held, and relay-1 leads"),
            (json!({ "ids": ["4"], "reason": why }), 409, "message 4 was sent already"),
        ];
        refuses(&relay, "skip", &refused).await;
        let mut first = json!({ "topic": topic, "key": "key-1", "reason": why, "dry_run": true });
        assert_eq!(change(&relay, "skip", &first).await, (200, json!({ "would_skip": 1 })));
        assert_eq!(place.number("select count(*) from outbox_dead").await, 0);
        assert!(place.audit_log().is_empty());

        first["dry_run"] = false.into();
        assert_eq!(change(&relay, "skip", &first).await, (200, json!({ "skipped": 1, "left_alone": 0 })));
        let letter = "select count(*) from outbox_dead where id = 1 and code = 'skipped' and message = 'garbage'";
        assert_eq!(place.number(letter).await, 1);
        let told = latest_change(&relay).await;
        assert_eq!((&told["command"], &told["affected"], &told["reason"]), (&"skip".into(), &1.into(), &why.into()));
        assert_eq!(
            (&told["subject"], &told["actor"]),
            (&format!("--topic {topic} --key …").into(), &"admin over HTTP".into())
        );
    }
}

/// Rows that were sent, and more of them than one request removes.
const SENT: u32 = 12_000;

/// An outbox of rows that were sent, and its relay.
async fn sent(place: &Place) -> Running {
    place.write(SENT, 10).await;
    let mut relay = place.relay().start().await;
    place.all_settled().await;
    // It stores how far it was.
    assert_eq!(relay.stop().await, Some(0));
    place.waiting_relay(&TOKENS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_removed_some_of_it_a_request_and_no_audit_wonders_at_it() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let relay = sent(&place).await;
        place.write(3, 3).await;
        let refused = [
            (json!({}), 400, "older_than"),
            (json!({ "older_than": "7d" }), 400, "older_than"),
            (json!({ "older_than": now(), "after": "x" }), 400, "is no id"),
            (json!({ "older_than": now(), "topic": "orders" }), 400, "unknown field"),
            (json!({ "older_than": "2020-01-31T12:00:00Z" }), 404, "nothing was sent before 2020-01-31T12:00:00Z"),
        ];
        refuses(&relay, "purge", &refused).await;
        let mut all = json!({ "older_than": now(), "dry_run": true, "reason": "the disk is full" });
        let (code, dry) = change(&relay, "purge", &all).await;
        assert!(code == 200 && dry["would_remove"].as_u64().is_some_and(|rows| rows > 5_000), "{dry}");
        assert_eq!(place.number("select count(*) from outbox").await, i64::from(SENT) + 3);
        assert!(place.audit_log().is_empty(), "a dry run changes nothing");

        all["dry_run"] = false.into();
        let (mut removed, mut requests) = (0, 0);
        loop {
            let (code, done) = change(&relay, "purge", &all).await;
            assert_eq!(code, 200, "{done}");
            (removed, requests) = (removed + done["removed"].as_u64().expect("a number"), requests + 1);
            if done["after"].is_null() {
                break;
            }
            assert!(done["after"].is_string(), "{done}");
            all["after"] = done["after"].clone();
        }
        assert_eq!(removed, u64::from(SENT), "in {requests} requests");
        assert!(requests > 1, "a request removes some of it only");
        assert_eq!(place.number("select count(*) from outbox").await, 3, "what waits stays");
        assert_eq!(place.audit_log().iter().map(|(_, affected, _)| affected).sum::<u64>(), u64::from(SENT));
        let told = latest_change(&relay).await;
        assert_eq!((&told["command"], &told["reason"]), (&"purge".into(), &"the disk is full".into()));
        let (code, report) = place.verified();
        assert_eq!(code, Some(0), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_began_is_done_though_its_connection_is_closed() {
    let _machine = machine::shared().await;
    let place = Place::server().await;
    let relay = sent(&place).await;
    let mut other = place.begun("lock table outbox_audit in share mode").await;
    let body = json!({ "older_than": now() }).to_string();
    let request = format!(
        "POST /api/purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{JSON}\r\n{ADMIN}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(relay.address()).await.expect("the page is served");
    connection.write_all(request.as_bytes()).await.expect("it is sent");
    let waits = "select count(*) from pg_locks where not granted and relation = 'outbox_audit'::regclass";
    wait::until_true("its first step waits", PATIENCE, async || place.number(waits).await == 1).await;
    drop(connection);
    // By then the relay has heard of it.
    for _ in 0..3 {
        assert_eq!(relay.get("/livez").await.expect("the page is served").status, 200);
    }
    sqlx::raw_sql("rollback").execute(&mut other).await.expect("the lock is gone");
    wait::until_true("a request's share is removed", PATIENCE, async || {
        place.number("select count(*) from outbox").await <= i64::from(SENT) - 10_000
    })
    .await;
    let audit = place.audit_log();
    assert!(audit.iter().all(|(command, ..)| command == "purge"), "{audit:?}");
    assert_eq!(audit.iter().map(|(_, affected, _)| affected).sum::<u64>(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_sent_again_and_what_cannot_be_is_refused() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(50, 7).await;
        let with =
            |daemon: crate::support::daemon::Daemon, (setting, value): &(&str, &str)| daemon.with(setting, value);
        let relay = TOKENS.iter().fold(place.relay(), with).start().await;
        place.all_settled().await;
        let topic = place.topic();
        let refused = [
            (json!({}), 400, "topic"),
            (json!({ "topic": topic, "rate": 0 }), 400, "rate"),
            (json!({ "topic": topic, "rate": 1_000_001 }), 400, "rate"),
            (json!({ "topic": topic, "to_topic": "a b" }), 400, "to_topic"),
            (json!({ "topic": topic, "since": "10m" }), 400, "since"),
            (json!({ "topic": topic, "partition": 1 }), 400, "unknown field"),
            (json!({ "topic": "nothing" }), 404, "nothing of that was sent; the table has rows since "),
        ];
        refuses(&relay, "replay", &refused).await;
        let (_, dry) = change(&relay, "replay", &json!({ "topic": topic, "key": "key-1", "dry_run": true })).await;
        assert_eq!((&dry["would_send"], &dry["rows_is_at_least"]), (&8.into(), &false.into()), "{dry}");
        assert_eq!(ask(&relay, "GET /api/operations", &[READ], "").await.1["operations"], json!([]));
        assert!(place.audit_log().is_empty(), "a dry run changes nothing");

        let (code, asked) =
            change(&relay, "replay", &json!({ "topic": topic, "reason": "the consumer lost it" })).await;
        assert_eq!((code, &asked["will_send"], &asked["rate"]), (200, &50.into(), &1_000.into()), "{asked}");
        assert_eq!((&asked["operation"], &asked["to_topic"]), (&"1".into(), &topic.into()), "{asked}");
        let operation = wait::until("the operation is done", PATIENCE, async || {
            let (_, operations) = ask(&relay, "GET /api/operations", &[READ], "").await;
            Some(operations["operations"][0].clone()).filter(|operation| operation["state"] == "done")
        })
        .await;
        assert_eq!((&operation["id"], &operation["sent"]), (&asked["operation"], &50.into()), "{operation}");
        assert_eq!(operation["actor"], "admin over HTTP");
        let again = place.records().await.iter().filter(|record| record.header("outbox-replay") == Some("1")).count();
        assert_eq!(again, 50);
        let told = latest_change(&relay).await;
        assert_eq!((&told["command"], &told["reason"]), (&"replay".into(), &"the consumer lost it".into()));
    }
}
