//! `/readyz` in every state of a relay, over the binary: it is never wrong. That it stays right for hours is looked at by
//! `engine::readiness`.

use std::net::TcpListener;
use std::time::Duration;

use outboxd::admin::health::STALLED_AFTER;
use tokio::time::Instant;

use crate::daemon::small::Small;
use crate::support::children;
use crate::support::daemon::{Daemon, Running};
use crate::support::machine;
use crate::support::proxy::{Mode, Proxy};
use crate::support::scene::Scene;
use crate::support::wait::{self, PATIENCE, SLACK};

const READY_LEADER: &str = "ready: leading\n";
const READY_STANDBY: &str = "ready: standby\n";
const STOPPING: &str = "not ready: stopping: draining what is in flight\n";
const CUT_OFF: &str = "not ready: standby without a connection to the database\n";

/// How often a state is looked at that is to last.
const LOOKS: usize = 50;

/// A short lease, so that what depends on it comes soon.
const TTL: Duration = Duration::from_secs(1);

/// What `/readyz` says now; the process is alive whatever that is.
async fn readyz(relay: &Running) -> String {
    let answer = relay.get("/readyz").await.expect("the page is served");
    assert_eq!(answer.status, if answer.body.starts_with("ready: ") { 200 } else { 503 }, "{}", answer.body);
    assert_eq!(relay.get("/livez").await.expect("the page is served").status, 200);
    answer.body
}

async fn says(relay: &Running, expected: &str) {
    wait::until_true(&format!("it says {expected:?}"), PATIENCE, async || readyz(relay).await == expected).await;
}

/// Looks again and again, and finds nothing else.
async fn says_on(relay: &Running, expected: &str) {
    for _ in 0..LOOKS {
        assert_eq!(readyz(relay).await, expected);
    }
}

