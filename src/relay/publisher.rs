//! Handing records to the sink, in order, and keeping back what is held.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use uuid::Uuid;

use crate::contract::{Receipt, Refusal, Sink};
use crate::coordination::Leadership;
use crate::outbox::{Held, Lane, Record};
use crate::relay::fetcher::Fetched;
use crate::relay::lanes::Lanes;
use crate::relay::rejections::Rejections;
use crate::relay::session::{Ending, Verdict};
use crate::relay::settler::Submitted;
use crate::relay::sink_verdict;

/// What is remembered of a record once the sink has it: it is read again if it must be sent again.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) topic: Arc<str>,
    key: Option<String>,
    partition: Option<i32>,
    pub(crate) created_at: DateTime<Utc>,
}

impl From<Record> for Row {
    fn from(record: Record) -> Self {
        let Record { id, event_id, topic, key, partition, created_at, .. } = record;
        Self { id, event_id, topic, key, partition, created_at }
    }
}

impl Row {
    /// The lane in which its record keeps its order, if it does.
    pub(crate) fn lane(&self) -> Option<Lane> {
        let has_lane = self.key.is_some() || self.partition.is_some();
        has_lane.then(|| Lane::from_columns(&self.topic, self.key.as_deref(), self.partition))
    }
}

/// The second stage.
pub(crate) struct Publisher<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) leadership: &'a Leadership,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    pub(crate) fetched: mpsc::Receiver<Fetched>,
    pub(crate) submissions: mpsc::Sender<Submitted>,
    pub(crate) rejections: Rejections,
    pub(crate) release_interval: Duration,
    pub(crate) ending: Ending,
}

/// Questions about held lanes that are not answered yet.
type Questions = FuturesUnordered<BoxFuture<'static, Answer>>;

/// What was found out about held lanes.
enum Answer {
    /// The sink accepts the topic by now.
    Accepted(Lane),
    /// The release of these was asked for.
    Requested(Vec<Held>),
    /// Nothing new.
    Nothing,
}

