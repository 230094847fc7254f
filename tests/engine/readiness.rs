//! Whether a leader is ready, over hours that pass at once.

use std::sync::Arc;
use std::time::Duration;

use outboxd::admin::health::{STALLED_AFTER, ready};
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{HoldCause, Term};
use tokio::time::{Instant, sleep, timeout};

use crate::engine::{LONG, Running, message, store};

const HOUR: Duration = Duration::from_secs(3600);

/// How often a probe asks.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

fn probed(relay: &Running) -> Result<&'static str, String> {
    ready(&relay.status.borrow(), Instant::now())
}

/// Lets time pass in which each probe is to be answered with a yes.
async fn is_ready_for(relay: &Running, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(PROBE_INTERVAL).await;
        assert_eq!(probed(relay), Ok("leading"));
    }
}

async fn leader(store: &Store, sink: &Sink) -> (Running, Script) {
    let script = Script::new();
    let scripted_store = faults::Store::new(Arc::new(store.clone()), script.clone());
    let scripted_sink = faults::Sink::new(Box::new(sink.clone()), script.clone());
    let mut relay = Running::over(Arc::new(scripted_store), Box::new(scripted_sink));
    relay.until("leading", |status| status.term == Some(Term(1))).await;
    (relay, script)
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_work_is_ready_for_as_long_as_nothing_comes() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, _script) = leader(&store, &sink).await;
    is_ready_for(&relay, HOUR).await;
    store.enqueue(&message("t", "k", 1));
    relay.until("published", |status| status.published == 1).await;
    is_ready_for(&relay, HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_is_ready_while_one_topic_is_held_whatever_waits_there() {
    let (store, sink) = (store(), Sink::new());
    sink.miss("absent", HoldCause::MissingTopic);
    let (mut relay, _script) = leader(&store, &sink).await;
    for n in 0..1_000 {
        store.enqueue(&message("absent", n % 3, n));
    }
    relay.until("held", |status| !status.held.is_empty() && status.in_flight == 0).await;
    is_ready_for(&relay, HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_broker_is_away_is_ready_until_work_waits_for_long_and_again_once_it_is_done() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, script) = leader(&store, &sink).await;
    let back = Gate::new();
    script.on(Call::Submit, Fault::Hold(back.clone()));
    // Nothing waits for the broker yet.
    is_ready_for(&relay, HOUR).await;
    store.enqueue(&message("t", "k", 1));
    relay.until("it waits", |status| status.in_flight == 1).await;
    is_ready_for(&relay, STALLED_AFTER - PROBE_INTERVAL).await;
    sleep(PROBE_INTERVAL).await;
    let reason = probed(&relay).expect_err("work waits");
    assert!(reason.starts_with("no progress for 30 s with 1 messages in flight"), "{reason}");
    back.open();
    relay.until("published", |status| status.published == 1).await;
    is_ready_for(&relay, HOUR).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lost_its_lease_is_not_ready_before_the_database_answers_again() {
    let (store, sink) = (store(), Sink::new());
    let (mut relay, script) = leader(&store, &sink).await;
    let back = Gate::new();
    script
        .on(Call::Renew, Fault::Hold(Gate::new()))
        .on(Call::Lease, Fault::Hold(back.clone()))
        .on(Call::Lease, Fault::Hold(back.clone()));
    timeout(LONG, script.until(Call::Lease, |count| count.begun > 1)).await.expect("it bids anew");
    for _ in 0..100 {
        sleep(PROBE_INTERVAL).await;
        probed(&relay).expect_err("the database does not answer");
    }
    back.open();
    relay.until("leading anew", |status| status.term == Some(Term(2))).await;
    is_ready_for(&relay, HOUR).await;
}
