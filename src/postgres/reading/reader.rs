//! A reading session: what is new of the main flow, in turn with what is released of held lanes.
//!
//! What is new, and how far that is, [`SnapshotDelta`] alone tells; releases follow its position. A strategy for tables
//! without transaction ids would stand beside it.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::outbox::{Batch, Held, HeldChanges, Lane, Limit, Position, Proof, ReadToken, Term};
use crate::postgres::errors::not_now;
use crate::postgres::reading::delta::SnapshotDelta;
use crate::postgres::reading::holds::Holds;
use crate::postgres::reading::page::{self, RowSelection};
use crate::postgres::reading::release::{Releases, Turn};
use crate::postgres::reading::rows::Page;
use crate::postgres::settling::checkpoint::{self, CheckpointTarget, Stored};
use crate::postgres::settling::recover;

/// A reading session.
pub(crate) struct PgReader {
    conn: PgConnection,
    place: CheckpointTarget,
    token: Option<ReadToken>,
    /// The main flow.
    flow: SnapshotDelta,
    /// How many rows are asked for at once: fewer while they are large.
    rows: usize,
    /// Rows that are larger are not loaded.
    most: usize,
    holds: Holds,
    releases: Releases,
    /// The held lanes that are stored.
    stored_held: Vec<Held>,
    /// The proof that what was read needs before it is published. All that a frozen window shows was committed before its
    /// snapshot, so that one proof is enough for all of its pages.
    proof: Proof,
    /// Whether it was made.
    proven: bool,
    /// Set while a statement is under way: a session that failed or was cut short is not to be used again.
    broken: bool,
}

impl PgReader {
    /// Begins at what is stored, or at the beginning.
    pub(crate) async fn begin(
        mut conn: PgConnection,
        place: CheckpointTarget,
        stored: Stored,
        token: Option<ReadToken>,
    ) -> Result<Self, StoreError> {
        let mut flow = SnapshotDelta::begin(&mut conn, &place.table, stored.at).await?;
        let proof = Proof::first();
        flow.expect_proof(&place.system, proof);
        Ok(Self {
            conn,
            place,
            token,
            flow,
            rows: usize::MAX,
            most: usize::MAX,
            holds: Holds::new(&stored.held),
            releases: Releases::default(),
            stored_held: stored.held,
            proof,
            proven: false,
            broken: false,
        })
    }

    /// Refuses a session that failed, and marks it as failed until the statements that follow succeed.
    fn enter(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(not_now("reading the outbox", "the reading session failed before: open another"));
        }
        Ok(())
    }

    /// What is read from here on needs another proof, and positions tell of it.
    fn expect_proof(&mut self) {
        if std::mem::take(&mut self.proven) {
            self.proof = self.proof.next();
            self.flow.expect_proof(&self.place.system, self.proof);
        }
    }

    /// Asks for as many rows as fitted, where not all fitted, and for more again once they do: what does not
    /// fit was sent for nothing.
    fn adapt(&mut self, page: &Page, full: bool) {
        if page.is_cut() {
            self.rows = page.taken().max(1);
        } else if full {
            self.rows = self.rows.saturating_mul(2);
        }
    }
}

#[async_trait]
impl Reader for PgReader {
    fn held(&self) -> &[Held] {
        &self.stored_held
    }

    fn position(&self) -> Position {
        self.flow.position().to_position()
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
        self.releases.load_at_most(bytes);
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        self.enter()?;
        let limit = Limit { records: limit.records.min(self.rows).max(1), ..limit };
        let table = &self.place.table;
        let turn = self.releases.turn(&self.holds);
        // Only a look at the present that found little says that there is no more.
        let looked = turn == Turn::Main && !self.flow.is_in_a_window();
        let mut page = match turn {
            Turn::Release => {
                self.releases.page(&mut self.conn, table, &self.holds, self.flow.position(), limit).await?
            }
            Turn::Main => {
                let which = RowSelection { holds: &self.holds, left: None, most: self.most };
                self.flow.read(&mut self.conn, table, &which, limit).await?
            }
        };
        if looked {
            self.expect_proof();
        }
        let full = page.is_full();
        self.adapt(&page, full);
        self.flow.note_highest(page.last_id().unwrap_or_default());
        page::load_wide(&mut self.conn, &self.place.table.outbox(), &self.place.table.columns(), &mut page).await?;
        let news = self.releases.conclude(self.flow.position(), &mut self.holds);
        self.broken = false;
        Ok(Batch {
            records: page.records,
            unreadable: page.unreadable,
            end: self.position(),
            more: full || !looked || self.releases.are_under_way(&self.holds),
            token: self.token,
            opened: news.opened,
            closed: news.closed,
        })
    }

    async fn prove(&mut self, term: Term) -> Result<(), StoreError> {
        if self.proven {
            return Ok(());
        }
        self.enter()?;
        let proven = recover::prove(&mut self.conn, &self.place.table, term, self.proof).await;
        self.broken = !matches!(proven, Ok(()) | Err(StoreError::TermOver { .. }));
        self.proven = proven.is_ok();
        proven
    }

    fn hold(&mut self, held: Held) {
        self.releases.abort(&held.lane);
        self.holds.hold(&held);
    }

    fn release(&mut self, lane: &Lane) {
        self.releases.begin(lane);
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.enter()?;
        let changes = HeldChanges::between(&self.stored_held, &checkpoint.held);
        let is_changed = !changes.is_empty();
        let saved = checkpoint::save(&mut self.conn, &self.place, checkpoint, &changes).await;
        // A term that is over leaves the session as it was: the transaction was rolled back in good order.
        self.broken = !matches!(saved, Ok(()) | Err(StoreError::TermOver { .. }));
        if saved.is_ok() && is_changed {
            self.stored_held.clone_from(&checkpoint.held);
        }
        saved
    }
}
