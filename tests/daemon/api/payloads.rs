//! Payloads over HTTP: shown of single messages, to those who know the payload token, and to nobody else.

use std::io::Write;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{ADMIN, JSON, READ, TOKENS, ask};
use crate::daemon::place::Place;
use crate::daemon::small::Small;
use crate::support::daemon::Running;
use crate::support::machine;

const PAYLOAD: &str = "Authorization: Bearer payload-0123456789abcd";
const PAYLOAD_TOKEN: &str = "payload-0123456789abcd";
const EVENT: &str = "018f5f7c-0000-7000-8000-000000000001";

/// One MiB, of which no more is shown.
const SHOWN: usize = 1 << 20;

/// Messages that wait: 1 is text, 2 is none, 3 is too long to be shown, 4 is a tombstone. 5 is a dead letter.
async fn written(place: &Place) {
    let (bytes, long) = if place.is_file() {
        ("x'ff00'", format!("cast(printf('%.*c', {}, 'a') as blob)", SHOWN + 1))
    } else {
        ("'\\xff00'", format!("convert_to(repeat('a', {}), 'UTF8')", SHOWN + 1))
    };
    let overriding = if place.is_file() { "" } else { "overriding system value" };
    place
        .run(&format!(
            "insert into outbox (id, event_id, topic, key, payload, headers) {overriding} values
                 (1, '{EVENT}', 'TOPIC', 'key-1', 'the secret', '{{\"h\": \"hidden\"}}');
             insert into outbox (id, topic, key, payload) {overriding} values
                 (2, 'TOPIC', 'key-1', {bytes}), (3, 'TOPIC', 'key-1', {long}), (4, 'TOPIC', 'key-1', null),
                 (5, 'TOPIC', 'key-1', 'the secret')"
        ))
        .await;
    place.kill("id = 5").await;
}

