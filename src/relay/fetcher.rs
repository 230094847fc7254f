//! Reading ahead, as far as the credit allows, and storing the checkpoint.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::observe::metrics;
use crate::outbox::{Batch, Held, Limit, Position, Term};
use crate::relay::lanes::{Command, Lanes};
use crate::relay::pacer::{Found, Pacer};
use crate::relay::probation::{PROBE, Probation};
use crate::relay::session::{Ending, LastCheckpoint, Verdict};
use crate::relay::settler::Frontier;
use crate::relay::{Status, store_verdict};

/// While nothing flows the position still moves with the database's other work; this often it is stored, so
/// that a restart need not look at more of it.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(60);

/// A batch on its way to the publisher.
pub(crate) struct Fetched {
    /// Counts the batches of a session from 1.
    pub(crate) number: u64,
    /// The position before it was read.
    pub(crate) start: Position,
    pub(crate) batch: Batch,
    /// How many commands about lanes the reader had heard when it read this.
    pub(crate) heard: u64,
    /// Returned when the batch is settled.
    pub(crate) permit: Permit,
}

/// How much may be read and not settled.
pub(crate) struct Credit {
    records: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    batch: Limit,
    /// How many bytes may be read and not settled.
    bytes_in_all: usize,
}

/// The part of the credit that a batch holds.
pub(crate) struct Permit {
    records: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Credit {
    /// Credit for `in_flight`, and at least for one `batch`.
    pub(crate) fn new(in_flight: Limit, batch: Limit) -> Self {
        Self {
            records: Arc::new(Semaphore::new(in_flight.records.max(batch.records))),
            bytes: Arc::new(Semaphore::new(in_flight.bytes.max(batch.bytes))),
            batch,
            bytes_in_all: in_flight.bytes.max(batch.bytes),
        }
    }

    /// Waits until there is credit for all of a batch too, where one record is larger than a batch should be; or for all
    /// that there is.
    async fn extend(&self, permit: &mut Permit, batch: &Batch) {
        let missing = batch.footprint().min(self.bytes_in_all).saturating_sub(permit.bytes.num_permits());
        if missing > 0 {
            let more = Arc::clone(&self.bytes).acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
            permit.bytes.merge(more.await.expect("the semaphores are never closed"));
        }
    }

    /// Waits until there is credit for a whole batch.
    async fn reserve(&self) -> Permit {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let never = "the semaphores are never closed";
        Permit {
            records: Arc::clone(&self.records).acquire_many_owned(count(self.batch.records)).await.expect(never),
            bytes: Arc::clone(&self.bytes).acquire_many_owned(count(self.batch.bytes)).await.expect(never),
        }
    }
}

impl Permit {
    /// Gives back what the batch did not need.
    fn shrink_to(&mut self, batch: &Batch) {
        drop(self.records.split(self.records.num_permits().saturating_sub(batch.len())));
        drop(self.bytes.split(self.bytes.num_permits().saturating_sub(batch.footprint())));
    }
}

/// The first stage.
pub(crate) struct Fetcher {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) term: Term,
    pub(crate) batch: Limit,
    pub(crate) credit: Credit,
    pub(crate) probation: Probation,
    pub(crate) pacer: Pacer,
    pub(crate) checkpoint_interval: Duration,
    /// Whether what was read must be proven durable before it is published.
    pub(crate) proves: bool,
    pub(crate) lanes: Arc<Mutex<Lanes>>,
    /// Signalled when a lane is to flow again.
    pub(crate) released: Arc<Notify>,
    pub(crate) batches: mpsc::Sender<Fetched>,
    pub(crate) progress: watch::Receiver<Frontier>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ending: Ending,
}

/// How far the fetcher is.
struct Reached {
    /// Batches sent on.
    sent: u64,
    /// Records sent on of which it is not known that they can be recorded.
    untried: usize,
    /// The position after the latest read.
    position: Position,
    /// How many commands about lanes the reader has heard.
    heard: u64,
    stored: Option<Stored>,
    stored_at: Instant,
}

/// What was stored last.
struct Stored {
    number: u64,
    position: Position,
    held: Vec<Held>,
}

impl Fetcher {
    /// Reads until the session ends. Gives back the reader, if it is still good, with the last checkpoint.
    pub(crate) async fn run(mut self) -> (Option<LastCheckpoint>, Result<(), Verdict>) {
        let position = self.reader.position();
        let mut reached = Reached { sent: 0, untried: 0, position, heard: 0, stored: None, stored_at: Instant::now() };
        if let Err(error) = self.fetch_all(&mut reached).await {
            return (None, Err(store_verdict(error)));
        }
        let Self { reader, batches, progress, lanes, term, .. } = self;
        drop(batches);
        settled(progress.clone()).await;
        let checkpoint = due(&reached, &progress, &lanes, term);
        (checkpoint.map(|checkpoint| LastCheckpoint { reader, checkpoint }), Ok(()))
    }

    async fn fetch_all(&mut self, reached: &mut Reached) -> Result<(), StoreError> {
        while !self.ending.soft.is_cancelled() {
            self.obey(reached);
            if reached.stored.is_none() {
                self.store_checkpoint(reached).await?;
            }
            let permit = tokio::select! {
                biased;
                () = self.ending.soft.cancelled() => break,
                permit = self.credit.reserve() => permit,
                () = sleep_until(reached.stored_at + self.checkpoint_interval) => {
                    self.store_checkpoint(reached).await?;
                    continue;
                }
            };
            let batch = self.read(reached).await?;
            let found = Found::of(&batch);
            self.pass_on(batch, permit, reached).await;
            self.be_tried(reached).await;
            if self.ending.soft.is_cancelled() {
                break;
            }
            // After the read, so that no row that woke us waits for it.
            self.store_checkpoint(reached).await?;
            tokio::select! {
                biased;
                () = self.ending.soft.cancelled() => break,
                () = self.released.notified() => {}
                () = self.pacer.pause(found) => {}
            }
        }
        Ok(())
    }

