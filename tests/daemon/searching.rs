//! `outboxd ls` and `outboxd show`: where a message is, and what happened to it.

use outboxd::kafka::Broker;
use outboxd::outbox::{RecordMetadata, Settlement};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::daemon::place::Place;
use crate::daemon::{ran, stderr};
use crate::support::children;
use crate::support::daemon::Daemon;
use crate::support::machine;
use crate::support::wait;

const EVENT: &str = "018f5f7c-0000-7000-8000-00000000000";

/// One message in each state: 1 is sent, 2 was given up, 3 and 4 are held with their key, 5 waits.
async fn one_of_each(place: &Place) {
    for (id, key, sent_at) in [(1, "a", "'2026-01-31T12:00:01Z'"), (3, "b", "null"), (4, "b", "null"), (5, "a", "null")]
    {
        let overriding = if place.is_file() { "" } else { "overriding system value" };
        place
            .run(&format!(
                "insert into outbox (id, event_id, topic, key, payload, headers, created_at, sent_at) {overriding}
                 values ({id}, '{EVENT}{id}', 'TOPIC', '{key}', 'the secret', '{{\"h\": \"hidden\"}}', '2026-01-31T12:00:00Z', {sent_at})"
            ))
            .await;
    }
    place
        .run(&format!(
            "insert into outbox_dead (id, event_id, topic, key, payload, headers, created_at, code, message, died_at)
             values (2, '{EVENT}2', 'TOPIC', 'a', 'the secret', '{{}}', '2026-01-31T12:00:00Z', 'too_large', 'larger than the topic takes', '2026-01-31T12:00:02Z');
             insert into outbox_held (topic, key, from_id, cause, since) values ('TOPIC', 'b', 3, 'rejected', '2026-01-31T12:00:03Z')"
        ))
        .await;
}

