//! `outboxd dead`: letters are put back in the order of their lanes, each once, or deleted for a reason.

use std::io::{BufRead, BufReader};
use std::process::Output;

use outboxd::kafka::Consumed;
use serde_json::Value;

use crate::daemon::place::Place;
use crate::daemon::{outboxd, ran, stderr, stdout};
use crate::support::machine;

fn payloads(records: &[Consumed]) -> Vec<String> {
    let text = |record: &Consumed| String::from_utf8(record.payload.clone().expect("a payload")).expect("text");
    records.iter().map(text).collect()
}

fn damage(report: &Value) -> [u64; 3] {
    ["lost", "reordered", "unexpected"].map(|name| report[name].as_u64().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_back_in_order_say_what_was_wrong_and_verify_agrees() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(6, 1).await;
        place.kill("id in (2, 4)").await;
        let mut relay = place.relay().start().await;
        place.holds(4).await;
        place.all_settled().await;

        let output = place.outboxd(&["dead", "requeue", "--all", "--dry-run"]);
        assert_eq!(stdout(&output), "would put 2 letters back; nothing was changed\n");
        assert!(
            stderr(&output).contains("warning: of 1 of their lanes later messages were sent already"),
            "{}",
            stderr(&output)
        );
        assert_eq!(place.number("select count(*) from outbox_dead").await, 2, "a dry run changes nothing");

        let output = place.outboxd(&["dead", "requeue", "--all", "--yes", "--reason", "the limit was raised"]);
        assert!(stdout(&output).starts_with("put back 2 letters;"), "{}", stderr(&output));
        place.holds(6).await;
        place.all_settled().await;
        let records = place.records().await;
        assert_eq!(payloads(&records), ["1", "3", "5", "6", "2", "4"]);
        for (record, first_id) in records[4..].iter().zip(["2", "4"]) {
            let header: Value =
                serde_json::from_str(record.header("outbox-requeued").expect("the header")).expect("JSON");
            assert_eq!((&header["id"], &header["code"]), (&first_id.into(), &"too_large".into()));
            assert_eq!(record.header("a"), Some("b"));
            let same_id = record.header("outbox-id") == Some(first_id);
            assert_eq!(same_id, !place.is_file(), "a SQLite outbox gives the next id");
        }
        assert!(records[..4].iter().all(|record| record.header("outbox-requeued").is_none()));
        let audit = place.audit_log();
        assert_eq!(audit, [("dead requeue".to_owned(), 2, Some("the limit was raised".to_owned()))]);
        assert!(place.refused(&["dead", "requeue", "--all"]).contains("no dead letter is meant by that"));

        let (code, report) = place.verified();
        assert_eq!((code, damage(&report), report["requeued"].as_u64()), (Some(0), [0; 3], Some(2)), "{report}");
        assert_eq!(relay.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_ids_times_and_first_ids_stay_however_often_a_letter_goes_back() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(3, 1).await;
        place.run("create table before as select event_id, created_at from outbox").await;
        for _ in 0..2 {
            place.kill("sent_at is null").await;
            place.said(&["dead", "requeue", "--cause", "too_large"]);
        }
        let same =
            "select count(*) from outbox o, before b where o.event_id = b.event_id and o.created_at = b.created_at";
        assert_eq!(place.number(same).await, 3);
        let first_id = if place.is_file() {
            "json_extract(headers, '$.\"outbox-requeued\".id')"
        } else {
            "headers->'outbox-requeued'->>'id'"
        };
        let first = format!("select count(*) from outbox where {first_id} in ('1', '2', '3')");
        assert_eq!(place.number(&first).await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_go_back_that_are_meant_and_the_oldest_of_too_many() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(10, 2).await;
        place.kill("true").await;
        place.run("update outbox_dead set code = 'unknown_partition' where id > 8").await;
        assert!(place.refused(&["dead", "requeue"]).contains("say which: --all, --cause, "));
        assert!(place.refused(&["dead", "requeue", "--topic", "another"]).contains("no dead letter is meant by that"));
        let said = place.said(&["dead", "requeue", "--key", "key-1", "--limit", "2", "--dry-run"]);
        assert_eq!(said, "would put the oldest 2 letters of more (--limit) back; nothing was changed\n");
        place.said(&["dead", "requeue", "--key", "key-1", "--limit", "2"]);
        let left = |objects: Vec<Value>| {
            objects.iter().map(|object| object["id"].as_str().expect("text").to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(left(place.objects(&["dead", "ls"])), "10 9 8 7 6 5 4 2", "1 and 3 went back");
        assert_eq!(left(place.objects(&["dead", "ls", "--cause", "unknown_partition"])), "10 9");
        place.said(&["dead", "requeue", "--id", "4", "--id", "2"]);
        place.said(&["dead", "requeue", "--cause", "unknown_partition"]);
        assert_eq!(left(place.objects(&["dead", "ls"])), "8 7 6 5");
        let keys = "select count(distinct key) from outbox";
        assert_eq!((place.number("select count(*) from outbox").await, place.number(keys).await), (6, 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_message_stays_and_the_rest_goes_back() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(4, 1).await;
        place.kill("id in (1, 2, 3)").await;
        let no_headers = if place.is_file() { "'not json'" } else { "'[]'" };
        place.run(&format!("update outbox_dead set headers = {no_headers} where id = 2")).await;
        if !place.is_file() {
            // As after a database lost commits and gave their ids out anew.
            place.run("update outbox_dead set id = 4 where id = 3").await;
        }
        let output = place.outboxd(&["dead", "requeue", "--all"]);
        let (went, stay) = if place.is_file() {
            ("put back 2 letters;", "1 letter cannot")
        } else {
            ("put back 1 letter;", "2 letters cannot")
        };
        assert!(stdout(&output).starts_with(went), "{}", stdout(&output));
        assert!(stderr(&output).contains(stay), "{}", stderr(&output));
        let refusal = place.refused(&["dead", "requeue", "--all"]);
        assert!(refusal.contains("nothing was put back"), "{refusal}");
        assert_eq!(place.audit_log().len(), 1, "what changed nothing is not written down");
        assert_eq!(place.number("select count(*) from outbox_dead where id = 2").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_deleted_for_a_reason_alone() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(4, 2).await;
        place.kill("id > 1").await;
        let without = place.outboxd(&["dead", "discard", "--all"]);
        assert_eq!(without.status.code(), Some(2));
        assert!(stderr(&without).contains("--reason"), "{}", stderr(&without));
        let dry = place.said(&["dead", "discard", "--all", "--reason", "tests", "--dry-run"]);
        assert_eq!(dry, "would delete 3 letters for good; nothing was changed\n");
        assert_eq!(place.said(&["dead", "discard", "--id", "3", "--reason", "sent by hand"]), "deleted 1 letter\n");
        assert_eq!(place.number("select count(*) from outbox_dead").await, 2);
        assert_eq!(place.number("select count(*) from outbox").await, 1);
        assert_eq!(place.audit_log(), [("dead discard".to_owned(), 1, Some("sent by hand".to_owned()))]);
        assert!(place.refused(&["dead", "discard", "--id", "3", "--reason", "x"]).contains("no dead letter is meant"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_in_the_middle_and_run_again_puts_each_letter_back_once() {
    const LETTERS: u32 = 8_000;
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(LETTERS, 100).await;
        place.kill("true").await;
        let limit = LETTERS.to_string();
        let requeue = ["dead", "requeue", "--all", "--limit", &limit];
        let mut command = outboxd(&[&requeue[..], &["--database-url", &place.url()]].concat());
        let mut child = command.spawn().expect("the binary starts");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
        let line = said.find_map(|line| line.ok().filter(|line| line.starts_with("put back "))).expect("progress");
        child.kill().expect("it can be killed");
        child.wait().expect("it ended");
        let left = place.number("select count(*) from outbox_dead").await;
        assert!(left > 0 && left < LETTERS.into(), "{line}: {left} are left");
        place.said(&requeue);
        let counted = ["count(*)", "count(distinct event_id)"].map(|count| format!("select {count} from outbox"));
        for count in counted {
            assert_eq!(place.number(&count).await, i64::from(LETTERS), "{count}");
        }
        assert_eq!(place.number("select count(*) from outbox_dead").await, 0);
        let affected: u64 = place
            .objects(&["audit-log", "--limit", "1000"])
            .iter()
            .map(|entry| entry["affected"].as_u64().expect("a number"))
            .sum();
        assert_eq!(affected, u64::from(LETTERS), "every batch is in the audit log, with its letters");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_go_back_under_load_while_the_leader_is_killed_and_no_lane_is_harmed() {
    const LETTERS: u32 = 3_000;
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(LETTERS, 50).await;
        place.kill("true").await;
        let mut relay = place.relay().start().await;
        let limit = LETTERS.to_string();
        let mut command = outboxd(&["dead", "requeue", "--all", "--limit", &limit, "--database-url", &place.url()]);
        let mut child = command.spawn().expect("the binary starts");
        // Of the letters' lanes and of others.
        let mut written = 0;
        while child.try_wait().expect("a child can be waited for").is_none() || written < 10 {
            place.write(100, 200).await;
            written += 1;
            if written == 2 {
                relay.kill();
                relay = place.relay().start().await;
            }
        }
        let output: Output = child.wait_with_output().expect("it ended");
        assert!(stdout(&output).starts_with("put back 3,000 letters;"), "{}", stderr(&output));
        place.all_settled().await;
        let (code, report) = place.verified();
        assert_eq!((code, damage(&report)), (Some(0), [0; 3]), "{report}");
        assert_eq!(report["requeued"].as_u64(), Some(LETTERS.into()), "{report}");
        assert_eq!(report["published"].as_u64(), Some(u64::from(LETTERS) + written * 100), "{report}");
        assert_eq!(relay.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_go_back_once_however_rows_are_settled_and_records_delivered() {
    let _machine = machine::shared().await;
    for (settle, delivery) in
        [("delete", "at-least-once"), ("checkpoint", "at-least-once"), ("checkpoint", "exactly-once")]
    {
        for place in Place::both().await {
            if place.is_file() && delivery == "exactly-once" {
                // The broker in this process knows no transactions.
                continue;
            }
            place.write(6, 1).await;
            place.kill("id in (2, 4)").await;
            let relay = place.relay().with("outbox.settle", settle).with("relay.delivery", delivery);
            let mut relay = relay.with_long_lease().start().await;
            place.holds(4).await;
            place.said(&["dead", "requeue", "--all"]);
            place.holds(6).await;
            assert_eq!(relay.stop().await, Some(0));
            assert_eq!(payloads(&place.records().await), ["1", "3", "5", "6", "2", "4"], "{settle}, {delivery}");
            let (code, report) = place.verified_with(settle);
            assert_eq!((code, damage(&report)), (Some(0), [0; 3]), "{settle}, {delivery}: {report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relays_role_puts_letters_back_and_writes_nothing_else_and_without_the_grant_is_told_of_it() {
    let _machine = machine::shared().await;
    let place = Place::server().await;
    place.write(3, 1).await;
    place.kill("true").await;
    let role = format!("letters_{:08x}", rand::random::<u32>());
    place.run(&format!("create role {role} login password 'secret'")).await;
    let migrated = place.outboxd(&["migrate", "--grants", &format!("{role},{role}")]);
    assert!(migrated.status.success(), "{}", stderr(&migrated));
    place.run(&format!("revoke insert on outbox from {role}; revoke insert (event_id, topic, key, payload, headers, partition) on outbox from {role}")).await;
    let login = place.url().replacen("outboxd:outboxd@", &format!("{role}:secret@"), 1);
    let requeue = |id: &str| ran(&["dead", "requeue", "--id", id, "--database-url", &login]);
    let output = requeue("1");
    assert!(stdout(&output).starts_with("put back 1 letter;"), "{}", stderr(&output));
    let entry = &place.objects(&["audit-log"])[0];
    assert_eq!(entry["role"], role.as_str(), "the role that asked, and not the owner");

    place
        .run(&format!(
            "revoke execute on function outbox_requeue from {role}; revoke delete on outbox_dead from {role}"
        ))
        .await;
    let refused = requeue("2");
    assert_eq!(refused.status.code(), Some(1));
    let complaint = stderr(&refused);
    assert!(
        complaint.contains("permission denied for function outbox_requeue") && complaint.contains("--grants"),
        "{complaint}"
    );
    let refused = ran(&["dead", "discard", "--id", "2", "--reason", "x", "--database-url", &login]);
    assert!(
        stderr(&refused).contains("permission denied") && stderr(&refused).contains("--grants"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(place.number("select count(*) from outbox_dead").await, 2);
    place.run(&format!("drop owned by {role}; drop role {role}")).await;
}
