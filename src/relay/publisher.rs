//! Handing records to the sink, in order, and keeping back what is held.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::contract::{Receipt, Refusal, Sink};
use crate::coordination::Leadership;
use crate::observe::metrics;
use crate::outbox::{Batch, Held, HoldCause, Lane, Limit, Orders, Position, ReadToken, Record, Unreadable};
use crate::relay::flow::{Before, Ending, Fetched, Permit, Row, SessionEnd, Submitted};
use crate::relay::lanes::HeldLaneStates;
use crate::relay::progress::ProgressTracker;
use crate::relay::rejections::{Rejected, Rejections};
use crate::relay::status::{Status, tell_held};

/// The second stage.
pub(crate) struct Publisher<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) leadership: &'a Leadership,
    pub(crate) lanes: Arc<Mutex<HeldLaneStates>>,
    /// To be signalled when a lane is to flow again.
    pub(crate) released: Arc<Notify>,
    pub(crate) fetched: mpsc::Receiver<Fetched>,
    pub(crate) submissions: mpsc::Sender<Submitted>,
    pub(crate) rejections: Rejections,
    pub(crate) release_interval: Duration,
    /// How much of what was read goes into one submission; `None`: one batch.
    pub(crate) together: Option<Limit>,
    pub(crate) tracker: ProgressTracker,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ending: Ending,
}

/// Batches that are submitted together.
struct Gathered {
    /// Where the first of them begins.
    before: Before,
    /// The number of the last of them.
    number: u64,
    records: Vec<Record>,
    /// Rows that are no records.
    unreadable: Vec<Unreadable>,
    /// How many records were read, those kept back included.
    read: usize,
    /// The position after the last of them.
    end: Position,
    /// The token with which they were read, if it is the same.
    token: Option<ReadToken>,
    closed: Vec<(Lane, u64)>,
    permits: Vec<Permit>,
    /// Whether something was kept back, or a release begins or ends: the position does not tell all then.
    is_exceptional: bool,
    /// Whether some of them belong to a lane that is being released.
    out_of_line: bool,
    /// When the first of them was read.
    read_at: Instant,
}

impl Gathered {
    fn add(&mut self, next: Gathered) {
        self.is_exceptional |= next.is_exceptional;
        self.out_of_line |= next.out_of_line;
        (self.number, self.end) = (next.number, next.end);
        self.token = self.token.filter(|_| self.token == next.token);
        self.read += next.read;
        self.records.extend(next.records);
        self.unreadable.extend(next.unreadable);
        self.closed.extend(next.closed);
        self.permits.extend(next.permits);
    }
}

/// About so often the sink is asked about a held lane in as much time as it is held.
const ASKED_IN_ITS_AGE: u32 = 10;

/// And never more rarely than this.
const RAREST_QUESTION: Duration = Duration::from_secs(10);

/// Questions about held lanes that are not answered yet.
type Questions = FuturesUnordered<BoxFuture<'static, Answer>>;

/// What was found out about held lanes.
enum Answer {
    /// The sink accepts records of these by now.
    Accepted(Vec<Lane>),
    /// The release of these was asked for.
    Requested(Vec<Held>),
    /// It is noted that the release of these is granted.
    Granted(Vec<Held>),
    /// Nothing new.
    Nothing,
}

impl<'a> Publisher<'a> {
    /// Publishes until the session ends. Gives the sink back.
    pub(crate) async fn run(mut self) -> (&'a mut dyn Sink, Result<(), SessionEnd>) {
        let published = self.publish_all().await;
        (self.sink, published)
    }

