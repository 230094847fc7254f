//! What becomes of records that can never be published, however it is found out, and that nothing overtakes them.

use crate::support::operator;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use outboxd::Message;
use outboxd::contract::{HeldLanes, Rejection};
use outboxd::memory::faults::{self, Call, Fault, Gate, Script};
use outboxd::memory::{Sink, Store};
use outboxd::outbox::{Held, HoldCause, Lane, OnReject, RejectPolicy};
use outboxd::relay::{Error, Relay, Settings};
use tokio::time::timeout;

use crate::engine::{LONG, Running, message, settings, store};

/// How a sink finds out that a record can never be published.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// Before it is sent.
    Before,
    /// When it failed alone.
    Sent,
}

impl Found {
    const BOTH: [Found; 2] = [Found::Before, Found::Sent];

    /// The call whose reply tells.
    fn judging(self) -> Call {
        match self {
            Found::Before => Call::Examine,
            Found::Sent => Call::Receipt,
        }
    }

    fn out(self, sink: &Sink, id: i64) {
        let rejection = Rejection { code: "message_too_large", message: "it is too large".to_owned() };
        match self {
            Found::Before => sink.refuse(id, rejection),
            Found::Sent => sink.reject(id, rejection),
        }
    }
}

fn policy(otherwise: OnReject) -> Settings {
    Settings { on_reject: RejectPolicy { otherwise, rules: Vec::new() }, ..settings() }
}

fn relay(store: &Store, sink: &Sink, settings: Settings) -> Relay {
    Relay::new(Arc::new(store.clone()), Box::new(sink.clone()), settings)
}

/// Rows 1 to `rows`, of the keys a and b in turn.
fn write(store: &Store, rows: i64) {
    for n in 1..=rows {
        store.enqueue(&message("t", if n % 2 == 1 { "a" } else { "b" }, n));
    }
}

fn delivered(sink: &Sink, key: &str) -> Vec<i64> {
    let mut ids: Vec<i64> =
        sink.of(&Lane::from_columns("t", Some(key), None)).iter().map(|delivery| delivery.record.id).collect();
    ids.dedup();
    ids
}

/// The first held lane.
fn held(store: &Store) -> Option<Held> {
    let lanes = store.held_lanes().now_or_never().expect("memory answers at once").expect("lanes");
    lanes.into_iter().next().map(|lane| lane.held)
}

