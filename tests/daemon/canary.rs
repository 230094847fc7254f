//! The canary over the real binary, on both databases: its rows go the whole road, or it is told what keeps them.

use std::io::Write as _;

use tempfile::NamedTempFile;

use crate::daemon::doctor::{check, check_of, comes_out, least_role};
use crate::daemon::place::Place;
use crate::daemon::small::Small;
use crate::daemon::{ran, stderr, stdout};
use crate::support::daemon::{Daemon, Running};
use crate::support::kafka::Topic;
use crate::support::scene::Scene;
use crate::support::wait::{self, PATIENCE};
use crate::support::{children, machine};

const SENT: &str = "outboxd_canary_sent_total";
const LOST: &str = "outboxd_canary_lost_total";
const BACK: &str = "outboxd_canary_round_trip_seconds_count";

/// With a canary that sends rows to this topic so often, and calls them lost after a second.
fn hasty(daemon: Daemon, every: &str, topic: &str) -> Daemon {
    let canary = daemon.with("canary.every", every).with("canary.topic", topic).with("canary.lost_after", "1s");
    canary.with("lease.ttl", "1s")
}

/// With one that has all the time that a busy machine may take.
fn patient(daemon: Daemon, topic: &str) -> Daemon {
    daemon.with("canary.every", "200ms").with("canary.topic", topic).with("canary.lost_after", "2m")
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(text.as_bytes()).expect("a temporary file can be written");
    file
}

