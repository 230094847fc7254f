//! Sending rows again, as operators ask: beside the records, and from where the last leader was.

use std::collections::BTreeSet;
use std::sync::Arc;

use outboxd::contract::{Operations, Rejection, Steering};
use outboxd::memory::faults::{self, Call, Fault, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{HoldCause, Operation, OperationState, Replay, Settle, TopicPattern};
use outboxd::relay::{Ended, Relay};
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, settings};
use crate::support::operator;

/// A relay that publishes through one sink and sends again through another.
fn start(store: &Store, sink: &Sink, replays: &Sink) -> Running {
    let relay = Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), settings());
    Running::of(relay.with_replays(Box::new(replays.clone())))
}

fn scripted(store: &Store, sink: &Sink, replays: &Sink) -> (Running, Script) {
    let script = Script::new();
    let scripted = Arc::new(faults::Store::new(Arc::new(store.clone()), script.clone()));
    let relay = Relay::new(scripted, Box::new(sink.clone()), settings());
    let replays = faults::Sink::new(Box::new(replays.clone()), script.clone());
    (Running::of(relay.with_replays(Box::new(replays))), script)
}

fn of_topic(topic: &str, rate: u32) -> Replay {
    Replay { topic: topic.to_owned(), key: None, since: None, until: None, to_topic: None, rate }
}

async fn ask(store: &Store, replay: &Replay) -> i64 {
    store.start_replay(replay, &operator::intent()).await.expect("memory answers")
}

async fn operation(store: &Store, id: i64) -> Operation {
    let operations = store.operations(100).await.expect("memory answers");
    operations.into_iter().find(|operation| operation.id == id).expect("it is remembered")
}

async fn until(store: &Store, what: &str, mut condition: impl FnMut(&Operation) -> bool) {
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(2));
    let reached = timeout(LONG, async {
        loop {
            let operations = store.operations(1).await.expect("memory answers");
            if operations.first().is_some_and(&mut condition) {
                return;
            }
            looks.tick().await;
        }
    });
    assert!(reached.await.is_ok(), "waited in vain until {what}: {:?}", store.operations(1).await);
}

