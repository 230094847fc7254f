//! How the binary ends, and what its exit code says.

use tokio::time::Instant;

use crate::daemon::small::Small;
use crate::daemon::{ran, stderr};
use crate::support::children;
use crate::support::wait::{self, PATIENCE, SLACK};

const BACKLOG: usize = 30_000;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_leaves_nothing_unrecorded_and_a_restart_publishes_nothing_twice() {
    let small = Small::new().await;
    small.write(BACKLOG).await;
    // However busy the machine is, the lease is not what ends it.
    let daemon = small.daemon().with_long_lease();
    let mut relay = daemon.start().await;
    relay.reaches("outboxd_published_total", 1.0).await;
    assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    let (published, unsent) = (small.published().await, small.unsent().await);
    assert_eq!(published as i64 + unsent, BACKLOG as i64);

    let relay = daemon.start().await;
    relay.reaches("outboxd_published_total", unsent as f64).await;
    wait::until_true("all is settled", PATIENCE, async || small.unsent().await == 0).await;
    assert_eq!(small.published().await, BACKLOG);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_cuts_a_drain_off_and_the_exit_code_says_so() {
    let small = Small::new().await;
    let mut relay = small.daemon().with("relay.shutdown.deadline", "1s").start().await;
    small.write(10).await;
    relay.reaches("outboxd_published_total", 10.0).await;
    children::take_down(&small.broker).expect("the broker goes down");
    small.write(10).await;
    relay.reaches("outboxd_in_flight_messages", 1.0).await;
    assert_eq!(relay.stop().await, Some(3), "{}", relay.log());
    assert!(relay.log().contains("cut off"), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let small = Small::new().await;
    let mut relay = small.daemon().with("relay.shutdown.deadline", "10m").start().await;
    small.write(10).await;
    relay.reaches("outboxd_published_total", 10.0).await;
    children::take_down(&small.broker).expect("the broker goes down");
    small.write(10).await;
    relay.reaches("outboxd_in_flight_messages", 1.0).await;
    relay.signal("INT");
    wait::until_true("it has begun to stop", PATIENCE, async || relay.log().contains("stopping: ")).await;
    assert!(relay.exited().is_none());
    let told = Instant::now();
    relay.signal("INT");
    assert_eq!(relay.ended().await.code(), Some(3), "{}", relay.log());
    assert!(told.elapsed() < SLACK, "it took {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_broker_to_which_nothing_was_handed_over() {
    let small = Small::new().await;
    children::take_down(&small.broker).expect("the broker goes down");
    small.write(10).await;
    let mut relay = small.daemon().with("relay.shutdown.deadline", "10m").start().await;
    relay.reaches("outboxd_in_flight_messages", 10.0).await;
    let told = Instant::now();
    assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    assert!(told.elapsed() < SLACK, "it took {:?}", told.elapsed());
    assert_eq!(small.unsent().await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_until_the_drain_is_over() {
    let small = Small::new().await;
    let mut relay = small.daemon().with("relay.shutdown.deadline", "10m").start().await;
    small.write(10).await;
    relay.reaches("outboxd_published_total", 10.0).await;
    children::take_down(&small.broker).expect("the broker goes down");
    small.write(10).await;
    relay.reaches("outboxd_in_flight_messages", 1.0).await;
    relay.signal("TERM");
    wait::until_true("the drain is told", PATIENCE, async || {
        let ready = relay.get("/readyz").await.expect("the page is still served");
        ready.status == 503 && ready.body.contains("draining")
    })
    .await;
    assert_eq!(relay.get("/livez").await.expect("served").status, 200);
    small.broker.up().expect("the broker comes back");
    assert_eq!(relay.ended().await.code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_its_tables_stops_with_the_repair_that_the_check_gives() {
    let small = Small::without_tables();
    let check = ran(&["migrate", "--check", "--database-url", &small.url()]);
    let run = ran(&["run", "--database-url", &small.url(), "--brokers", "127.0.0.1:1", "--http", ""]);
    assert_eq!((check.status.code(), run.status.code()), (Some(1), Some(1)));
    for output in [&check, &run] {
        assert!(stderr(output).contains("outboxd migrate"), "{}", stderr(output));
    }
}
