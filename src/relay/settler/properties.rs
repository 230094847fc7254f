//! Whatever becomes of submissions, in whatever order it is told: exactly what was delivered is settled, and the position
//! stands before the first record that neither was delivered nor is held.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Frontier, Settler, Submitted};
use crate::Message;
use crate::contract::{OutboxStore, Outcome, Rejection, Store};
use crate::memory;
use crate::outbox::{HoldCause, Lane, Limit, Position, RejectPolicy, Settle};
use crate::relay::Status;
use crate::relay::lanes::Lanes;
use crate::relay::rejections::Rejections;
use crate::relay::session::{Ending, Verdict};

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Held,
    Rejected,
    Unknown,
}

impl Fate {
    fn outcome(self) -> Outcome {
        match self {
            Fate::Delivered => Outcome::Delivered { partition: 0, offset: 0 },
            Fate::Held => Outcome::Held(HoldCause::MissingTopic),
            Fate::Rejected => Outcome::Rejected(Box::new(Rejection { code: "test", message: "too bad".to_owned() })),
            Fate::Unknown => Outcome::Unknown,
        }
    }

    /// Whether the next session has to begin before it.
    fn stops(self) -> bool {
        matches!(self, Fate::Rejected | Fate::Unknown)
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![20 => Just(Fate::Delivered), 2 => Just(Fate::Held), 1 => Just(Fate::Rejected), 1 => Just(Fate::Unknown)]
}

/// Submissions, and the order in which their outcomes are told.
fn submissions() -> impl Strategy<Value = (Vec<Vec<Fate>>, Vec<usize>)> {
    vec(vec(fate(), 0..6), 1..12).prop_flat_map(|fates| {
        let order: Vec<usize> = (0..fates.len()).collect();
        (Just(fates), Just(order).prop_shuffle())
    })
}

/// What is left when everything was told.
struct Left {
    sent: Vec<i64>,
    dead: Vec<i64>,
    frontier: u64,
    held_from: Option<i64>,
    verdict: Result<(), Verdict>,
}

async fn settle(fates: &[Vec<Fate>], order: &[usize]) -> Left {
    let store = memory::Store::new(Settle::Mark);
    let rows = fates.iter().map(Vec::len).sum::<usize>();
    for row in 0..rows {
        store.enqueue(&Message::to("orders").key(row.to_string()).text("{}").expect("a valid message"));
    }
    let mut reader = store.open().await.expect("a session opens");
    let read = reader.fetch(Limit { records: rows.max(1), bytes: 1 << 20 }).await.expect("rows are read");
    let mut records = read.records.into_iter();

    let (submit, submitted) = mpsc::channel(fates.len());
    let position = |number: usize| Position::new(number.to_string());
    let (progress, frontier) = watch::channel(Frontier { number: 0, position: position(0) });
    let lanes = Arc::new(Mutex::new(Lanes::default()));
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let rejections = Rejections {
        store: Arc::clone(&shared),
        policy: RejectPolicy::default(),
        topic: None,
        lanes: Arc::clone(&lanes),
        buried: Arc::new(Notify::new()),
    };
    let settler = Settler {
        store: shared,
        lanes: Arc::clone(&lanes),
        rejections,
        exactly_once: false,
        submitted,
        progress,
        status: watch::Sender::new(Status::new()),
        ending: Ending::default(),
    };
    let settling = tokio::spawn(settler.run());
    let mut tellers = Vec::new();
    for (number, fates) in (1..).zip(fates) {
        let (tell, told) = oneshot::channel();
        let batch = Submitted {
            number: number as u64,
            rows: records.by_ref().take(fates.len()).map(Into::into).collect(),
            read: fates.len(),
            receipt: Box::pin(async move { told.await.expect("it is told") }),
            began: Instant::now(),
            end: position(number),
            out_of_line: false,
            closed: Vec::new(),
            permits: Vec::new(),
        };
        submit.send(batch).await.unwrap_or_else(|_| panic!("the settler takes submissions"));
        tellers.push(Some(tell));
    }
    drop(submit);
    for number in order {
        let tell = tellers[*number].take().expect("told once");
        tell.send(fates[*number].iter().map(|fate| fate.outcome()).collect()).expect("the settler listens");
        // So that the settler sees outcomes come one after the other, and together too.
        join_all((0..number % 3).map(|_| tokio::task::yield_now())).await;
    }
    let verdict = settling.await.expect("no panic");
    let held = lanes.lock().expect("no panic").stored();
    Left {
        sent: store.rows().into_iter().filter(|row| row.sent_at.is_some()).map(|row| row.record.id).collect(),
        dead: store.dead_letters().into_iter().map(|(letter, _)| letter.id).collect(),
        frontier: frontier.borrow().number,
        held_from: held.iter().find(|held| held.lane == Lane::topic_of("orders")).map(|held| held.from_id),
        verdict,
    }
}

proptest! {
    #[test]
    fn what_was_delivered_is_settled_and_the_position_passes_nothing_else((fates, order) in submissions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let left = runtime.block_on(settle(&fates, &order));
        let all: Vec<Fate> = fates.concat();
        let of = |fate: Fate| -> Vec<i64> {
            (1..).zip(&all).filter(|(_, found)| **found == fate).map(|(id, _)| id).collect()
        };
        prop_assert_eq!(left.sent, of(Fate::Delivered));
        prop_assert_eq!(left.dead, of(Fate::Rejected));
        prop_assert_eq!(left.held_from, of(Fate::Held).first().copied());
        let first_stop = fates.iter().position(|fates| fates.iter().any(|fate| fate.stops()));
        prop_assert_eq!(left.frontier, first_stop.unwrap_or(fates.len()) as u64);
        prop_assert_eq!(left.verdict.is_ok(), first_stop.is_none());
    }
}
