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

use crate::contract::{Receipt, Sink};
use crate::coordination::Leadership;
use crate::outbox::{Lane, Record};
use crate::relay::fetcher::Fetched;
use crate::relay::lanes::Lanes;
use crate::relay::session::{Ending, Verdict};
use crate::relay::settler::Submitted;
use crate::relay::sink_verdict;

/// What is remembered of a record once the sink has it: it is read again if it must be sent again.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) topic: Arc<str>,
    pub(crate) created_at: DateTime<Utc>,
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Self {
        Self {
            id: record.id,
            event_id: record.event_id,
            topic: Arc::clone(&record.topic),
            created_at: record.created_at,
        }
    }
}

/// The second stage.
pub(crate) struct Publisher<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) leadership: &'a Leadership,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    pub(crate) fetched: mpsc::Receiver<Fetched>,
    pub(crate) submissions: mpsc::Sender<Submitted>,
    pub(crate) release_interval: Duration,
    pub(crate) ending: Ending,
}

/// Questions to the sink about held topics that are not answered yet.
type Questions = FuturesUnordered<BoxFuture<'static, Option<Lane>>>;

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
        let rows: Vec<Row> = batch.records.iter().map(Row::from).collect();
        let began = Instant::now();
        let receipt = self.submit(&batch.records).await?;
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

    /// Hands a batch over while the lease is trusted, and not one record longer than the sink takes to give way.
    async fn submit(&mut self, records: &[Record]) -> Result<Receipt, Verdict> {
        if records.is_empty() {
            return Ok(Box::pin(std::future::ready(Vec::new())));
        }
        let submitted = tokio::select! {
            biased;
            () = self.ending.abort.cancelled() => return Err(Verdict::Again("publishing was cut off".to_owned())),
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

    /// Asks the sink about every held topic that nobody has asked to be released yet.
    fn ask(&self, questions: &mut Questions) {
        for lane in self.lanes().waiting() {
            if let Lane::Topic { topic } = &lane {
                let answer = self.sink.accepts(topic);
                questions.push(Box::pin(async move {
                    match answer.await {
                        Ok(accepts) => accepts.then_some(lane),
                        Err(error) => {
                            tracing::debug!(%lane, error = %crate::observe::chain(&error), "still held");
                            None
                        }
                    }
                }));
            }
        }
    }

    fn answered(&self, answer: Option<Lane>) {
        if let Some(lane) = answer {
            tracing::info!(%lane, "flows again");
            self.lanes().release(&lane);
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