    async fn publish_all(&mut self) -> Result<(), SessionEnd> {
        let mut questions = Questions::new();
        let mut tick = interval(self.release_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // While nothing waits no timer need wake the publisher.
        let (mut is_ticking, news) = (true, self.lanes().news());
        loop {
            tokio::select! {
                biased;
                () = self.ending.soft.cancelled() => return Ok(()),
                Some(answer) = questions.next(), if !questions.is_empty() => self.answered(answer, &questions),
                _ = tick.tick(), if is_ticking && questions.is_empty() => is_ticking = self.ask(&mut questions),
                Ok(()) = self.orders.changed() => self.release_resumed(),
                () = news.notified(), if !is_ticking => {
                    is_ticking = true;
                    tick.reset();
                }
                fetched = self.fetched.recv() => match fetched {
                    Some(fetched) => self.publish(fetched).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn publish(&mut self, fetched: Fetched) -> Result<(), SessionEnd> {
        let mut gathered = self.release_and_keep_back(fetched);
        if !self.prepare(&gathered.records).await? {
            return Ok(());
        }
        self.gather(&mut gathered);
        if !self.leadership.is_trusted() {
            self.ending.abort.cancel();
            return Err(SessionEnd::LeaseLost);
        }
        gathered.is_exceptional |= self.give_up_the_impossible(&mut gathered).await?;
        self.tracker.advance(gathered.records.len(), gathered.is_exceptional || gathered.out_of_line);
        let begins_anew = self.tracker.wants_another_session()
            || self.tracker.is_still() && (!gathered.closed.is_empty() || !self.lanes().is_releasing());
        let Gathered { before, number, records, read, end, token, closed, permits, out_of_line, read_at, .. } =
            gathered;
        let began = Instant::now();
        if !records.is_empty() {
            metrics::record_read_to_send(began - read_at);
        }
        let receipt = self.submit(&records, self.tracker.position(&end)).await?;
        // Payloads and headers end here: what must be sent again is read again.
        let rows: Vec<Row> = records.into_iter().map(Row::from).collect();
        let submitted =
            Submitted { before, number, rows, read, receipt, began, end, token, out_of_line, closed, permits };
        // An error says that the settler has ended, and so does the session.
        let _ = self.submissions.send(submitted).await;
        // The database is to know of everything, so that the position can move on: unless lanes are being released, for
        // a while.
        if begins_anew { Err(SessionEnd::Afresh) } else { Ok(()) }
    }

    /// Adds what was read meanwhile, where a submission may be of several batches: the more share a transaction, the
    /// less it costs each.
    fn gather(&mut self, gathered: &mut Gathered) {
        let Some(most) = self.together.filter(|_| !self.tracker.is_still()) else { return };
        let mut bytes: usize = gathered.records.iter().map(Record::footprint).sum();
        while gathered.records.len() < most.records
            && bytes < most.bytes
            && let Ok(next) = self.fetched.try_recv()
        {
            let next = self.release_and_keep_back(next);
            bytes += next.records.iter().map(Record::footprint).sum::<usize>();
            gathered.add(next);
        }
    }

    fn release_and_keep_back(&self, fetched: Fetched) -> Gathered {
        let Fetched { number, start, mut batch, heard, permit, read_at } = fetched;
        let read = batch.len();
        let before = Before { batch: number, position: start };
        let out_of_line = {
            let mut lanes = self.lanes();
            batch.opened.iter().for_each(|lane| lanes.open(lane, heard));
            self.hold_paused(&mut lanes, &before, &batch);
            lanes.keep_back(number, &mut batch.records, &mut batch.unreadable);
            lanes.is_out_of_line(&batch.records)
        };
        let releases = !batch.opened.is_empty() || !batch.closed.is_empty();
        let is_exceptional = releases || batch.len() < read;
        let closed = batch.closed.into_iter().map(|lane| (lane, heard)).collect();
        let Batch { records, unreadable, end, token, .. } = batch;
        let permits = vec![permit];
        Gathered {
            before,
            number,
            records,
            unreadable,
            read,
            end,
            token,
            closed,
            permits,
            is_exceptional,
            out_of_line,
            read_at,
        }
    }

    /// Holds the topics of a batch that operators paused.
    fn hold_paused(&self, lanes: &mut HeldLaneStates, before: &Before, batch: &Batch) {
        let orders = self.orders.borrow();
        if orders.pauses.is_empty() {
            return;
        }
        for (topic, from_id) in lanes.hold_paused(before, batch, |topic| orders.pauses_topic(topic)) {
            tracing::info!(%topic, from_id, "topic is held while it is paused; other topics flow on");
        }
    }

    /// Lets topics flow again that are no longer paused.
    fn release_resumed(&self) {
        let resumed: Vec<Lane> = {
            let (lanes, orders) = (self.lanes(), self.orders.borrow());
            let is_resumed = |held: &&Held| held.cause == HoldCause::Paused && !orders.pauses_topic(held.lane.topic());
            lanes.waiting().filter(is_resumed).map(|held| held.lane.clone()).collect()
        };
        self.let_flow(&resumed);
    }

    fn let_flow(&self, accepted: &[Lane]) {
        if let Some(first) = accepted.first() {
            tracing::info!(lanes = accepted.len(), %first, "flow again");
            accepted.iter().for_each(|lane| self.lanes().release(lane));
            self.released.notify_one();
        }
    }

    /// Waits until the sink has room. Says whether the session still wants it: while nothing of a batch is handed
    /// over, an end need not wait for it.
    async fn prepare(&mut self, records: &[Record]) -> Result<bool, SessionEnd> {
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
            SessionEnd::from(error)
        })
    }

    /// Takes out what can never be published, and what must not overtake it, once it is decided what becomes of it.
    /// Says whether a lane is held because of that.
    async fn give_up_the_impossible(&mut self, gathered: &mut Gathered) -> Result<bool, SessionEnd> {
        // Decided first: what follows in their lanes may be published ahead.
        let mut holds = !gathered.unreadable.is_empty() && self.give_up(Vec::new(), gathered).await?;
        while !gathered.records.is_empty() {
            let refusals = self.examine(&gathered.records).await?;
            if refusals.is_empty() {
                break;
            }
            holds |= self.give_up(refusals, gathered).await?;
        }
        Ok(holds)
    }

    /// Decides what becomes of these and of the rows that cannot be read, and takes them out. Says whether a lane is held
    /// because of that.
    async fn give_up(&mut self, refusals: Vec<Refusal>, gathered: &mut Gathered) -> Result<bool, SessionEnd> {
        let Gathered { before, records, unreadable, .. } = gathered;
        let mut rejected: Vec<Rejected> = unreadable.drain(..).map(Rejected::from).collect();
        for Refusal { index, rejection } in refusals.into_iter().rev() {
            rejected.push(Rejected::of(&Row::from(records.remove(index)), rejection));
        }
        rejected.sort_by_key(|row| row.id);
        tokio::select! {
            decided = self.rejections.decide(rejected, before) => {
                let holds = decided?;
                self.lanes().leave_out(records);
                Ok(holds)
            }
            () = self.ending.abort.cancelled() => Err(cut_off()),
        }
    }

    /// Asks the sink which of these can never be published.
    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SessionEnd> {
        let examining = self.sink.examine(records);
        let examined = while_trusted(self.leadership, &self.ending, examining).await?;
        examined.map_err(|error| {
            self.sink.abort();
            SessionEnd::from(error)
        })
    }

    /// Hands records over while the lease is trusted, and not one record longer than the sink takes to give way.
    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SessionEnd> {
        if records.is_empty() {
            return Ok(Box::pin(std::future::ready(Vec::new())));
        }
        let submitting = self.sink.submit(records, after);
        let submitted = while_trusted(self.leadership, &self.ending, submitting).await?;
        submitted.map_err(|error| {
            self.sink.abort();
            SessionEnd::from(error)
        })
    }

    /// Asks the sink about held lanes that may flow by themselves, and the store whose release operators ask for. Says
    /// whether anything waits.
    fn ask(&self, questions: &mut Questions) -> bool {
        self.release_resumed();
        let (waits, asked, told) = {
            let mut lanes = self.lanes();
            let now = Utc::now();
            let asked: Vec<Lane> =
                lanes.waiting().filter(|held| self.is_to_be_asked(held, now)).map(|held| held.lane.clone()).collect();
            let waits = lanes.waiting().next().is_some();
            (waits, asked, lanes.untold(usize::MAX))
        };
        if let Some(held) = told {
            tell_held(&self.status, held);
        }
        if !waits {
            return false;
        }
        let store = Arc::clone(&self.rejections.store);
        let requests = async move { store.release_requests().await.map_or(Answer::Nothing, Answer::Requested) };
        questions.push(Box::pin(requests));
        if !asked.is_empty() {
            let accepted = self.sink.accepts(asked);
            questions.push(Box::pin(async move {
                accepted.await.map_or_else(
                    |error| {
                        tracing::debug!(error = %crate::observe::chain(&error), "nothing is known of what is held");
                        Answer::Nothing
                    },
                    Answer::Accepted,
                )
            }));
        }
        true
    }

    /// Whether to ask about a lane this time: the longer it is held, the more rarely.
    fn is_to_be_asked(&self, held: &Held, now: DateTime<Utc>) -> bool {
        if matches!(held.cause, HoldCause::Rejected | HoldCause::Paused) {
            return false;
        }
        let age = (now - held.since).to_std().unwrap_or_default();
        let pause = (age / ASKED_IN_ITS_AGE).min(RAREST_QUESTION).as_millis();
        let pauses_until = |age: Duration| age.as_millis() / pause.max(1);
        pause <= self.release_interval.as_millis()
            || pauses_until(age) > pauses_until(age.saturating_sub(self.release_interval))
    }

    fn answered(&self, answer: Answer, questions: &Questions) {
        match answer {
            Answer::Nothing => {}
            Answer::Accepted(lanes) => self.let_flow(&lanes),
            Answer::Requested(requested) => self.grant(requested, questions),
            Answer::Granted(mut granted) => {
                let mut lanes = self.lanes();
                granted.retain(|held| lanes.may_release(held));
                if let Some(Held { lane, from_id, .. }) = granted.first() {
                    tracing::info!(lanes = granted.len(), %lane, from_id, "released, as was asked for; the first one is named here");
                }
                granted.iter().for_each(|held| lanes.release(&held.lane));
                self.released.notify_one();
            }
        }
    }

    /// Notes which of these releases are granted, before they are: what is asked for later is another wish, of a lane that
    /// may be held anew by then.
    fn grant(&self, mut requested: Vec<Held>, questions: &Questions) {
        {
            let lanes = self.lanes();
            requested.retain(|held| lanes.may_release(held));
        }
        if requested.is_empty() {
            return;
        }
        let store = Arc::clone(&self.rejections.store);
        questions.push(Box::pin(async move {
            let lanes: Vec<Lane> = requested.iter().map(|held| held.lane.clone()).collect();
            store.grant_releases(&lanes).await.map_or(Answer::Nothing, |()| Answer::Granted(requested))
        }));
    }

    fn lanes(&self) -> MutexGuard<'_, HeldLaneStates> {
        self.lanes.lock()
    }
}

/// Does what may publish something while the lease is trusted, and no longer.
async fn while_trusted<T>(
    leadership: &Leadership,
    ending: &Ending,
    publishing: impl Future<Output = T>,
) -> Result<T, SessionEnd> {
    tokio::select! {
        biased;
        () = ending.abort.cancelled() => Err(cut_off()),
        () = mistrust(leadership) => {
            ending.abort.cancel();
            Err(SessionEnd::LeaseLost)
        }
        done = publishing => Ok(done),
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

fn cut_off() -> SessionEnd {
    SessionEnd::Again("publishing was cut off".to_owned())
}
