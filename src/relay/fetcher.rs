//! Reading ahead, as far as the credit allows, and storing the checkpoint.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::observe::metrics;
use crate::outbox::{Batch, Held, Limit, Position, Record, Term};
use crate::relay::flow::{Credit, Ending, Fetched, Frontier, LastCheckpoint, Permit, SessionEnd};
use crate::relay::lanes::{Command, HeldLaneStates};
use crate::relay::pacer::{Found, Pacer};
use crate::relay::probation::{PROBE_RECORDS, Probation};
use crate::relay::status::Status;

/// While nothing flows the position still moves with the database's other work; this often it is stored, so
/// that a restart need not look at more of it.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(60);

/// Of so many messages of a batch one tells how long it waited to be read.
const WAITS_SAMPLED: usize = 64;

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
    pub(crate) lanes: Arc<Mutex<HeldLaneStates>>,
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
    read_to: Position,
    held: Vec<Held>,
}

impl Fetcher {
    /// Reads until the session ends. Gives back the reader, if it is still good, with the last checkpoint.
    pub(crate) async fn run(mut self) -> (Option<LastCheckpoint>, Result<(), SessionEnd>) {
        let position = self.reader.position();
        let mut reached = Reached { sent: 0, untried: 0, position, heard: 0, stored: None, stored_at: Instant::now() };
        if let Err(error) = self.fetch_all(&mut reached).await {
            return (None, Err(error.into()));
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
        } else if reached.untried >= PROBE_RECORDS {
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
        let (commands, given) = self.lanes.lock().take_commands();
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
        let (number, heard, read_at) = (reached.sent, reached.heard, Instant::now());
        record_waits(&batch.records);
        let sent = async {
            self.credit.extend(&mut permit, &batch).await;
            self.batches.send(Fetched { number, start, batch, heard, permit, read_at }).await
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
        // A relay that may not store it publishes nothing: where only the checkpoint tells, all would come again.
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
        let Checkpoint { position, read_to, held, .. } = checkpoint;
        reached.stored = Some(Stored { number, position, read_to, held });
        reached.stored_at = Instant::now();
        Ok(())
    }
}

/// The checkpoint that may be stored now, if it differs from the stored one.
fn due(
    reached: &Reached,
    progress: &watch::Receiver<Frontier>,
    lanes: &Mutex<HeldLaneStates>,
    term: Term,
) -> Option<Checkpoint> {
    let settled = progress.borrow().clone();
    // With nothing in flight everything up to the latest read is settled or held.
    let is_all = settled.covers(reached.sent);
    let read_to = reached.position.clone();
    let position = if is_all { read_to.clone() } else { settled.position.clone() };
    let held = lanes.lock().stored(&settled);
    let news = |stored: &Stored| stored.position != position || stored.read_to != read_to || stored.held != held;
    reached.stored.as_ref().is_none_or(news).then_some(Checkpoint { term, position, read_to, held })
}

/// Records how long messages waited to be read: of some of each batch, so that it costs next to nothing a row.
fn record_waits(records: &[Record]) {
    let (now, commit_to_read) = (Utc::now(), metrics::commit_to_read());
    for record in records.iter().step_by(WAITS_SAMPLED) {
        commit_to_read.record((now - record.created_at).to_std().unwrap_or_default());
    }
}

/// What a session says that is dropped in the middle of a statement.
fn cut_short(doing: &'static str) -> StoreError {
    StoreError::Unavailable { doing, source: "it did not answer before the session had to end".into() }
}

/// Waits until the settler is done.
async fn settled(mut progress: watch::Receiver<Frontier>) {
    while progress.changed().await.is_ok() {}
}
