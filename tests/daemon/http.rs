//! The operator's page, of a relay that works, that waits, and that stands by.

use std::collections::{BTreeMap, BTreeSet};

use outboxd::observe::metrics::{CATALOGUE, Kind, OUTBOX_LABEL, SECONDS_BUCKETS};
use serde_json::Value;

use crate::daemon::small::Small;
use crate::daemon::{ran, stderr};
use crate::support::daemon::{Daemon, Running};
use crate::support::wait::{self, PATIENCE};

async fn status(relay: &Running) -> Value {
    let answer = relay.get("/status").await.expect("the page is served");
    serde_json::from_str(&answer.body).expect("the status is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_while_the_database_is_away_and_say_why() {
    let mut relay = Daemon::new("postgres://nobody@127.0.0.1:1/nothing", "127.0.0.1:1").spawn();
    wait::until_true("the page is served", PATIENCE, async || relay.get("/livez").await.is_ok()).await;
    assert_eq!(relay.get("/livez").await.expect("served").status, 200);
    wait::until_true("the reason is told", PATIENCE, async || {
        let answer = relay.get("/readyz").await.expect("served");
        answer.status == 503 && answer.body == "not ready: waiting for the database\n"
    })
    .await;
    assert_eq!(status(&relay).await["phase"], "starting");
    assert!(relay.metrics().await.sum("outboxd_build_info").is_some());
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(relay.log().matches("waiting for the database").count(), 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_leader_tells_its_term_and_what_waits() {
    let small = Small::new().await;
    small.write(25).await;
    let relay = small.daemon().start().await;
    relay.reaches("outboxd_published_total", 25.0).await;
    wait::until_true("all is settled", PATIENCE, async || status(&relay).await["in_flight"] == 0).await;
    let status = status(&relay).await;
    assert_eq!((&status["phase"], &status["ready"], &status["term"]), (&"leading".into(), &true.into(), &1.into()));
    assert_eq!((&status["published"], &status["held_lanes"]), (&25.into(), &0.into()));
    assert_eq!(relay.get("/readyz").await.expect("served").body, "ready: leading\n");
    assert_eq!(relay.get("/nowhere").await.expect("served").status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_is_ready_as_standby_and_takes_over_from_a_leader_that_stops() {
    let small = Small::new().await;
    let mut leader = small.daemon().start().await;
    let standby = small.daemon().start().await;
    assert_eq!(standby.get("/readyz").await.expect("served").body, "ready: standby\n");
    assert_eq!(status(&standby).await["term"], Value::Null);
    assert_eq!(leader.stop().await, Some(0));
    wait::until_true("the standby leads", PATIENCE, async || status(&standby).await["term"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_is_the_catalogue() {
    let small = Small::new().await;
    small.write(3).await;
    let relay = small.daemon().start().await;
    relay.reaches("outboxd_published_total", 3.0).await;
    relay.reaches("outboxd_settle_seconds_count", 1.0).await;
    let text = relay.get("/metrics").await.expect("served").body;
    let kinds: BTreeMap<&str, Kind> = CATALOGUE.iter().map(|metric| (metric.name, metric.kind)).collect();
    let scraped: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            let expected = kinds.get(name).unwrap_or_else(|| panic!("{name} is not in the catalogue"));
            assert_eq!(format!("{expected:?}").to_lowercase(), kind, "{name}");
            name
        })
        .collect();
    for told in ["outboxd_leader", "outboxd_term", "outboxd_unsent_messages", "outboxd_oldest_unsent_seconds"] {
        assert!(scraped.contains(told), "{told} is missing:\n{text}");
    }
    for metric in CATALOGUE.iter().filter(|metric| scraped.contains(metric.name)) {
        assert!(text.contains(&format!("# HELP {} ", metric.name)), "{} has no help", metric.name);
        assert!(metric.name.starts_with("outboxd_"), "{}", metric.name);
    }
    for sample in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _value) = sample.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        let metric = CATALOGUE.iter().find(|metric| of_histogram.clone().chain([name]).any(|name| name == metric.name));
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels: Vec<&str> = labels.map(|(label, _)| label).filter(|label| *label != "le").collect();
        assert_eq!(labels, [&[OUTBOX_LABEL], metric.labels].concat(), "{series}");
    }
    let bounds = text.lines().filter(|line| line.starts_with("outboxd_fetch_seconds_bucket")).count();
    assert_eq!(bounds, SECONDS_BUCKETS.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_says_of_which_outbox_it_tells() {
    let small = Small::new().await;
    let standby = small.daemon().with("outbox.source", "the \"shop\"");
    for (daemon, name) in [(small.daemon(), "shop.db.outbox"), (standby, r#"the \"shop\""#)] {
        let relay = daemon.start().await;
        let text = relay.get("/metrics").await.expect("served").body;
        let mut samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let label = format!("{{outbox=\"{name}\"");
        assert!(samples.all(|line| line.contains(&label)), "{label}:\n{text}");
    }
    // It is known while the database is away.
    let relay = Daemon::new("postgres://nobody@127.0.0.1:1/nothing", "127.0.0.1:1").spawn();
    wait::until_true("the label is there", PATIENCE, async || {
        relay
            .get("/metrics")
            .await
            .is_ok_and(|answer| answer.body.contains("outboxd_leader{outbox=\"nothing.outbox\"} 0"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_a_clear_error() {
    let small = Small::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = ran(&["run", "--database-url", &small.url(), "--brokers", "127.0.0.1:1", "--http", &address]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("cannot listen on {address}; give a free address with --http");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}