    /// Reads a batch, and proves it durable where that is needed.
    async fn read(&mut self, reached: &mut Reached) -> Result<Batch, StoreError> {
        let began = Instant::now();
        let batch = tokio::select! {
            biased;
            batch = self.reader.fetch(self.probation.limit(self.batch, reached.untried)) => batch?,
            // A database that does not answer must not keep a relay from stepping down.
            () = self.ending.abort.cancelled() => return Err(cut_short("reading the outbox")),
        };
        metrics::record_fetch(began.elapsed());
        reached.untried += batch.len();
        if !batch.is_empty() && self.proves {
            tokio::select! {
                biased;
                proven = self.reader.prove(self.term) => proven?,
                () = self.ending.abort.cancelled() => return Err(cut_short("proving what was read")),
            }
        }
        Ok(batch)
    }

    /// While nothing was recorded yet, waits after some records until it is known what became of them.
    async fn be_tried(&mut self, reached: &mut Reached) {
        if !self.probation.is_on() {
            reached.untried = 0;
        } else if reached.untried >= PROBE {
            tokio::select! {
                biased;
                () = self.ending.soft.cancelled() => {}
                // An error says that the settler has ended, and so does the session.
                _ = self.progress.wait_for(|frontier| frontier.number >= reached.sent) => reached.untried = 0,
            }
        }
    }

    /// Tells the reader which lanes to leave out and which to let flow.
    fn obey(&mut self, reached: &mut Reached) {
        let (commands, given) = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).take_commands();
        for command in commands {
            match command {
                Command::Hold(held) => self.reader.hold(held),
                Command::Release(lane) => self.reader.release(&lane),
            }
        }
        reached.heard = given;
    }

    async fn pass_on(&mut self, batch: Batch, mut permit: Permit, reached: &mut Reached) {
        let start = std::mem::replace(&mut reached.position, batch.end.clone());
        let empty = batch.is_empty() && batch.opened.is_empty() && batch.closed.is_empty();
        if empty {
            if self.progress.borrow().covers(reached.sent) {
                self.probation.mended();
                metrics::set_progress_now();
                self.status.send_modify(Status::progressed);
            }
            return;
        }
        permit.shrink_to(&batch);
        reached.sent += 1;
        let records = batch.len();
        self.status.send_modify(|status| status.in_flight += records);
        metrics::set_in_flight(self.status.borrow().in_flight);
        let (number, heard) = (reached.sent, reached.heard);
        let sent = async {
            self.credit.extend(&mut permit, &batch).await;
            self.batches.send(Fetched { number, start, batch, heard, permit }).await
        };
        tokio::select! {
            biased;
            () = self.ending.soft.cancelled() => {}
            // An error says that the publisher has ended, and so does the session.
            _ = sent => {}
        }
    }

    /// Stores the checkpoint when it is time and there is news.
    async fn store_checkpoint(&mut self, reached: &mut Reached) -> Result<(), StoreError> {
        // Whoever may not store it publishes nothing: where only the checkpoint tells, all would come again.
        let is_first = self.probation.is_on() && reached.stored.is_none();
        if reached.stored_at.elapsed() < self.checkpoint_interval && !is_first {
            return Ok(());
        }
        let Some(checkpoint) = due(reached, &self.progress, &self.lanes, self.term) else {
            reached.stored_at = Instant::now();
            return Ok(());
        };
        let number = self.progress.borrow().number;
        let idle = reached
            .stored
            .as_ref()
            .is_some_and(|stored| stored.number == number && number == reached.sent && stored.held == checkpoint.held);
        if idle && reached.stored_at.elapsed() < IDLE_CHECKPOINT {
            return Ok(());
        }
        tokio::select! {
            biased;
            saved = self.reader.save(&checkpoint) => saved?,
            () = self.ending.abort.cancelled() => return Err(cut_short("storing the checkpoint")),
        }
        let Checkpoint { position, held, .. } = checkpoint;
        reached.stored = Some(Stored { number, position, held });
        reached.stored_at = Instant::now();
        Ok(())
    }
}

/// The checkpoint that may be stored now, if it differs from the stored one.
fn due(
    reached: &Reached,
    progress: &watch::Receiver<Frontier>,
    lanes: &Mutex<Lanes>,
    term: Term,
) -> Option<Checkpoint> {
    let settled = progress.borrow().clone();
    // With nothing in flight everything up to the latest read is settled or held.
    let is_all = settled.covers(reached.sent);
    let position = if is_all { reached.position.clone() } else { settled.position.clone() };
    let held = lanes.lock().unwrap_or_else(PoisonError::into_inner).stored(&settled);
    let news = |stored: &Stored| stored.position != position || stored.held != held;
    reached.stored.as_ref().is_none_or(news).then_some(Checkpoint { term, position, held })
}

/// What a session says that is dropped in the middle of a statement.
fn cut_short(doing: &'static str) -> StoreError {
    StoreError::Unavailable { doing, source: "it did not answer before the session had to end".into() }
}

/// Waits until the settler is done.
async fn settled(mut progress: watch::Receiver<Frontier>) {
    while progress.changed().await.is_ok() {}
}
