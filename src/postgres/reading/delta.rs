//! What is new: the exact snapshot delta.
//!
//! A row is new if it is visible now and was not visible in the snapshot before. So nothing is lost that
//! commits late, nothing is read before it is committed, and rows of transactions that did not overlap come in
//! the order of their commits. A window between two snapshots that does not fit one page is *frozen*: it is paged by
//! id until it is empty, and only then the next one begins.

use sqlx::PgConnection;

use crate::contract::StoreError;
use crate::outbox::{Limit, Proof};
use crate::postgres::errors::not_now;
use crate::postgres::reading::page::{self, RowSelection, Window};
use crate::postgres::reading::position::{Frozen, ReadPosition, Snapshot};
use crate::postgres::reading::rows::Page;
use crate::postgres::reading::walk::WindowWalk;
use crate::postgres::session::ask;
use crate::postgres::table::OutboxTable;

/// How far the main flow of a session is, and how it goes on.
#[derive(Debug)]
pub(crate) struct SnapshotDelta {
    at: ReadPosition,
    /// The walk through the frozen window, while there is one.
    walk: Option<WindowWalk>,
}

impl SnapshotDelta {
    /// Goes on from a stored position, or begins with everything that is visible now.
    pub(crate) async fn begin(
        conn: &mut PgConnection,
        table: &OutboxTable,
        stored: Option<ReadPosition>,
    ) -> Result<Self, StoreError> {
        let Some(at) = stored else { return Self::from_the_lowest(conn, table).await };
        let walk = match at.frozen.as_ref().map(|frozen| frozen.last) {
            Some(last) => Some(WindowWalk::after(conn, table, last).await?),
            None => None,
        };
        Ok(Self { at, walk })
    }

    /// A first start: everything visible now is one window, walked from the lowest id.
    async fn from_the_lowest(conn: &mut PgConnection, table: &OutboxTable) -> Result<Self, StoreError> {
        let statement = "/* outboxd: current_snapshot */ select pg_current_snapshot()::text";
        let text =
            ask("reading the snapshot", sqlx::query_scalar::<_, String>(statement).fetch_one(&mut *conn)).await?;
        let cur: Snapshot = text.parse().map_err(|error| not_now("reading the snapshot", format!("{error}")))?;
        let walk = WindowWalk::from_the_lowest(conn, table).await?;
        let frozen = Some(Frozen { cur, last: walk.last });
        Ok(Self { at: ReadPosition { frozen, ..ReadPosition::default() }, walk: Some(walk) })
    }

    /// How far it is.
    pub(crate) fn position(&self) -> &ReadPosition {
        &self.at
    }

    /// Positions are of this cluster from here on, and need this proof.
    pub(crate) fn expect_proof(&mut self, system: &str, proof: Proof) {
        self.at.system = system.to_owned();
        self.at.proof = Some(proof);
    }

    /// Takes note of the highest id that was read, by the main flow or a release.
    pub(crate) fn note_highest(&mut self, id: i64) {
        self.at.highest = self.at.highest.max(id);
    }

    /// Whether it is inside a window: what was committed by now is not looked at before that is at its end.
    pub(crate) fn is_in_a_window(&self) -> bool {
        self.walk.is_some()
    }

    /// Reads on: what is new, or the next page of the window that is open.
    pub(crate) async fn read(
        &mut self,
        conn: &mut PgConnection,
        table: &OutboxTable,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        match self.walk.take() {
            Some(walk) => self.next_page(walk, conn, table, which, limit).await,
            None => self.next_window(conn, table, which, limit).await,
        }
    }

    /// Reads what is new. A window that does not fit is frozen where it ends.
    async fn next_window(
        &mut self,
        conn: &mut PgConnection,
        table: &OutboxTable,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let mut page = page::new_rows(conn, table, &self.at.prev, which, limit).await?;
        let cur = page.snapshot.take().ok_or_else(|| not_now("reading the outbox", "no snapshot came"))?;
        match page.last_id().filter(|_| page.is_full()) {
            Some(last) => {
                self.walk = Some(WindowWalk::after(conn, table, last).await?);
                self.at.frozen = Some(Frozen { cur, last });
            }
            None => self.at.prev = cur,
        }
        Ok(page)
    }

    /// Reads the next page of the frozen window; the window ends with its walk.
    async fn next_page(
        &mut self,
        mut walk: WindowWalk,
        conn: &mut PgConnection,
        table: &OutboxTable,
        which: &RowSelection<'_>,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let Some(frozen) = self.at.frozen.as_mut() else { return Ok(Page::new(limit, which.most)) };
        let window = Window { since: &self.at.prev, until: &frozen.cur };
        let page = walk.page(conn, table, window, which, limit).await?;
        frozen.last = walk.last;
        if walk.is_over() {
            self.at.prev.clone_from(&frozen.cur);
            self.at.frozen = None;
        } else {
            self.walk = Some(walk);
        }
        Ok(page)
    }
}