async fn until(store: &Store, what: &str, condition: impl FnMut(&Store) -> bool) {
    timeout(LONG, store.until(condition)).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

fn all_sent(store: &Store) -> bool {
    store.rows().iter().all(|row| row.sent_at.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_kept_with_its_cause_and_its_lane_goes_on() {
    for found in Found::BOTH {
        let (store, sink) = (store(), Sink::new());
        write(&store, 20);
        found.out(&sink, 5);
        found.out(&sink, 6);
        let running = Running::of(relay(&store, &sink, policy(OnReject::DeadLetter)));
        until(&store, "all others are sent", |store| store.dead_letters().len() == 2 && all_sent(store)).await;
        running.stop().await;
        assert_eq!(delivered(&sink, "a"), [1, 3, 7, 9, 11, 13, 15, 17, 19], "{found:?}");
        assert_eq!(delivered(&sink, "b"), [2, 4, 8, 10, 12, 14, 16, 18, 20], "{found:?}");
        let letters = store.dead_letters();
        let causes: Vec<_> = letters.iter().map(|(letter, record)| (record.id, letter.code.as_str())).collect();
        assert_eq!(causes, [(5, "message_too_large"), (6, "message_too_large")], "{found:?}");
        assert_eq!(letters[0].1.payload.as_deref(), Some(b"5".as_slice()), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_key_waits_for_its_release_while_others_flow() {
    for found in Found::BOTH {
        let (store, sink) = (store(), Sink::new());
        write(&store, 20);
        found.out(&sink, 5);
        let lane = Lane::from_columns("t", Some("a"), None);
        let running = Running::of(relay(&store, &sink, policy(OnReject::BlockKey)));
        timeout(LONG, sink.until(12))
            .await
            .unwrap_or_else(|_| panic!("the other key flows: {found:?} {:?}", sink.ids()));
        until(&store, "the other key is settled", |store| store.unsent().unsent == 8).await;
        write(&store, 4);
        until(&store, "new rows of the other key are settled", |store| store.unsent().unsent == 10).await;
        assert_eq!(delivered(&sink, "a"), [1, 3], "{found:?}");
        assert!(store.dead_letters().is_empty());
        until(&store, "the lane is held", |store| held(store).is_some()).await;
        let first = held(&store).expect("held");
        assert_eq!((first.cause, first.from_id), (HoldCause::Rejected, 5), "{found:?}");

        // Released too early it is held again, and nothing has overtaken it.
        assert_eq!(store.request_release(std::slice::from_ref(&lane), &operator::intent()).await.expect("asked"), 1);
        let anew = |store: &Store| held(store).is_some_and(|held| held.since > first.since);
        until(&store, "it is held anew", anew).await;
        assert_eq!(delivered(&sink, "a"), [1, 3], "{found:?}");

        sink.relent(5);
        store.request_release(&[lane], &operator::intent()).await.expect("asked");
        until(&store, "everything is sent, and nothing is held", |store| all_sent(store) && held(store).is_none())
            .await;
        running.stop().await;
        assert_eq!(delivered(&sink, "a"), [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23], "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_begins_while_nobody_writes_and_the_relay_waits_for_commits() {
    let (store, sink) = (store(), Sink::new());
    write(&store, 6);
    Found::Before.out(&sink, 5);
    // It would not look again by itself, and stores a checkpoint whenever it does.
    let settings = Settings {
        poll_armed: Duration::from_secs(3600),
        checkpoint_interval: Duration::ZERO,
        ..policy(OnReject::BlockKey)
    };
    let mut running = Running::of(relay(&store, &sink, settings));
    running.until("the lane is held", |status| !status.held.is_empty()).await;
    store.enqueue(&message("t", "b", 7));
    until(&store, "the hold is stored", |store| held(store).is_some()).await;
    sink.relent(5);
    store.request_release(&[Lane::from_columns("t", Some("a"), None)], &operator::intent()).await.expect("asked");
    until(&store, "everything is sent", all_sent).await;
    running.stop().await;
    assert_eq!(delivered(&sink, "a"), [1, 3, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_asked_for_while_the_lane_is_being_held_anew_is_granted() {
    for found in Found::BOTH {
        let (store, sink, script) = (store(), Sink::new(), Script::new());
        write(&store, 20);
        found.out(&sink, 5);
        let lane = Lane::from_columns("t", Some("a"), None);
        let scripted = Box::new(faults::Sink::new(Box::new(sink.clone()), script.clone()));
        let running = Running::of(Relay::new(Arc::new(store.clone()), scripted, policy(OnReject::BlockKey)));
        let is_held = |store: &Store| held(store).is_some() && store.unsent().unsent == 8;
        until(&store, "the lane is held, and the other key is settled", is_held).await;

        // Released too early it is refused again. While that is under way the operator mends it and asks once more.
        let (gate, judging) = (Gate::new(), found.judging());
        let before = script.count(judging).begun;
        script.on(judging, Fault::HoldReply(gate.clone()));
        assert_eq!(
            store.request_release(std::slice::from_ref(&lane), &operator::intent()).await.expect("asked"),
            1,
            "{found:?}"
        );
        timeout(LONG, script.until(judging, |count| count.begun > before)).await.expect("the release was granted");
        sink.relent(5);
        assert_eq!(store.request_release(&[lane], &operator::intent()).await.expect("asked"), 1, "{found:?}");
        gate.open();
        let is_over = |store: &Store| all_sent(store) && held(store).is_none();
        until(&store, "everything is sent, and nothing is held", is_over).await;
        running.stop().await;
        assert_eq!(delivered(&sink, "a"), [1, 3, 5, 7, 9, 11, 13, 15, 17, 19], "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halt_names_the_record_and_leaves_it_and_what_follows_unsent() {
    for found in Found::BOTH {
        let (store, sink) = (store(), Sink::new());
        for n in 0..10 {
            store.enqueue(&message("t", "k", n));
        }
        found.out(&sink, 4);
        let running = Running::of(relay(&store, &sink, policy(OnReject::Halt)));
        let error = running.task.await.expect("no panic").expect_err("it cannot go on");
        assert!(matches!(error, Error::Rejected { id: 4, .. }), "{error}");
        assert!(error.to_string().contains("record 4"), "{error}");
        assert!(sink.ids().iter().all(|id| *id < 4), "{found:?}: {:?}", sink.ids());
        let unsent: Vec<i64> =
            store.rows().iter().filter(|row| row.sent_at.is_none()).map(|row| row.record.id).collect();
        assert!(unsent.ends_with(&[4, 5, 6, 7, 8, 9, 10]), "{found:?}: {unsent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_lane_becomes_a_dead_letter_where_keys_are_blocked() {
    for found in Found::BOTH {
        let (store, sink) = (store(), Sink::new());
        for n in 1..=3 {
            store.enqueue(&Message::to("t").text(n.to_string()).expect("a valid message"));
        }
        found.out(&sink, 2);
        let running = Running::of(relay(&store, &sink, policy(OnReject::BlockKey)));
        until(&store, "the others are sent", |store| store.dead_letters().len() == 1 && all_sent(store)).await;
        running.stop().await;
        assert_eq!(store.rows().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_follows_a_record_before_its_death_is_stored() {
    for found in Found::BOTH {
        for fault in [Fault::Refuse, Fault::LoseReply] {
            let (store, sink, script) = (store(), Sink::new(), Script::new());
            write(&store, 20);
            found.out(&sink, 5);
            script.times(3, Call::DeadLetter, fault);
            let scripted = faults::Store::new(Arc::new(store.clone()), script.clone());
            let running = Running::of(Relay::new(Arc::new(scripted), Box::new(sink.clone()), settings()));
            timeout(LONG, script.until(Call::DeadLetter, |count| count.ended >= 1)).await.expect("a death is stored");
            until(&store, "all others are sent", |store| store.dead_letters().len() == 1 && all_sent(store)).await;
            running.stop().await;
            assert_eq!(delivered(&sink, "a"), [1, 3, 7, 9, 11, 13, 15, 17, 19], "{found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_published_to_their_topic_with_their_cause() {
    let (store, sink, letters) = (store(), Sink::new(), Sink::new());
    let message = Message::to("t").key("a").partition(3).header("trace", "x").text("1").expect("a valid message");
    store.enqueue(&message);
    Found::Before.out(&sink, 1);
    let settings = Settings { dead_letter_topic: Some("{topic}.dlq".parse().expect("a template")), ..settings() };
    letters.miss("t.dlq", HoldCause::MissingTopic);
    let relay = relay(&store, &sink, settings).with_dead_letters(Box::new(letters.clone()));
    let running = Running::of(relay);
    until(&store, "it is a dead letter", |store| store.dead_letters().len() == 1).await;
    letters.appear("t.dlq");
    write(&store, 2);
    timeout(LONG, letters.until(1)).await.expect("it is published once its topic is there");
    running.stop().await;
    let published = &letters.delivered()[0].record;
    assert_eq!((&*published.topic, published.key.as_deref(), published.partition), ("t.dlq", Some("a"), None));
    assert_eq!((published.event_id, published.payload.as_deref()), (message.event_id(), Some(b"1".as_slice())));
    let headers: Vec<_> = published.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let expected = [
        ("trace", Some("x")),
        ("outbox-error-code", Some("message_too_large")),
        ("outbox-error-message", Some("it is too large")),
        ("outbox-original-topic", Some("t")),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_its_topic_refuses_too_is_kept_and_holds_up_no_other() {
    for found in Found::BOTH {
        let (store, sink, letters) = (store(), Sink::new(), Sink::new());
        write(&store, 3);
        for id in [1, 2] {
            Found::Before.out(&sink, id);
        }
        found.out(&letters, 1);
        let settings = Settings { dead_letter_topic: Some("dead".parse().expect("a name")), ..settings() };
        let running = Running::of(relay(&store, &sink, settings).with_dead_letters(Box::new(letters.clone())));
        timeout(LONG, letters.until(1)).await.expect("the other one is published");
        until(&store, "it says why", |store| {
            store
                .dead_letters()
                .iter()
                .any(|(letter, _)| letter.id == 1 && letter.message.contains("not published to dead"))
        })
        .await;
        running.stop().await;
        assert_eq!((letters.ids(), store.dead_letters().len()), (vec![2], 2), "{found:?}");
    }
}