impl Publisher<'_> {
    /// Publishes until the session ends.
    pub(crate) async fn run(mut self) -> Result<(), Verdict> {
        let mut questions = Questions::new();
        let mut tick = interval(self.release_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.ending.soft.cancelled() => return Ok(()),
                Some(answer) = questions.next(), if !questions.is_empty() => self.answered(answer),
                _ = tick.tick(), if questions.is_empty() => self.ask(&mut questions),
                fetched = self.fetched.recv() => match fetched {
                    Some(fetched) => self.publish(fetched).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn publish(&mut self, fetched: Fetched) -> Result<(), Verdict> {
        let Fetched { number, mut batch, heard, permit } = fetched;
        let read = batch.records.len();
        {
            let mut lanes = self.lanes();
            batch.opened.iter().for_each(|lane| lanes.open(lane, heard));
            lanes.keep_back(&mut batch.records);
        }
        if !self.prepare(&batch.records).await? {
            return Ok(());
        }
        if !self.leadership.is_trusted() {
            self.ending.abort.cancel();
            return Err(Verdict::LeaseLost);
        }
        self.give_up_the_impossible(&mut batch.records).await?;
        let began = Instant::now();
        let receipt = self.submit(&batch.records).await?;
        // Payloads and headers end here: what must be sent again is read again.
        let rows: Vec<Row> = batch.records.into_iter().map(Row::from).collect();
        let (end, closed) = (batch.end, batch.closed);
        let submitted = Submitted { number, rows, read, receipt, began, end, closed, heard, permit };
        // An error says that the settler has ended, and so does the session.
        let _ = self.submissions.send(submitted).await;
        Ok(())
    }

    /// Waits until the sink has room. Says whether the session still wants it: while nothing of a batch is handed
    /// over, an end need not wait for it.
    async fn prepare(&mut self, records: &[Record]) -> Result<bool, Verdict> {
        if records.is_empty() {
            return Ok(true);
        }
        let prepared = tokio::select! {
            biased;
            () = self.ending.soft.cancelled() => return Ok(false),
            prepared = self.sink.prepare(records) => prepared,
        };
        prepared.map(|()| true).map_err(|error| {
            self.sink.abort();
            sink_verdict(error)
        })
    }

    /// Takes out what can never be published, and what must not overtake it, once it is decided what becomes of it.
    async fn give_up_the_impossible(&mut self, records: &mut Vec<Record>) -> Result<(), Verdict> {
        if records.is_empty() {
            return Ok(());
        }
        let examined = tokio::select! {
            examined = self.sink.examine(records) => examined,
            () = self.ending.abort.cancelled() => return Err(cut_off()),
        };
        let refusals = examined.map_err(|error| {
            self.sink.abort();
            sink_verdict(error)
        })?;
        if refusals.is_empty() {
            return Ok(());
        }
        let mut rejected = Vec::with_capacity(refusals.len());
        for Refusal { index, rejection } in refusals.into_iter().rev() {
            rejected.push((Row::from(records.remove(index)), rejection));
        }
        rejected.reverse();
        tokio::select! {
            decided = self.rejections.decide(rejected) => decided?,
            () = self.ending.abort.cancelled() => return Err(cut_off()),
        }
        self.lanes().leave_out(records);
        Ok(())
    }

    /// Hands a batch over while the lease is trusted, and not one record longer than the sink takes to give way.
    async fn submit(&mut self, records: &[Record]) -> Result<Receipt, Verdict> {
        if records.is_empty() {
            return Ok(Box::pin(std::future::ready(Vec::new())));
        }
        let submitted = tokio::select! {
            biased;
            () = self.ending.abort.cancelled() => return Err(cut_off()),
            () = mistrust(self.leadership) => {
                self.ending.abort.cancel();
                return Err(Verdict::LeaseLost);
            }
            submitted = self.sink.submit(records) => submitted,
        };
        submitted.map_err(|error| {
            self.sink.abort();
            sink_verdict(error)
        })
    }

    /// Asks the sink about every held topic that nobody has asked to be released yet, and the store whose release
    /// operators ask for.
    fn ask(&self, questions: &mut Questions) {
        let waiting = self.lanes().waiting();
        if !waiting.is_empty() {
            let store = Arc::clone(&self.rejections.store);
            questions.push(Box::pin(async move {
                store.release_requests().await.map_or(Answer::Nothing, Answer::Requested)
            }));
        }
        for lane in waiting {
            if let Lane::Topic { topic } = &lane {
                let answer = self.sink.accepts(topic);
                questions.push(Box::pin(async move {
                    match answer.await {
                        Ok(true) => Answer::Accepted(lane),
                        Ok(false) => Answer::Nothing,
                        Err(error) => {
                            tracing::debug!(%lane, error = %crate::observe::chain(&error), "still held");
                            Answer::Nothing
                        }
                    }
                }));
            }
        }
    }

    fn answered(&self, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Accepted(lane) => {
                tracing::info!(%lane, "flows again");
                self.lanes().release(&lane);
            }
            Answer::Requested(requested) => {
                for held in requested {
                    if self.lanes().release_as_requested(&held) {
                        tracing::info!(lane = %held.lane, from_id = held.from_id, "released, as was asked for");
                    }
                }
            }
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when the lease is no longer trusted. Looks at the clock whenever it is asked: after a pause of the whole
/// process no timer has fired yet.
async fn mistrust(leadership: &Leadership) {
    let mut until = pin!(sleep_until(leadership.trusted_until()));
    poll_fn(|context| {
        while leadership.is_trusted() {
            until.as_mut().reset(leadership.trusted_until());
            ready!(until.as_mut().poll(context));
        }
        Poll::Ready(())
    })
    .await;
}

fn cut_off() -> Verdict {
    Verdict::Again("publishing was cut off".to_owned())
}
