use async_trait::async_trait;
use chrono::Utc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::contract::{BoxError, StoreError};
use crate::outbox::{Pause, TopicPattern};

const EVERY: Duration = Duration::from_secs(10);
const LOST_AFTER: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// An outbox that tells what is written to it, or refuses.
struct Outbox {
    written: mpsc::UnboundedSender<Uuid>,
    refuses: watch::Receiver<bool>,
}

struct Opened(mpsc::UnboundedSender<Uuid>);

#[async_trait]
impl Enqueue for Outbox {
    async fn writer(&self) -> Result<Box<dyn Writer>, StoreError> {
        if *self.refuses.borrow() {
            let (problem, repair) = ("role \"relay\" lacks insert".to_owned(), "grant insert".to_owned());
            return Err(StoreError::Unusable { problem, repair, source: None });
        }
        Ok(Box::new(Opened(self.written.clone())))
    }
}

#[async_trait]
impl Writer for Opened {
    async fn write(&mut self, messages: &[Message]) -> Result<(), BoxError> {
        for message in messages {
            self.0.send(message.event_id())?;
        }
        Ok(())
    }
}

struct Script(mpsc::UnboundedReceiver<Heard>);

#[async_trait]
impl Tail for Script {
    async fn hear(&mut self) -> Heard {
        match self.0.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }
}

/// A canary, and the ends of its road.
struct Cage {
    written: mpsc::UnboundedReceiver<Uuid>,
    refuse: watch::Sender<bool>,
    hear: mpsc::UnboundedSender<Heard>,
    status: watch::Sender<Status>,
    view: watch::Receiver<View>,
    _running: JoinHandle<()>,
}

impl Cage {
    fn open() -> Self {
        let ((written, rows), (hear, heard)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (refuse, refuses) = watch::channel(false);
        let (status, statuses) = watch::channel(Status::new());
        let (shown, view) = watch::channel(View::default());
        let settings =
            Settings { every: EVERY, topic: "canary".to_owned(), lost_after: LOST_AFTER, sender: "a/1".to_owned() };
        let canary = Canary::new(Arc::new(Outbox { written, refuses }), Box::new(Script(heard)), settings);
        let running = tokio::spawn(canary.run(statuses, shown, CancellationToken::new()));
        Self { written: rows, refuse, hear, status, view, _running: running }
    }

    fn hears(&self, heard: Heard) {
        self.hear.send(heard).expect("the canary listens");
    }

    fn comes_back(&self, event_id: Uuid) {
        self.hears(Heard::Record { event_id, at: Instant::now() });
    }

    /// The row that is written next, of those that were not asked for yet.
    async fn row(&mut self) -> Uuid {
        self.written.recv().await.expect("the canary writes")
    }

    /// Lets so much time pass, and two seconds in which it is judged, and shows what is seen then.
    async fn after(&self, time: Duration) -> View {
        tokio::time::sleep(time + 2 * SECOND).await;
        self.view.borrow().clone()
    }

    fn pauses(&self, topics: &[&str]) {
        let pause = |topics: &&str| Pause {
            topics: topics.parse::<TopicPattern>().expect("a pattern"),
            since: Utc::now(),
            until: None,
            reason: None,
            actor: "anna".to_owned(),
        };
        self.status.send_modify(|status| status.pauses = topics.iter().map(pause).collect());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_it_would_be_heard_and_then_at_once_and_again_and_again() {
    let mut cage = Cage::open();
    cage.after(5 * EVERY).await;
    assert!(cage.written.try_recv().is_err());
    cage.hears(Heard::Reads);
    let began = Instant::now();
    let row = cage.row().await;
    assert!(began.elapsed() < SECOND);
    tokio::time::sleep(2 * SECOND).await;
    cage.comes_back(row);
    cage.row().await;
    assert!(began.elapsed() >= EVERY);
    let view = cage.view.borrow().clone();
    assert!(view.back.is_some_and(|back| back.took >= 2 * SECOND && back.took < 3 * SECOND), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_that_do_not_come_are_lost_each_once_until_one_comes() {
    let mut cage = Cage::open();
    cage.hears(Heard::Reads);
    let first = cage.row().await;
    assert_eq!(cage.after(LOST_AFTER - 5 * SECOND).await.lost, 0);
    assert_eq!(cage.after(3 * SECOND).await.lost, 1);
    assert_eq!(cage.after(EVERY).await.lost, 2);
    cage.comes_back(first);
    let view = cage.after(Duration::ZERO).await;
    assert_eq!((view.lost, view.back.map(|back| back.took > LOST_AFTER)), (0, Some(true)));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_was_away_makes_no_row_lost_that_is_in_the_topic() {
    let mut cage = Cage::open();
    cage.hears(Heard::Reads);
    let (there, missing) = (cage.row().await, cage.row().await);
    cage.hears(Heard::Deaf("not authorised".to_owned()));
    let view = cage.after(5 * LOST_AFTER).await;
    assert_eq!((view.lost, view.unread.as_deref()), (0, Some("not authorised")));
    assert!(cage.written.try_recv().is_err(), "what would not be heard is not sent");
    cage.comes_back(there);
    cage.hears(Heard::Reads);
    let view = cage.after(Duration::ZERO).await;
    assert_eq!((view.lost, view.unread), (1, None), "{missing} is in the topic no more than before");
    assert!(view.back.is_some());
    cage.row().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_not_written_is_told_with_the_repair_and_is_not_lost() {
    let mut cage = Cage::open();
    cage.refuse.send_replace(true);
    cage.hears(Heard::Reads);
    let view = cage.after(3 * LOST_AFTER).await;
    let unwritten = view.unwritten.expect("it is told");
    assert_eq!((unwritten.repair.as_deref(), view.lost), (Some("grant insert"), 0));
    cage.refuse.send_replace(false);
    cage.row().await;
    assert_eq!(cage.after(Duration::ZERO).await.unwritten, None);
}

#[tokio::test(start_paused = true)]
async fn while_its_topic_is_paused_nothing_is_sent_and_what_waits_is_not_lost() {
    let mut cage = Cage::open();
    cage.hears(Heard::Reads);
    cage.row().await;
    cage.pauses(&["orders", "can*"]);
    let view = cage.after(3 * LOST_AFTER).await;
    assert!(view.is_paused && view.lost == 0, "{view:?}");
    assert!(cage.written.try_recv().is_err());
    cage.pauses(&["orders"]);
    cage.row().await;
    let view = cage.after(LOST_AFTER).await;
    assert!(!view.is_paused && view.lost == 1, "{view:?}");
}