/// The one message that a path of the API shows.
async fn shown(relay: &Running, path: &str, headers: &[&str]) -> Value {
    let (code, mut told) = ask(relay, &format!("GET /api{path}"), headers, "").await;
    assert_eq!(code, 200, "{path}: {told}");
    assert_eq!(told["messages"].as_array().map(Vec::len), Some(1), "{path}: {told}");
    told["messages"][0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_shown_as_by_the_command_to_who_knows_their_token_and_never_logged() {
    let _machine = machine::shared().await;
    let files = [TOKENS[0].1, TOKENS[1].1, PAYLOAD_TOKEN].map(|token| {
        let mut file = NamedTempFile::new().expect("a temporary file can be made");
        writeln!(file, "{token}").expect("it can be written");
        file
    });
    let settings = ["http.read_token_file", "http.admin_token_file", "http.payload_token_file"];
    let paths = files.each_ref().map(|file| file.path().to_str().expect("a path"));
    let settings: Vec<_> = settings.into_iter().zip(paths).collect();
    for place in Place::both().await {
        written(&place).await;
        let relay = place.waiting_relay(&settings).await;
        assert_eq!(ask(&relay, "GET /api/status", &[READ], "").await.0, 200);
        assert_eq!(
            ask(&relay, "POST /api/pause", &[JSON, ADMIN], "{").await.0,
            400,
            "the token is the administrator's"
        );
        let text = shown(&relay, "/messages/1?payload=true", &[PAYLOAD]).await;
        assert_eq!((&text["payload"], &text["headers"]["h"]), (&"the secret".into(), &"hidden".into()));
        assert_eq!((&text["payload_is_cut"], &text["key"]), (&false.into(), &"key-1".into()));
        assert_eq!(text, place.objects(&["show", "1", "--payload"])[0], "as the command shows it");
        assert_eq!(shown(&relay, &format!("/messages/{EVENT}?payload=true"), &[PAYLOAD]).await, text);
        let bytes = shown(&relay, "/messages/2?payload=true", &[PAYLOAD]).await;
        assert_eq!((&bytes["payload_hexadecimal"], bytes.get("payload")), (&"ff00".into(), None));
        let long = shown(&relay, "/messages/3?payload=true", &[PAYLOAD]).await;
        assert_eq!(long["payload"].as_str().map(str::len), Some(SHOWN));
        assert_eq!((&long["payload_is_cut"], &long["payload_bytes"]), (&true.into(), &(SHOWN + 1).into()));
        let tombstone = shown(&relay, "/messages/4?payload=true", &[PAYLOAD]).await;
        assert_eq!((tombstone.get("payload"), &tombstone["payload_is_cut"]), (Some(&Value::Null), &false.into()));
        let letter = shown(&relay, "/dead/5?payload=true", &[PAYLOAD]).await;
        assert_eq!((&letter["payload"], &letter["dead"]["cause"]), (&"the secret".into(), &"too_large".into()));
        assert_eq!(shown(&relay, "/messages/5?payload=true", &[PAYLOAD]).await, letter);

        for path in ["/messages/1", "/messages/1?payload=false", "/dead/5", "/messages/5"] {
            let told = shown(&relay, path, &[PAYLOAD]).await;
            assert!(told.get("payload").is_none() && told.get("headers").is_none(), "{path}: {told}");
        }
        for path in ["GET /api/messages?limit=10", "GET /api/dead"] {
            let (code, listed) = ask(&relay, path, &[PAYLOAD], "").await;
            assert_eq!(code, 200, "{path}: {listed}");
            assert!(!listed.to_string().contains("secret") && !listed.to_string().contains("hidden"), "{listed}");
        }
        for (path, code) in [
            ("/messages/77", 404),
            ("/dead/1", 404),
            ("/messages/seventeen", 400),
            ("/messages/1?payload=yes", 400),
            ("/messages?payload=true", 400),
            ("/dead?payload=true", 400),
        ] {
            let (answered, error) = ask(&relay, &format!("GET /api{path}"), &[PAYLOAD], "").await;
            assert_eq!(answered, code, "{path}: {error}");
            assert!(error["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}: {error}");
        }
        let log = relay.log();
        assert!(!log.contains("secret") && !log.contains("hidden") && !log.contains(PAYLOAD_TOKEN), "{log}");
        assert!(place.audit_log().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_the_payload_token_sees_no_payload_and_who_knows_it_changes_nothing() {
    let _machine = machine::shared().await;
    let place = Place::File(Small::new().await);
    written(&place).await;
    let payload = ("http.payload_token", PAYLOAD_TOKEN);
    let all = place.waiting_relay(&[TOKENS[0], TOKENS[1], payload]).await;
    let payload_alone = place.waiting_relay(&[payload]).await;
    let without = place.waiting_relay(&TOKENS).await;
    let nothing = place.waiting_relay(&[]).await;
    for path in ["/messages/1", "/dead/5"] {
        let (whole, story) = (format!("GET /api{path}?payload=true"), format!("GET /api{path}"));
        for (relay, headers, of_payload, of_story) in [
            (&all, &[][..], 401, 401),
            (&all, &[READ], 401, 200),
            (&all, &[ADMIN], 401, 200),
            (&all, &["Authorization: Bearer payload"], 401, 401),
            (&all, &["Cookie: token=payload-0123456789abcd"], 401, 401),
            (&all, &[PAYLOAD], 200, 200),
            (&payload_alone, &[], 401, 200),
            (&payload_alone, &[READ], 401, 401),
            (&payload_alone, &[PAYLOAD], 200, 200),
            (&without, &[READ], 403, 200),
            (&without, &[ADMIN], 403, 200),
            (&without, &[PAYLOAD], 401, 401),
            (&nothing, &[], 403, 200),
        ] {
            let (code, told) = ask(relay, &whole, headers, "").await;
            assert_eq!(code, of_payload, "{whole} {headers:?}: {told}");
            assert_eq!(told.to_string().contains("the secret"), code == 200, "{whole} {headers:?}: {told}");
            if code == 403 {
                assert!(told["error"].to_string().contains("http.payload_token_file"), "{told}");
            }
            let (code, told) = ask(relay, &story, headers, "").await;
            assert_eq!(code, of_story, "{story} {headers:?}: {told}");
            assert!(!told.to_string().contains("the secret"), "{story} {headers:?}: {told}");
        }
    }
    assert_eq!(shown(&payload_alone, "/messages/1", &[]).await["key"], "…", "keys are the application's data, too");
    let pause = json!({ "reason": "a migration" }).to_string();
    assert_eq!(ask(&all, "POST /api/pause", &[JSON, PAYLOAD], &pause).await.0, 401);
    assert_eq!(ask(&payload_alone, "POST /api/pause", &[JSON, PAYLOAD], &pause).await.0, 403);
}