fn ids(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["id"].as_str().expect("ids are strings")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_found_where_it_is_by_state_and_by_filter() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        one_of_each(&place).await;
        let found = |arguments: &[&str]| ids(&place.objects(&[&["ls"], arguments].concat())).join(" ");
        assert_eq!(found(&[]), "5 4 3 2 1", "anywhere: the newest first");
        assert_eq!(found(&["--state", "unsent"]), "5");
        assert_eq!(found(&["--state", "held"]), "3 4", "what waits: the oldest first");
        assert_eq!(found(&["--state", "sent"]), "1");
        assert_eq!(found(&["--state", "dead"]), "2");
        assert_eq!(found(&["--key", "a"]), "5 2 1");
        assert_eq!(found(&["--key", "a", "--limit", "2"]), "5 2");
        assert_eq!(found(&["--topic", "another"]), "");
        assert_eq!(found(&["--partition", "1"]), "");
        assert_eq!(found(&["--id", "3", "--id", "2"]), "3 2");
        assert_eq!(found(&["--event-id", &format!("{EVENT}4")]), "4");
        assert_eq!(found(&["--since", "2026-01-31T12:00:00Z", "--until", "2026-01-31T12:00:01Z"]), "5 4 3 2 1");
        assert_eq!(found(&["--since", "2026-01-31T12:00:01Z"]), "");
        assert_eq!(found(&["--until", "2026-01-31T12:00:00Z"]), "");

        let listed = place.said(&["ls"]);
        assert!(
            listed.starts_with("ID  STATE   TOPIC") && listed.contains("rejected since 2026-01-31T12:00:03Z"),
            "{listed}"
        );
        assert!(listed.contains("too_large") && !listed.contains("secret") && !listed.contains("hidden"), "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_tells_its_story_and_its_payload_only_if_that_is_asked_for() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        one_of_each(&place).await;
        let held = place.said(&["show", "3"]);
        assert!(
            held.contains("state         held: rejected since 2026-01-31T12:00:03Z; `outboxd held ls --topic "),
            "{held}"
        );
        assert!(held.contains("key           b\n") && held.contains("payload       10 bytes\n"), "{held}");
        assert!(place.said(&["show", "5"]).contains("state         unsent: "));
        assert!(place.said(&["show", "1"]).contains("sent          2026-01-31T12:00:01"));
        let dead = place.said(&["show", &format!("{EVENT}2")]);
        assert!(dead.contains("because       too_large: larger than the topic takes\n"), "{dead}");
        assert_eq!(place.said(&["dead", "show", "2"]), dead);

        assert!(!held.contains("secret") && !held.contains("hidden"), "{held}");
        let whole = place.said(&["show", "3", "--payload"]);
        assert!(whole.contains("the secret") && whole.contains("hidden"), "{whole}");
        let story = &place.objects(&["show", "3", "--payload"])[0];
        assert_eq!((&story["payload"], &story["headers"]["h"]), (&"the secret".into(), &"hidden".into()));
        let story = &place.objects(&["show", "3"])[0];
        assert!(story.get("payload").is_none() && story.get("headers").is_none(), "{story}");
        assert_eq!((&story["held"]["cause"], &story["state"]), (&"rejected".into(), &"held".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_with_what_may_have_become_of_it() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        one_of_each(&place).await;
        assert!(place.refused(&["show", "77"]).contains("no row and no dead letter has that id"));
        assert!(place.refused(&["dead", "show", "3"]).contains("no dead letter has that id"));
        assert!(place.refused(&["show", "seventeen"]).contains("neither an id"));
        assert_eq!(place.said(&["ls", "--topic", "another"]), "nothing of that was found\n");
        let wrong = ran(&["ls", "--state", "lost", "--database-url", &place.url()]);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(stderr(&wrong).contains("unsent, in-flight, sent, held or dead"), "{}", stderr(&wrong));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_did_not_look_at_everything_says_so_and_a_time_leads_it_further_back() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let time = if place.is_file() {
            "strftime('%Y-%m-%dT%H:%M:%fZ', '2026-01-31T00:00:00Z', n || ' seconds')"
        } else {
            "timestamptz '2026-01-31T00:00:00Z' + n * interval '1 second'"
        };
        place
            .run(&format!(
                "insert into outbox (topic, key, created_at, sent_at)
                 with recursive n (n) as (select 1 union all select n + 1 from n where n < 60000)
                 select 'TOPIC', 'key-' || n, {time}, '2026-02-28T00:00:00Z' from n"
            ))
            .await;
        let output = place.outboxd(&["ls", "--key", "key-7"]);
        assert!(stderr(&output).contains("looked at 50,000 rows, and there are more; "), "{}", stderr(&output));
        assert!(place.objects(&["ls", "--key", "key-7"]).is_empty());
        let until = ["ls", "--key", "key-7", "--until", "2026-01-31T01:00:00Z"];
        assert_eq!(ids(&place.objects(&until)), ["7"]);
        assert_eq!(stderr(&place.outboxd(&until)), "", "all of that time was looked at");
        let since = ["ls", "--key", "key-50000", "--since", "2026-01-31T13:00:00Z"];
        assert_eq!(ids(&place.objects(&since)), ["50000"]);
        let listed = place.outboxd(&["ls", "--limit", "3"]);
        assert!(stderr(&listed).contains("these are the first 3; --limit shows more"), "{}", stderr(&listed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_record_is_is_told_if_the_relay_was_to_record_it() {
    let _machine = machine::shared().await;
    let [file, server] = Place::both().await;
    is_told_if_it_was_to_be_recorded(&file, "at-least-once").await;
    is_told_if_it_was_to_be_recorded(&server, "at-least-once").await;
    is_told_if_it_was_to_be_recorded(&Place::server().await, "exactly-once").await;
}

async fn is_told_if_it_was_to_be_recorded(place: &Place, delivery: &str) {
    place.write(6, 3).await;
    let relay = place.relay().with("relay.delivery", delivery).with("outbox.record_position", "true");
    let mut relay = relay.start().await;
    place.all_settled().await;
    assert_eq!(relay.stop().await, Some(0));
    let records = place.records().await;
    let told = place.objects(&["ls", "--state", "sent"]);
    assert_eq!((records.len(), told.len()), (6, 6), "{delivery}");
    for row in told {
        let id = row["id"].as_str().expect("an id");
        let record = records.iter().find(|record| record.header("outbox-id") == Some(id)).expect("it is there");
        let (partition, offset) = (record.partition, record.offset.to_string());
        assert_eq!(row["record"], json!({ "partition": partition, "offset": offset }), "{delivery}");
        let story = place.said(&["show", id]);
        assert!(story.contains(&format!("partition {partition} of {}, offset {offset}\n", place.topic())), "{story}");
    }
    let mut relay = place.relay().with("relay.delivery", delivery).start().await;
    place.write(1, 1).await;
    place.all_settled().await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(place.objects(&["show", "7"])[0]["record"], Value::Null, "it was not asked for any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_record_is_is_recorded_with_no_other_row() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(4, 1).await;
        let event_ids: Vec<Uuid> = {
            let told = place.objects(&["ls", "--state", "unsent"]);
            told.iter().map(|row| row["event_id"].as_str().expect("it has one").parse().expect("a UUID")).collect()
        };
        let at = |offset| RecordMetadata { partition: 2, offset };
        let mut settlement = Settlement::default();
        settlement.push_with_metadata(1, event_ids[0], at(10));
        settlement.push_row(2, event_ids[1]);
        settlement.push_with_metadata(3, Uuid::from_u128(7), at(30));
        place.outbox_store().settle(&settlement).await.expect("rows that are others are no matter");
        let told: Vec<(String, Value)> = (1..=4)
            .map(|id: i32| place.objects(&["show", &id.to_string()]).remove(0))
            .map(|row| (row["state"].as_str().expect("a state").to_owned(), row["record"].clone()))
            .collect();
        let record = json!({ "partition": 2, "offset": "10" });
        let expected = [("sent", record), ("sent", Value::Null), ("unsent", Value::Null), ("unsent", Value::Null)];
        assert_eq!(told, expected.map(|(state, record)| (state.to_owned(), record)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_leader_has_read_and_not_sent_is_in_flight() {
    for place in Place::both().await {
        let broker = Broker::start(1).expect("a broker starts in this process");
        broker.create_topic(&place.topic(), 1).expect("the topic can be created");
        let relay = Daemon::new(&place.url(), broker.bootstrap_servers()).with_long_lease().start().await;
        place.write(1, 1).await;
        place.all_settled().await;
        children::take_down(&broker).expect("the broker goes down");
        place.write(1, 1).await;
        let found = |state: &str| ids(&place.objects(&["ls", "--state", state])).join(" ");
        wait::until_true("the row is in flight", wait::PATIENCE, async || found("in-flight") == "2").await;
        assert_eq!((found("unsent"), found("sent")), (String::new(), "1".to_owned()));
        assert!(place.said(&["show", "2"]).contains("state         in-flight: the leader has read it"));
        broker.up().expect("the broker comes back");
        place.all_settled().await;
        assert_eq!((found("in-flight"), found("sent")), (String::new(), "2 1".to_owned()));
        drop(relay);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_marks_the_checkpoint_tells_what_was_sent() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.run("insert into outbox (topic, key, payload) values ('TOPIC', 'a', 'x')").await;
        let mut relay = place.relay().with("outbox.settle", "checkpoint").start().await;
        place.holds(1).await;
        assert_eq!(relay.stop().await, Some(0));
        place.run("insert into outbox (topic, key, payload) values ('TOPIC', 'a', 'x')").await;
        let states = |objects: Vec<Value>| {
            objects.iter().map(|object| object["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>()
        };
        let settled = |arguments: &[&str]| {
            let mut command =
                crate::daemon::outboxd(&[&["ls", "--json", "--database-url", &place.url()], arguments].concat());
            let output = command.env("OUTBOXD_OUTBOX__SETTLE", "checkpoint").output().expect("the binary starts");
            let said = String::from_utf8(output.stdout).expect("text");
            states(said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
        };
        assert_eq!(settled(&[]), ["unsent", "sent"]);
        assert_eq!(settled(&["--state", "unsent"]), ["unsent"]);
    }
}
