//! A leader that is cut off from its database.

use std::time::Duration;

use outboxd::outbox::Delivery;

use crate::support::audit::Auditor;
use crate::support::machine;
use crate::support::proxy::{Mode, Proxy};
use crate::support::services::{self, Server};
use crate::support::throwaway::Postgres;
use crate::support::wait::{self, PATIENCE, SLACK};
use crate::takeover::{Appended, Stage, TTL, first, last, millis, now, report, stale};

/// A lease of which a lost connection is noticed soon, and that is too long to wait for.
const LONG_LEASE: Duration = Duration::from_secs(12);

/// The network between them goes; neither side is told.
async fn a_leader_whose_host_vanishes_is_succeeded(server: &Server, mode: Mode) {
    a_leader_whose_host_vanishes_is_succeeded_by_one_that_delivers(server, mode, Delivery::AtLeastOnce).await;
}

async fn a_leader_whose_host_vanishes_is_succeeded_by_one_that_delivers(server: &Server, mode: Mode, how: Delivery) {
    let _machine = machine::loaded().await;
    let stage = Stage::set_on(server).await;
    let url = stage.scene.database.url();
    let proxy = Proxy::before(url).await;
    let writers = stage.scene.steady_writers().start(&stage.scene.seed).await;
    let old = stage.relay_through("old", &proxy.url(url)).start().await;
    old.reaches("outboxd_leader", 1.0).await;
    // All of these relays are called alike at the broker, in every run.
    let progress = format!("{}.progress", stage.scene.topic.name());
    let new = stage.relay("new").with("relay.delivery", how.as_str()).with("relay.progress_topic", &progress);
    let new = new.start().await;
    stage.published(1_000).await;
    let cut = now();
    proxy.all(mode);
    new.reaches("outboxd_leader", 1.0).await;
    stage.published(1_000).await;
    proxy.all(Mode::Flow);
    wait::until_true("the old leader is a standby", PATIENCE, async || {
        old.get("/status").await.is_ok_and(|answer| answer.body.contains("standby"))
    })
    .await;
    stage.published(1_000).await;
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::default()).await;
    verdict.assert_complete_and_ordered();
    let took = first(&records, "new") - cut;
    report(&format!("{mode:?}: ms from the cut to the standby's first record, lease of 2 s"), took);
    report("duplicates", verdict.duplicates);
    assert!(stale(&records, "old", "new").is_empty(), "the old leader stopped before the new one began");
    assert!(last(&records, "old") <= first(&records, "new"), "also across partitions");
    assert!(took <= millis(TTL + SLACK), "{took} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_from_its_database_stops_before_the_standby_begins() {
    a_leader_whose_host_vanishes_is_succeeded(&services::postgres(), Mode::Sever).await;
}

/// Its lock is gone at once, and no broker refuses what it still sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_no_broker_shuts_out_stops_before_a_standby_begins_that_fences() {
    let (server, how) = (services::postgres(), Delivery::ExactlyOnce);
    a_leader_whose_host_vanishes_is_succeeded_by_one_that_delivers(&server, Mode::Sever, how).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_vanishes_frees_the_lease() {
    a_leader_whose_host_vanishes_is_succeeded(&services::postgres(), Mode::Stall).await;
}

/// There the server does not end idle sessions by itself: the standby does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_vanishes_frees_the_lease_on_the_oldest_postgresql_too() {
    a_leader_whose_host_vanishes_is_succeeded(&services::postgres_13(), Mode::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_connection_costs_a_moment_and_not_one_duplicate() {
    let _machine = machine::loaded().await;
    let stage = Stage::set().await;
    let url = stage.scene.database.url();
    let proxy = Proxy::before(url).await;
    let writers = stage.scene.steady_writers().start(&stage.scene.seed).await;
    let only = stage
        .relay_through("only", &proxy.url(url))
        .with("lease.ttl", &format!("{}s", LONG_LEASE.as_secs()))
        .start()
        .await;
    only.reaches("outboxd_leader", 1.0).await;
    for _ in 0..3 {
        stage.published(1_000).await;
        let term = only.metric("outboxd_term").await;
        assert_eq!(proxy.those_of("outboxd/lease", Mode::Sever), 1, "one session holds the lease");
        only.reaches("outboxd_term", term + 1.0).await;
    }
    stage.published(1_000).await;
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::default()).await;
    verdict.assert_exact();
    let pause = longest_pause(&records, 0);
    report("longest pause in ms over three lost lease connections, lease of 12 s", pause);
    assert!(pause < millis(LONG_LEASE), "{pause} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_the_database_a_relay_need_not_wait_for_its_own_lease() {
    let _machine = machine::loaded().await;
    let postgres = Postgres::start();
    let stage = Stage::set_on(postgres.server()).await;
    let mut workload = stage.scene.steady_writers();
    workload.outages = true;
    let writers = workload.start(&stage.scene.seed).await;
    let only = stage.relay("only").with("lease.ttl", &format!("{}s", LONG_LEASE.as_secs())).start().await;
    only.reaches("outboxd_leader", 1.0).await;
    stage.published(1_000).await;
    let term = only.metric("outboxd_term").await;
    postgres.restart();
    let back = now();
    only.reaches("outboxd_term", term + 1.0).await;
    stage.published(1_000).await;
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    let (records, verdict) = stage.records(&ledger, Auditor::default()).await;
    verdict.assert_complete_and_ordered();
    let pause = longest_pause(&records, back);
    report("longest pause in ms after the database's return, lease of 12 s", pause);
    assert!(pause < millis(LONG_LEASE), "{pause} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_keeps_its_leader() {
    let _machine = machine::loaded().await;
    let stage = Stage::set().await;
    let url = stage.scene.database.url();
    let proxy = Proxy::before(url).await;
    let writers = stage.scene.steady_writers().start(&stage.scene.seed).await;
    let leader = stage.relay_through("leader", &proxy.url(url)).start().await;
    leader.reaches("outboxd_leader", 1.0).await;
    let mut standby = stage.relay("standby").start().await;
    let term = leader.metric("outboxd_term").await;
    // A renewal takes 200 ms and more, of a lease of 2 s.
    proxy.all(Mode::Slow(Duration::from_millis(100)));
    stage.published(10_000).await;
    assert_eq!(leader.metric("outboxd_term").await, term);
    assert!(standby.metric("outboxd_leader").await == 0.0 && standby.exited().is_none());
    proxy.all(Mode::Flow);
    let ledger = writers.stop().await;
    stage.scene.all_settled().await;
    stage.records(&ledger, Auditor::default()).await.1.assert_exact();
}

/// The longest time in which nothing was appended, from some moment on, in milliseconds.
fn longest_pause(records: &[Appended], from: i64) -> i64 {
    let mut times: Vec<i64> = records.iter().map(|record| record.at).filter(|at| *at >= from).collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("records came")
}
