//! `outboxd skip` and `outboxd purge`: what waits is given up only where it cannot be in flight, and only what was sent is removed.

use outboxd::contract::{Messages, RowName};

use crate::daemon::place::Place;
use crate::daemon::{stderr, stdout};
use crate::support::{machine, operator};

fn held(key: &str, from_id: i64, cause: &str) -> String {
    format!(
        "insert into outbox_held (topic, key, from_id, cause, since)
         values ('TOPIC', {key}, {from_id}, '{cause}', '2026-01-31T12:00:00Z')"
    )
}

/// The names of all rows.
async fn all(store: &dyn Messages) -> Vec<RowName> {
    let search = outboxd::contract::Search { limit: 1_000, ..Default::default() };
    let found = store.search(&search).await.expect("the outbox can be searched");
    found.messages.iter().map(|message| message.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_rows_only_those_are_given_up_that_cannot_be_in_flight_when_it_is_done() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(12, 6).await;
        place.run("update outbox set sent_at = '2026-01-31T12:00:00Z' where id = 12").await;
        for (key, cause) in
            [("'key-1'", "missing_topic"), ("'key-2'", "rejected"), ("'key-3'", "rejected"), ("'key-4'", "suspected")]
        {
            place.run(&held(key, 1, cause)).await;
        }
        place.run("update outbox_held set release_requested = true where key = 'key-3'").await;
        place.somebody_leads().await;
        let store = place.store();
        let rows = all(&*store).await;
        assert_eq!(
            store.skip(&rows, &operator::intent()).await.expect("it can be done"),
            2,
            "what waits for an operator"
        );
        let given_up = "select count(*) from outbox_dead where key = 'key-2' and code = 'skipped'";
        assert_eq!(place.number(given_up).await, 2);
        let another: Vec<RowName> =
            rows.iter().map(|row| RowName { event_id: Some(uuid::Uuid::nil()), ..*row }).collect();
        place.run("update outbox_lease set expires_at = '2000-01-01T00:00:00Z'").await;
        assert_eq!(store.skip(&another, &operator::intent()).await.expect("it can be done"), 0, "rows of other events");
        assert_eq!(store.skip(&rows, &operator::intent()).await.expect("it can be done"), 9, "all but what was sent");
        assert_eq!(place.number("select count(*) from outbox").await, 1);
        assert_eq!(place.audit_log().iter().map(|(_, affected, _)| affected).sum::<u64>(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_session_is_changing_is_left_alone_and_waited_for_by_nobody() {
    let _machine = machine::shared().await;
    let place = Place::server().await;
    place.write(4, 2).await;
    place.run(&held("'key-1'", 1, "rejected")).await;
    place.somebody_leads().await;
    let store = place.store();
    let rows = all(&*store).await;
    let mut other = place.begun("update outbox_held set release_requested = true").await;
    assert_eq!(
        store.skip(&rows, &operator::intent()).await.expect("it can be done"),
        0,
        "its release is being asked for"
    );
    sqlx::raw_sql("rollback; begin; select from outbox where id = 1 for update")
        .execute(&mut other)
        .await
        .expect("a lock");
    assert_eq!(store.skip(&rows, &operator::intent()).await.expect("it can be done"), 1, "but for the locked row");
    sqlx::raw_sql("rollback; begin; select from outbox_dead for update").execute(&mut other).await.expect("a lock");
    let letters = [rows.iter().copied().find(|row| row.id == 3).expect("row 3")];
    assert_eq!(store.requeue(&letters, &operator::intent()).await.expect("it can be done"), 0);
    assert_eq!(store.discard(&letters, &operator::intent()).await.expect("it can be done"), 0);
    sqlx::raw_sql("rollback").execute(&mut other).await.expect("the lock is gone");
    assert_eq!(store.requeue(&letters, &operator::intent()).await.expect("it can be done"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_held_lane_is_given_up_under_a_relay_and_the_rest_flows_after_the_release() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(6, 2).await;
        place.run(&held("'key-1'", 1, "rejected")).await;
        let mut relay = place.relay().start().await;
        place.holds(3).await;
        let topic = place.topic();
        let skip = ["skip", "--topic", &topic, "--key", "key-1", "--reason", "garbage"];
        let dry = place.said(&[&skip[..], &["--dry-run"]].concat());
        assert_eq!(dry, format!("would skip 1 message (id 1 of topic {topic}); nothing was changed\n"));
        assert!(place.said(&skip).starts_with("skipped 1 message, "));
        let letter = &place.objects(&["dead", "show", "1"])[0]["dead"];
        assert_eq!((&letter["cause"], &letter["message"]), (&"skipped".into(), &"garbage".into()));
        assert_eq!(place.audit_log(), [("skip".to_owned(), 1, Some("garbage".to_owned()))]);

        place.said(&["held", "release", "--all", "--yes"]);
        place.holds(5).await;
        place.all_settled().await;
        let payloads: Vec<_> = place.records().await.into_iter().filter_map(|record| record.payload).collect();
        assert!(!payloads.contains(&b"1".to_vec()), "{payloads:?}");
        let (code, report) = place.verified();
        assert_eq!(code, Some(0), "{report}");
        assert_eq!(relay.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_up_that_may_be_in_flight_was_sent_or_has_no_reason() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(4, 4).await;
        place.run("update outbox set sent_at = '2026-01-31T12:00:00Z' where id = 4").await;
        place.run(&held("'key-1'", 1, "missing_topic")).await;
        place.run(&held("'key-2'", 2, "rejected")).await;
        place.run("update outbox_held set release_requested = true where key = 'key-2'").await;
        place.somebody_leads().await;
        let refused = |id: &str| place.refused(&["skip", id, "--reason", "x"]);
        assert!(refused("1").contains("may be in flight at any time: missing_topic"), "{}", refused("1"));
        assert!(refused("2").contains("may be in flight at any time: rejected"), "{}", refused("2"));
        assert!(refused("3").contains("its lane is not held, and relay-1 leads"), "{}", refused("3"));
        assert!(refused("4").contains("message 4 was sent already"), "{}", refused("4"));
        assert!(refused("77").contains("nothing of that waits"), "{}", refused("77"));
        assert!(place.refused(&["skip", "--reason", "x"]).contains("say which: an ID, "));
        let without = place.outboxd(&["skip", "1"]);
        assert_eq!((without.status.code(), stdout(&without)), (Some(2), String::new()));
        assert!(stderr(&without).contains("--reason"), "{}", stderr(&without));
        assert_eq!(place.number("select count(*) from outbox_dead").await, 0);
        assert!(place.audit_log().is_empty());

        // Without a relay nothing is in flight.
        place.run("update outbox_lease set expires_at = '2000-01-01T00:00:00Z'").await;
        for id in ["1", "2", "3"] {
            assert!(place.said(&["skip", id, "--reason", "x"]).starts_with("skipped 1 message, "));
        }
        assert!(refused("4").contains("message 4 was sent already"), "{}", refused("4"));
        assert_eq!(place.number("select count(*) from outbox_dead").await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_old_sent_rows_are_removed_and_no_audit_wonders_at_it() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        place.write(5_000, 10).await;
        let mut relay = place.relay().start().await;
        place.all_settled().await;
        assert_eq!(relay.stop().await, Some(0));
        place.write(20, 10).await;
        place.run(&held("'key-3'", 5_000, "rejected")).await;
        assert!(place.refused(&["purge", "--older-than", "1h"]).contains("nothing was sent before"));
        assert_eq!(place.number("select count(*) from outbox").await, 5_020);

        let dry = place.said(&["purge", "--older-than", "0s", "--dry-run"]);
        assert!(dry.starts_with("would remove 5,000 rows that were sent before "), "{dry}");
        assert_eq!(place.number("select count(*) from outbox").await, 5_020, "a dry run changes nothing");
        let output = place.outboxd(&["purge", "--older-than", "0s", "--reason", "the disk is full"]);
        assert_eq!(stdout(&output), "removed 5,000 rows\n", "{}", stderr(&output));
        assert!(stderr(&output).contains("removed "), "progress is told");
        assert_eq!(place.number("select count(*) from outbox where sent_at is null").await, 20);
        let audit = place.audit_log();
        assert_eq!(audit.iter().map(|(_, affected, _)| affected).sum::<u64>(), 5_000);
        assert!(
            audit
                .iter()
                .all(|(command, _, reason)| command == "purge" && reason.as_deref() == Some("the disk is full"))
        );
        let (code, report) = place.verified();
        assert_eq!(code, Some(0), "{report}");
    }
}