fn with_short_lease(daemon: Daemon) -> Daemon {
    daemon.with("lease.ttl", &format!("{}ms", TTL.as_millis()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_not_ready_before_the_database_has_answered_and_says_that_it_starts() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("postgres://nobody@{}/nothing", silent.local_addr().expect("bound"));
    let mut relay = Daemon::new(&url, "127.0.0.1:1").spawn();
    wait::until_true("the page is served", PATIENCE, async || relay.get("/livez").await.is_ok()).await;
    assert_eq!(readyz(&relay).await, "not ready: starting\n");
    assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_kafka_is_away_is_ready_until_work_has_waited_for_half_a_minute() {
    let (small, idle) = (Small::new().await, Small::new().await);
    let (leader, without_work) =
        (small.daemon().with_long_lease().start().await, idle.daemon().with_long_lease().start().await);
    small.write(1).await;
    leader.reaches("outboxd_published_total", 1.0).await;
    for broker in [&small.broker, &idle.broker] {
        children::take_down(broker).expect("the broker goes down");
    }
    small.write(1).await;
    leader.reaches("outboxd_in_flight_messages", 1.0).await;
    let waited = Instant::now();
    let stands = async || {
        let said = readyz(&leader).await;
        assert_eq!(readyz(&without_work).await, READY_LEADER, "nothing waits there");
        said.starts_with("not ready: no progress for ") && said.ends_with(" s with 1 messages in flight\n")
    };
    wait::until_true("it is not ready", PATIENCE, stands).await;
    assert!(waited.elapsed() >= STALLED_AFTER - SLACK, "after {:?}", waited.elapsed());
    small.broker.up().expect("the broker comes back");
    says(&leader, READY_LEADER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_drains_a_huge_backlog_is_ready_all_the_while() {
    const BACKLOG: usize = 50_000;
    let _machine = machine::shared().await;
    let small = Small::new().await;
    small.write(BACKLOG).await;
    let relay = small.daemon().with_long_lease().start().await;
    let mut looks = 0;
    while relay.metric("outboxd_published_total").await < BACKLOG as f64 {
        assert_eq!(readyz(&relay).await, READY_LEADER);
        looks += 1;
    }
    assert!(looks > 1, "it was looked at while it drained");
}

async fn a_database_that_goes_away_is_told(mode: Mode) {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let url = scene.database.url();
    let (of_leader, of_standby) = (Proxy::before(url).await, Proxy::before(url).await);
    let through = |proxy: &Proxy| with_short_lease(Daemon::new(&proxy.url(url), &scene.brokers));
    let leader = through(&of_leader).start().await;
    says(&leader, READY_LEADER).await;
    let standby = through(&of_standby).start().await;
    says_on(&standby, READY_STANDBY).await;

    of_standby.all(mode);
    says(&standby, CUT_OFF).await;
    says_on(&standby, CUT_OFF).await;
    assert_eq!(readyz(&leader).await, READY_LEADER);
    of_standby.all(Mode::Sever);
    of_standby.all(Mode::Flow);
    says(&standby, READY_STANDBY).await;

    of_leader.all(mode);
    says(&standby, READY_LEADER).await;
    // By then the other one's lease has run out, so it must not say that it leads.
    for _ in 0..LOOKS {
        let said = readyz(&leader).await;
        assert!(said.starts_with("not ready: "), "{said}");
    }
    says(&leader, CUT_OFF).await;
    of_leader.all(Mode::Sever);
    of_leader.all(Mode::Flow);
    says(&leader, READY_STANDBY).await;
    says_on(&leader, READY_STANDBY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_connections_break_makes_leader_and_standby_unready_until_it_is_back() {
    a_database_that_goes_away_is_told(Mode::Sever).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_host_vanishes_makes_leader_and_standby_unready_until_it_is_back() {
    a_database_that_goes_away_is_told(Mode::Stall).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_process_answers_nothing_and_does_not_say_that_it_leads_when_it_goes_on() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let (paused, other) = (with_short_lease(scene.relay()).start().await, with_short_lease(scene.relay()));
    says(&paused, READY_LEADER).await;
    let other = other.start().await;
    says(&other, READY_STANDBY).await;
    paused.signal("STOP");
    says(&other, READY_LEADER).await;
    assert!(paused.get("/livez").await.is_err(), "a paused process answers no probe");
    paused.signal("CONT");
    let mut said = String::new();
    while said != READY_STANDBY {
        said = readyz(&paused).await;
        assert_ne!(said, READY_LEADER);
    }
    says_on(&other, READY_LEADER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_is_not_ready_whatever_it_did() {
    let small = Small::new().await;
    let mut leader = small.daemon().with("relay.shutdown.deadline", "10m").with_long_lease().start().await;
    small.write(1).await;
    leader.reaches("outboxd_published_total", 1.0).await;
    children::take_down(&small.broker).expect("the broker goes down");
    small.write(1).await;
    leader.reaches("outboxd_in_flight_messages", 1.0).await;
    leader.signal("TERM");
    says(&leader, STOPPING).await;
    says_on(&leader, STOPPING).await;
    small.broker.up().expect("the broker comes back");
    assert_eq!(leader.ended().await.code(), Some(0), "{}", leader.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_while_its_database_says_nothing_says_that_it_stops_until_it_has_ended() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let url = scene.database.url();
    let proxy = Proxy::before(url).await;
    let mut leader = Daemon::new(&proxy.url(url), &scene.brokers).with("lease.ttl", "5s").start().await;
    says(&leader, READY_LEADER).await;
    proxy.all(Mode::Stall);
    leader.signal("TERM");
    let mut is_told = false;
    wait::until_true("it has ended", PATIENCE, async || {
        if let Ok(answer) = leader.get("/readyz").await {
            is_told |= answer.body == STOPPING;
            assert_eq!(answer.body, if is_told { STOPPING } else { READY_LEADER });
        }
        leader.exited().is_some()
    })
    .await;
    assert!(is_told, "{}", leader.log());
}
