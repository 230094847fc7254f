//! What flows, what is held, and what survives an end of any kind.

use std::collections::BTreeSet;

use outboxd::memory::Sink;
use outboxd::outbox::{HoldCause, Lane};
use outboxd::relay::{Ended, Phase};

use crate::engine::{Running, message, store};

#[tokio::test(flavor = "multi_thread")]
async fn everything_committed_is_published_once_in_order_and_settled() {
    let (store, sink) = (store(), Sink::new());
    let mut relay = Running::start(&store, &sink);
    let mut expected = Vec::new();
    for n in 0..20_000 {
        let mut transaction = store.begin();
        let id = transaction.enqueue(&message("t", n % 7, n));
        if n % 10 == 0 {
            transaction.rollback();
        } else {
            transaction.commit();
            expected.push(id);
        }
    }
    relay.until("all published", |status| status.published == expected.len() as u64).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    assert_eq!(sink.ids(), expected);
    assert!(store.rows().iter().all(|row| row.sent_at.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_held_while_others_flow_and_comes_out_in_order_when_it_appears() {
    let (store, sink) = (store(), Sink::new());
    sink.miss("absent", HoldCause::MissingTopic);
    let mut relay = Running::start(&store, &sink);
    for n in 0..3_000 {
        store.enqueue(&message("absent", n % 3, n));
        store.enqueue(&message("present", n % 3, n));
    }
    relay.until("the others flow", |status| status.published == 3_000 && !status.held.is_empty()).await;
    assert!(sink.of(&Lane::topic_of("absent")).is_empty());
    sink.appear("absent");
    relay.until("the held flow", |status| status.published == 6_000 && status.held.is_empty()).await;
    for n in 0..500 {
        store.enqueue(&message("absent", n % 3, 3_000 + n));
    }
    relay.until("new ones flow", |status| status.published == 6_500).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    let ids: Vec<i64> = sink.of(&Lane::topic_of("absent")).iter().map(|delivery| delivery.record.id).collect();
    assert!(ids.is_sorted(), "out of order");
    assert_eq!(ids.len(), 3_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_held_topic_left_behind_survives_a_kill() {
    let (store, sink) = (store(), Sink::new());
    sink.miss("absent", HoldCause::NotAuthorised);
    let mut relay = Running::start(&store, &sink);
    for n in 0..100 {
        store.enqueue(&message("absent", "k", n));
        store.enqueue(&message("present", "k", n));
    }
    relay.until("the others flow", |status| status.published == 100 && !status.held.is_empty()).await;
    relay.kill().await;
    sink.appear("absent");
    let mut relay = Running::start(&store, &sink);
    relay.until("the held flow", |status| status.held.is_empty() && status.published >= 100).await;
    assert_eq!(relay.stop().await, Ended::Graceful);
    let ids: Vec<i64> = sink.of(&Lane::topic_of("absent")).iter().map(|delivery| delivery.record.id).collect();
    assert!(ids.is_sorted() && ids.len() == 100, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_leaves_nothing_to_be_published_twice() {
    let (store, sink) = (store(), Sink::new());
    for stop in 1..=5 {
        let mut relay = Running::start(&store, &sink);
        // Each relay has enough to publish, however much the last one published while it stopped.
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for n in 0..4_000 {
                    store.enqueue(&message("t", n % 5, n));
                    tokio::task::yield_now().await;
                }
            }
        });
        relay.until("some published", |status| status.published > 500).await;
        assert_eq!(relay.stop().await, Ended::Graceful, "stop {stop}");
        writer.await.expect("no panic");
    }
    let mut relay = Running::start(&store, &sink);
    relay.until("all settled", |_| store.unsent().unsent == 0).await;
    relay.stop().await;
    let ids = sink.ids();
    let distinct: BTreeSet<i64> = ids.iter().copied().collect();
    assert_eq!((ids.len(), distinct.len()), (20_000, 20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_at_once_after_a_graceful_stop_and_in_time_after_a_kill() {
    let (store, sink) = (store(), Sink::new());
    let mut first = Running::start(&store, &sink);
    first.until("leading", |status| status.phase == Phase::Leading).await;
    let mut second = Running::start(&store, &sink);
    second.until("standby", |status| status.phase == Phase::Standby).await;
    store.enqueue(&message("t", "k", 1));
    first.until("published", |status| status.published == 1).await;
    first.stop().await;
    second.until("leading", |status| status.phase == Phase::Leading).await;
    store.enqueue(&message("t", "k", 2));
    second.until("published", |status| status.published == 1).await;
    let mut third = Running::start(&store, &sink);
    third.until("standby", |status| status.phase == Phase::Standby).await;
    second.kill().await;
    third.until("leading", |status| status.phase == Phase::Leading).await;
    store.enqueue(&message("t", "k", 3));
    third.until("published", |status| status.published >= 1).await;
    third.stop().await;
    assert_eq!(sink.ids(), [1, 2, 3]);
}
