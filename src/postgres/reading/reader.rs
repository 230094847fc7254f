//! Reading: the exact snapshot delta.
//!
//! A row is new if it is visible now and was not visible in the snapshot before. So nothing is lost that
//! commits late, nothing is read before it is committed, and rows of transactions that did not overlap come in
//! the order of their commits. A window between two snapshots that does not fit one page is *frozen*: it is paged by
//! id until it is empty, and only then the next one begins.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::outbox::{Batch, Held, HeldChanges, Lane, Limit, Position, Proof, ReadToken, Term};
use crate::postgres::errors::not_now;
use crate::postgres::reading::holds::Holds;
use crate::postgres::reading::page::{self, RowSelection};
use crate::postgres::reading::position::{Frozen, ReadPosition, Snapshot};
use crate::postgres::reading::release::{Releases, Turn};
use crate::postgres::reading::rows::Page;
use crate::postgres::reading::walk::WindowWalk;
use crate::postgres::session::ask;
use crate::postgres::settling::checkpoint::{self, CheckpointTarget, Stored};
use crate::postgres::settling::recover;
use crate::postgres::table::OutboxTable;

/// A reading session.
pub(crate) struct DeltaReader {
    conn: PgConnection,
    place: CheckpointTarget,
    token: Option<ReadToken>,
    at: ReadPosition,
    /// The walk through the frozen window, while there is one.
    walk: Option<WindowWalk>,
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

impl DeltaReader {
    /// Begins at what is stored, or at the beginning.
    pub(crate) async fn begin(
        mut conn: PgConnection,
        place: CheckpointTarget,
        stored: Stored,
        token: Option<ReadToken>,
    ) -> Result<Self, StoreError> {
        let table = &place.table;
        let (at, walk) = match stored.at {
            Some(at) => match at.frozen.as_ref().map(|frozen| frozen.last) {
                Some(last) => (at, Some(WindowWalk::after(&mut conn, table, last).await?)),
                None => (at, None),
            },
            None => beginning(&mut conn, table).await?,
        };
        let proof = Proof::first();
        let at = ReadPosition { system: place.system.clone(), proof: Some(proof), ..at };
        Ok(Self {
            conn,
            place,
            token,
            at,
            walk,
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

    /// Reads what is new. A window that does not fit is frozen where it ends.
    async fn next_window(&mut self, limit: Limit) -> Result<Page, StoreError> {
        let which = RowSelection { holds: &self.holds, left: None, most: self.most };
        let mut page = page::new_rows(&mut self.conn, &self.place.table, &self.at.prev, &which, limit).await?;
        let cur = page.snapshot.take().ok_or_else(|| not_now("reading the outbox", "no snapshot came"))?;
        self.expect_proof();
        match page.last_id().filter(|_| page.is_full()) {
            Some(last) => {
                self.walk = Some(WindowWalk::after(&mut self.conn, &self.place.table, last).await?);
                self.at.frozen = Some(Frozen { cur, last });
            }
            None => self.at.prev = cur,
        }
        Ok(page)
    }

    /// Reads the next page of the frozen window; the window ends with its walk.
    async fn next_page(&mut self, limit: Limit) -> Result<Page, StoreError> {
        let which = RowSelection { holds: &self.holds, left: None, most: self.most };
        let (Some(walk), Some(frozen)) = (self.walk.as_mut(), self.at.frozen.as_mut()) else {
            return Ok(Page::new(limit, self.most));
        };
        let window = (&self.at.prev, &frozen.cur);
        let page = walk.page(&mut self.conn, &self.place.table, window, &which, limit).await?;
        frozen.last = walk.last;
        if walk.is_over() {
            self.walk = None;
            self.at.prev.clone_from(&frozen.cur);
            self.at.frozen = None;
        }
        Ok(page)
    }

    /// What is read from here on needs another proof, and positions tell of it.
    fn expect_proof(&mut self) {
        if std::mem::take(&mut self.proven) {
            self.proof = self.proof.next();
            self.at.proof = Some(self.proof);
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

/// The position of a first start: everything visible now is one window, walked from the lowest id.
async fn beginning(
    conn: &mut PgConnection,
    table: &OutboxTable,
) -> Result<(ReadPosition, Option<WindowWalk>), StoreError> {
    let statement = "/* outboxd: current_snapshot */ select pg_current_snapshot()::text";
    let text = ask("reading the snapshot", sqlx::query_scalar::<_, String>(statement).fetch_one(&mut *conn)).await?;
    let cur: Snapshot = text.parse().map_err(|error| not_now("reading the snapshot", format!("{error}")))?;
    let walk = WindowWalk::from_the_lowest(conn, table).await?;
    let frozen = Some(Frozen { cur, last: walk.last });
    Ok((ReadPosition { frozen, ..ReadPosition::default() }, Some(walk)))
}

#[async_trait]
impl Reader for DeltaReader {
    fn held(&self) -> &[Held] {
        &self.stored_held
    }

    fn position(&self) -> Position {
        self.at.to_position()
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
        self.releases.load_at_most(bytes);
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        self.enter()?;
        let limit = Limit { records: limit.records.min(self.rows).max(1), ..limit };
        let turn = self.releases.turn(&self.holds);
        // Only a look at the present that found little says that there is no more.
        let looked = turn == Turn::Main && self.walk.is_none();
        let mut page = match turn {
            Turn::Release => {
                self.releases.page(&mut self.conn, &self.place.table, &self.holds, &self.at, limit).await?
            }
            Turn::Main if self.walk.is_some() => self.next_page(limit).await?,
            Turn::Main => self.next_window(limit).await?,
        };
        let full = page.is_full();
        self.adapt(&page, full);
        self.at.highest = self.at.highest.max(page.last_id().unwrap_or_default());
        page::load_wide(&mut self.conn, &self.place.table.outbox(), &self.place.table.columns(), &mut page).await?;
        let news = self.releases.conclude(&self.at, &mut self.holds);
        self.broken = false;
        Ok(Batch {
            records: page.records,
            unreadable: page.unreadable,
            end: self.at.to_position(),
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