/// That every row that was sent by now comes back.
async fn all_come_back(relay: &Running) {
    let sent = relay.metric(SENT).await;
    relay.reaches(BACK, sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_leader_and_of_a_standby_come_back_and_each_counts_its_own() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let daemon = patient(place.relay(), &place.topic());
        let leader = daemon.start().await;
        let standby = daemon.start().await;
        for relay in [&leader, &standby] {
            relay.reaches(BACK, 10.0).await;
            all_come_back(relay).await;
            let back = relay.metric(BACK).await;
            assert!(back <= relay.metric(SENT).await + 1.0, "rows of the other are none of its own");
            assert_eq!(relay.metric(LOST).await, 0.0);
            comes_out(relay, "canary", "ok").await;
        }
        assert_eq!([leader.metric("outboxd_leader").await, standby.metric("outboxd_leader").await], [1.0, 0.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_nothing_is_sent_and_there_is_no_check() {
    let small = Small::new().await;
    let relay = small.daemon().start().await;
    comes_out(&relay, "reader", "ok").await;
    assert!(check_of(&relay, "canary").await.is_null());
    assert_eq!([relay.metric(SENT).await, relay.metric(BACK).await], [0.0, 0.0]);
    assert_eq!(small.unsent().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_topic_is_missing_is_lost_once_and_is_timed_when_it_comes_at_last() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let topic = Topic::missing(&place.brokers(), 2);
        // One row, and no other.
        let relay = hasty(place.relay(), "16m", topic.name()).start().await;
        relay.reaches(LOST, 1.0).await;
        comes_out(&relay, "canary", "failed").await;
        comes_out(&relay, "topics", "failed").await;
        match &place {
            Place::File(small) => small.broker.create_topic(topic.name(), 2).expect("the topic can be created"),
            Place::Server(_) => topic.appear().await,
        }
        relay.reaches(BACK, 1.0).await;
        comes_out(&relay, "canary", "ok").await;
        assert_eq!([relay.metric(SENT).await, relay.metric(LOST).await], [1.0, 1.0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_made_where_the_relay_makes_topics() {
    let _machine = machine::shared().await;
    let place = Place::server().await;
    let Place::Server(scene) = &place else { unreachable!("it is in PostgreSQL") };
    let topic = Topic::missing(&scene.brokers, 1);
    let relay = patient(place.relay(), topic.name()).with("relay.on_missing_topic", "create").start().await;
    relay.reaches(BACK, 1.0).await;
    assert_eq!(relay.metric(LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_loses_what_it_kept_too_long_and_all_comes_back_afterwards() {
    let small = Small::new().await;
    let relay = hasty(small.daemon(), "200ms", "orders").start().await;
    relay.reaches(BACK, 1.0).await;
    children::take_down(&small.broker).expect("the broker obeys");
    let before = relay.metric(LOST).await;
    relay.reaches(LOST, before + 2.0).await;
    comes_out(&relay, "canary", "failed").await;
    small.broker.up().expect("the broker obeys");
    comes_out(&relay, "canary", "ok").await;
    all_come_back(&relay).await;
    assert!(relay.metric(LOST).await <= relay.metric(SENT).await, "none is lost twice");
    relay.reaches("outboxd_published_total", relay.metric(SENT).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_away_makes_no_row_lost() {
    let small = Small::new().await;
    let relay = patient(small.daemon(), "orders").start().await;
    relay.reaches(BACK, 1.0).await;
    small.run("create trigger away before insert on outbox begin select raise(abort, 'away'); end").await;
    comes_out(&relay, "canary", "warning").await;
    let told = check_of(&relay, "canary").await["evidence"].as_str().unwrap_or_default().to_owned();
    assert!(told.starts_with("its rows are not written: ") && told.contains("away"), "{told}");
    small.run("drop trigger away").await;
    comes_out(&relay, "canary", "ok").await;
    all_come_back(&relay).await;
    assert_eq!(relay.metric(LOST).await, 0.0);
    assert_eq!(relay.log().matches("the canary's row is not written").count(), 1, "{}", relay.log());
    assert_eq!(relay.log().matches("the canary's rows are written again").count(), 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_told_with_its_grant_and_the_relay_goes_on_without_the_canary() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let (role, url) = least_role(&scene).await;
    let topic = scene.topic.name().to_owned();
    let relay = patient(Daemon::new(&url, &scene.brokers), &topic).start().await;
    scene.insert("k", "v").await;
    relay.reaches("outboxd_published_total", 1.0).await;
    let grant = format!(
        "grant insert (event_id, topic, key, payload, headers, partition) on \"public\".\"outbox\" to \"{role}\""
    );
    for name in ["rights", "canary"] {
        comes_out(&relay, name, "warning").await;
        let told = check_of(&relay, name).await;
        assert_eq!(told["command"], grant.as_str(), "{told}");
        assert!(told["evidence"].as_str().is_some_and(|seen| seen.contains("lacks insert")), "{told}");
    }
    assert!(relay.log().contains(&grant), "{}", relay.log());
    assert_eq!([relay.metric(SENT).await, relay.metric(LOST).await], [0.0, 0.0]);
    let canary = file(&format!("[canary]\nevery = \"10s\"\ntopic = \"{topic}\"\n"));
    let path = canary.path().to_str().expect("a path").to_owned();
    let doctor = || ran(&["doctor", "--config", &path, "--database-url", &url, "--brokers", &scene.brokers]);
    let (warning, told) = check(&doctor(), "rights");
    assert!(warning == "warning" && told.contains("lacks insert") && told.ends_with(&grant), "{told}");

    scene.database.run(&grant).await;
    relay.reaches(BACK, 2.0).await;
    comes_out(&relay, "canary", "ok").await;
    let beside = doctor();
    assert_eq!(check(&beside, "rights").0, "ok", "what the canary needs is not too much: {}", stdout(&beside));
    assert_eq!(check(&beside, "canary").0, "unknown");
    drop(relay);

    let columns = "event_id, topic, key, payload, headers, partition";
    scene.database.run(&format!("revoke insert ({columns}) on outbox from {role}")).await;
    assert_eq!(check(&doctor(), "rights").0, "warning");
    let grants = format!("outboxd,{role}");
    let granted = ran(&["migrate", "--grants", &grants, "--config", &path, "--database-url", scene.database.url()]);
    assert!(granted.status.success(), "{}", stderr(&granted));
    assert_eq!(check(&doctor(), "rights").0, "ok");
    scene.database.run(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_its_topic_loses_nothing() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let topic = place.topic();
        let relay = patient(place.relay(), &topic).start().await;
        relay.reaches(BACK, 1.0).await;
        let url = place.url();
        for command in [&["pause", "--topic", &topic, "--reason", "r"][..], &["resume", "--topic", &topic]] {
            let output = ran(&[command, &["--yes", "--database-url", &url]].concat());
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            let status = if command[0] == "pause" { "unknown" } else { "ok" };
            comes_out(&relay, "canary", status).await;
        }
        assert_eq!(relay.metric(LOST).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_canary_wrote_is_like_any_other_row_to_an_audit() {
    let _machine = machine::shared().await;
    for place in Place::both().await {
        let mut relay = patient(place.relay(), &place.topic()).start().await;
        relay.reaches(BACK, 3.0).await;
        assert_eq!(relay.stop().await, Some(0));
        let brokers = place.brokers();
        let output = ran(&["verify", "--database-url", &place.url(), "--brokers", &brokers, "--no-duplicates"]);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    }
}

#[test]
fn the_relays_role_is_granted_to_insert_only_where_there_is_a_canary() {
    let print = ["migrate", "--print", "--grants", "app,relay"];
    let grant = "grant insert (event_id, topic, key, payload, headers, partition) on \"outbox\" to \"relay\";";
    let without = ran(&print);
    assert!(without.status.success() && !stdout(&without).contains(grant), "{}", stderr(&without));
    let canary = file("[canary]\nevery = \"10s\"\n");
    let with = ran(&[&print[..], &["--config", canary.path().to_str().expect("a path")]].concat());
    assert!(stdout(&with).contains(grant), "{}{}", stdout(&with), stderr(&with));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_row_of_the_canary() {
    let small = Small::new().await;
    let mut relay = hasty(small.daemon(), "16m", "missing").start().await;
    relay.reaches(SENT, 1.0).await;
    assert_eq!(relay.stop().await, Some(0));
    wait::until_true("the row waits for the next relay", PATIENCE, async || small.unsent().await == 1).await;
}