/// Rows 1 to `rows` to the topic t, of three keys in turn, all sent.
async fn sent(store: &Store, sink: &Sink, replays: &Sink, rows: u64) -> Running {
    for n in 0..rows {
        store.enqueue(&message("t", n % 3, n));
    }
    let mut relay = start(store, sink, replays);
    relay.until("all are sent", |status| status.published == rows).await;
    timeout(LONG, store.until(|store| store.unsent().unsent == 0)).await.expect("all are recorded");
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_sent_again_in_order_with_the_number_of_the_operation_beside_what_is_new() {
    for settle in [Settle::Mark, Settle::Checkpoint] {
        let (store, sink, replays) = (Store::new(settle), Sink::new(), Sink::new());
        let mut relay = sent(&store, &sink, &replays, 700).await;
        let id = ask(&store, &of_topic("t", 1_000_000)).await;
        for n in 0..100 {
            store.enqueue(&message("t", n % 3, n));
        }
        until(&store, "it is done", |operation| operation.state == OperationState::Done).await;
        relay.until("what is new flows", |status| status.published == 800).await;
        let done = operation(&store, id).await;
        assert!((done.share() - 1.0).abs() < 1e-9 && done.progress.sent >= 700, "{settle}: {done:?}");
        assert_eq!(relay.stop().await, Ended::Graceful);
        assert_eq!(sink.ids(), (1..=800).collect::<Vec<_>>(), "{settle}: records come once");
        let again = replays.delivered();
        // Rows that were sent by the time that their turn came may be among them.
        assert_eq!(replays.ids()[..700], (1..=700).collect::<Vec<_>>(), "{settle}");
        let header = ("outbox-replay".to_owned(), Some(id.to_string()));
        assert!(again.iter().all(|delivery| delivery.record.headers == [header.clone()]), "{settle}");
        assert!(sink.delivered().iter().all(|delivery| delivery.record.headers.is_empty()), "{settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_goes_on_where_the_last_one_was_killed() {
    let (store, sink, replays) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
    let relay = sent(&store, &sink, &replays, 2_000).await;
    let id = ask(&store, &of_topic("t", 2_000)).await;
    until(&store, "some are sent", |operation| operation.progress.sent >= 400).await;
    relay.kill().await;
    let stored = operation(&store, id).await.progress;
    let killed_at = replays.ids().len();
    assert!(stored.done_to < 2_000, "the kill came too late to prove anything");
    store.cancel_operation(id + 1, &operator::intent()).await.expect("another's end is none of this one's");

    let relay = start(&store, &sink, &replays);
    until(&store, "it is done", |operation| operation.state == OperationState::Done).await;
    relay.stop().await;
    let ids = replays.ids();
    let different: BTreeSet<i64> = ids.iter().copied().collect();
    assert!(different.into_iter().eq(1..=2_000), "none is missing");
    assert_eq!(ids[killed_at], stored.done_to + 1, "it goes on after what was noted, and not from the beginning");
    assert!(ids[killed_at..].is_sorted(), "in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cancelled_ends_and_takes_its_time_before() {
    let (store, sink, replays) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
    let relay = sent(&store, &sink, &replays, 1_000).await;
    let id = ask(&store, &of_topic("t", 40)).await;
    let began = tokio::time::Instant::now();
    until(&store, "some are sent", |operation| operation.progress.sent >= 30).await;
    assert!(began.elapsed().as_millis() >= 500, "40 a second, by tens: {:?}", began.elapsed());
    assert!(store.cancel_operation(id, &operator::intent()).await.expect("memory answers"));
    // Another one has its turn, so that the first one has ended.
    let next = ask(&store, &Replay { to_topic: Some("other".to_owned()), ..of_topic("t", 1_000_000) }).await;
    until(&store, "the next is done", |operation| operation.id == next && operation.state == OperationState::Done)
        .await;
    relay.stop().await;
    assert_eq!(operation(&store, id).await.state, OperationState::Cancelled);
    let to = |topic: &str| replays.delivered().iter().filter(|delivery| *delivery.record.topic == *topic).count();
    assert!(to("t") < 100, "{}", to("t"));
    assert_eq!(to("other"), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_its_topic_and_for_a_pause_and_says_so() {
    let (store, sink, replays) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
    let relay = sent(&store, &sink, &replays, 20).await;
    replays.miss("later", HoldCause::MissingTopic);
    ask(&store, &Replay { to_topic: Some("later".to_owned()), ..of_topic("t", 1_000_000) }).await;
    until(&store, "it says what it waits for", |operation| {
        operation.progress.problem.as_deref() == Some("topic later waits (missing_topic)")
    })
    .await;
    let pattern: TopicPattern = "lat*".parse().expect("a pattern");
    store.pause(&pattern, None, &operator::intent()).await.expect("memory answers");
    replays.appear("later");
    assert!(replays.ids().is_empty());
    store.resume(&pattern, &operator::intent()).await.expect("memory answers");
    until(&store, "it is done", |operation| operation.state == OperationState::Done).await;
    assert_eq!(store.operations(1).await.expect("memory answers")[0].progress.problem, None);
    relay.stop().await;
    assert_eq!(replays.ids(), (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_can_never_take_is_counted_and_holds_nothing_up() {
    let (store, sink, replays) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
    let rejection = || Rejection { code: "message_too_large", message: "it is too large".to_owned() };
    replays.refuse(5, rejection());
    replays.reject(8, rejection());
    let relay = sent(&store, &sink, &replays, 20).await;
    let id = ask(&store, &of_topic("t", 1_000_000)).await;
    until(&store, "it is done", |operation| operation.state == OperationState::Done).await;
    relay.stop().await;
    let progress = operation(&store, id).await.progress;
    assert_eq!((progress.sent, progress.refused), (18, 2));
    let mut ids = replays.ids();
    ids.sort_unstable();
    assert!(ids.into_iter().eq((1..=20).filter(|id| ![5, 8].contains(id))), "{:?}", replays.ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_goes_on_whatever_fails_in_passing_and_misses_nothing() {
    let (store, sink, replays) = (Store::new(Settle::Mark), Sink::new(), Sink::new());
    sent(&store, &sink, &replays, 300).await.stop().await;
    let id = ask(&store, &of_topic("t", 1_000_000)).await;
    let (relay, script) = scripted(&store, &sink, &replays);
    for call in [Call::ReplayPage, Call::NoteProgress, Call::SinkOpen, Call::Submit, Call::Receipt] {
        script.on(call, Fault::Refuse).on(call, Fault::LoseReply);
    }
    until(&store, "it is done", |operation| operation.state == OperationState::Done).await;
    relay.stop().await;
    assert_eq!(operation(&store, id).await.state, OperationState::Done);
    let different: BTreeSet<i64> = replays.ids().into_iter().collect();
    assert!(different.into_iter().eq(1..=300), "none is missing");
    assert_eq!(sink.ids().len(), 300, "no record comes again");
}
