//! A reading session: what is new of the main flow, in turn with what is released of held lanes.
//!
//! What is new are the ids above the last one that was read, and those below it that were missing then; [`GapList`] knows
//! which. Rows that are left out are passed all the same: their lane brings them once it is released.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};
use tokio::time::Instant;

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::mysql::address::Address;
use crate::mysql::errors::{classify, not_now};
use crate::mysql::reading::forget::Prober;
use crate::mysql::reading::page::{self, Page};
use crate::mysql::reading::position::ReadPosition;
use crate::mysql::reading::release::Progress;
use crate::mysql::reading::rows::{Read, Rows, WIDTH};
use crate::mysql::session::{BACKLOG_TIMEOUT, Job, bounded, sql};
use crate::mysql::settling::checkpoint::{self, CheckpointTarget};
use crate::mysql::settling::recover;
use crate::outbox::{Batch, Held, HeldChanges, Lane, Limit, Position, Proof, Settle, Term};
use crate::reading::{Fit, GapList, HeldBack, Release};

const READING: &str = "reading the outbox";

/// Pages of a release for each page of the main flow: with one only it might never catch up with what is written to the
/// lane meanwhile.
const PAGES_PER_RELEASE: u32 = 2;

/// Looks for what is new in one call, while all that is found is left out.
const LOOKS_AT_MOST: u32 = 8;

/// Rows that are asked for where those before were all left out.
const ROWS_LEFT_OUT_AT_ONCE: usize = 10_000;

/// Ids that a statement names: with tens of thousands the server would scan the table.
const IDS_PER_STATEMENT: usize = 2_000;

/// A reading session.
pub(crate) struct MySqlReader {
    conn: MySqlConnection,
    prober: Prober,
    address: Arc<Address>,
    target: CheckpointTarget,
    /// How far the main flow is.
    list: GapList,
    /// The held lanes that are stored.
    stored_held: Vec<Held>,
    held_back: HeldBack<Progress>,
    /// Pages of a release since one of the main flow.
    pages: u32,
    /// How many rows are asked for at once: fewer while they are large.
    rows: usize,
    /// Rows that are larger are not loaded.
    most: usize,
    /// The proof that what was read needs before it is published.
    proof: Proof,
    /// Whether it was made.
    proven: bool,
    /// Set while a statement is under way: a session that failed or was cut short is not to be used again.
    broken: bool,
}

/// What a statement has brought into a page.
#[derive(Default)]
struct Brought {
    /// The ids of its rows, as far as the page had room.
    ids: Vec<i64>,
    /// Whether a row was left for the next page.
    is_cut: bool,
}

/// How a look for what is new ended.
enum Found {
    /// All that is new was found.
    All,
    /// There may be more rows.
    Full,
    /// More rows came than the page had room for.
    Cut,
}

impl MySqlReader {
    /// Begins at what is stored, or at the beginning.
    pub(crate) async fn open(address: &Arc<Address>, settle: Settle) -> Result<Self, StoreError> {
        let session = address.connect(Job::Read).await?;
        let mut conn = session.conn;
        let table = address.table().clone();
        let stored = checkpoint::load(&mut conn, &table).await?;
        let ReadPosition { last, gaps, .. } = stored.at.unwrap_or_default();
        Ok(Self {
            prober: Prober::open(address, session.id).await?,
            conn,
            address: Arc::clone(address),
            target: CheckpointTarget { table, settle, begins_anew: stored.begins_anew },
            // How old gaps are is not known any more: it counts from now.
            list: GapList::restore(last, gaps, Instant::now()),
            held_back: HeldBack::new(&stored.held),
            stored_held: stored.held,
            pages: 0,
            rows: usize::MAX,
            most: usize::MAX,
            proof: Proof::first(),
            proven: false,
            broken: false,
        })
    }

    /// Refuses a session that failed, and marks it as failed until the statements that follow succeed.
    fn enter(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(not_now(READING, "the reading session failed before: open another"));
        }
        Ok(())
    }

    /// Forgets gaps, and looks whether ids go on where they were.
    async fn look_behind(&mut self) -> Result<(), StoreError> {
        self.prober.forget(&self.address, &mut self.list).await?;
        if self.prober.do_ids_go_on(&self.address, self.list.last()).await? {
            return Ok(());
        }
        let table = &self.target.table;
        tracing::warn!(%table, "the ids of the outbox begin anew: it was truncated, or the server lost commits");
        Err(not_now(READING, "ids begin anew: reading begins anew, too"))
    }

    /// Reads what is new. Rows that are left out fill no page: where there is nothing else, more of them are passed at once.
    async fn read_until_found(&mut self, page: &mut Page, rows: usize) -> Result<Found, StoreError> {
        let mut rows = rows;
        for _ in 0..LOOKS_AT_MOST {
            let found = self.read_new(page, rows).await?;
            if page.len() > 0 || !matches!(found, Found::Full) {
                return Ok(found);
            }
            rows = rows.saturating_mul(4).clamp(1, ROWS_LEFT_OUT_AT_ONCE.max(rows));
        }
        Ok(Found::Full)
    }

    /// Reads what is new, so many rows at most.
    async fn read_new(&mut self, page: &mut Page, rows: usize) -> Result<Found, StoreError> {
        if self.list.read_again() > 0 {
            return self.read_new_among_others(page, rows).await;
        }
        let text = page::new_rows(&self.target.table, &self.list, rows);
        let brought = self.bring_new(text, page).await?;
        let found = match brought.is_cut {
            true => Found::Cut,
            false if brought.ids.len() >= rows => Found::Full,
            false => Found::All,
        };
        self.list.take(brought.ids, Instant::now());
        Ok(found)
    }

    /// As [`read_new`](Self::read_new), where a statement finds rows that were read already: it looks for the ids alone.
    async fn read_new_among_others(&mut self, page: &mut Page, rows: usize) -> Result<Found, StoreError> {
        let most = rows.saturating_add(usize::try_from(self.list.read_again()).unwrap_or(usize::MAX));
        let text = page::new_ids(&self.target.table, &self.list, most);
        let ids = page::ids(&mut self.conn, READING, text).await?;
        let is_whole = ids.len() < most;
        let mut new: Vec<i64> = ids.into_iter().filter(|id| self.list.is_missing(*id)).collect();
        let wanted = rows.min(IDS_PER_STATEMENT);
        let mut found = if is_whole && new.len() <= wanted { Found::All } else { Found::Full };
        new.truncate(wanted);
        if !new.is_empty() {
            let brought = self.bring_new(page::by_ids(&self.target.table, &new), page).await?;
            if brought.is_cut {
                found = Found::Cut;
                let end = brought.ids.last().copied().unwrap_or(i64::MIN);
                new.retain(|id| *id <= end);
            }
        }
        // Those that are gone by now count as read: they were settled.
        self.list.take(new, Instant::now());
        Ok(found)
    }

    /// Brings rows into a page that were not read before. Leaves out those of held lanes, and notes them for the release that
    /// is under way.
    async fn bring_new(&mut self, text: String, page: &mut Page) -> Result<Brought, StoreError> {
        let mut release = self.held_back.take_release();
        let mut brought = Brought::default();
        let mut reader = Rows::new(self.most);
        let mut rows = sqlx::raw_sql(sql(text)).fetch(&mut self.conn);
        while let Some(row) = rows.try_next().await.map_err(|error| classify(READING, error))? {
            let read = reader.read(&row)?;
            let id = read.id();
            if is_unsent(&row)? {
                if read.is_kept_back(&self.held_back, None) {
                    note(&mut release, &read, &self.held_back);
                } else if page.take(read) == Fit::Full {
                    brought.is_cut = true;
                    break;
                }
            }
            brought.ids.push(id);
        }
        drop(rows);
        if let Some(release) = release {
            self.held_back.go_on(release);
        }
        Ok(brought)
    }

    /// Reads on in the lane being released. Returns the lane once nothing is left of it that the main flow has passed.
    async fn read_left_out(&mut self, page: &mut Page, rows: usize) -> Result<Option<Lane>, StoreError> {
        let Some(mut release) = self.held_back.take_release() else { return Ok(None) };
        match release.progress.step() {
            Some((after, end)) => self.walk(&mut release, page, after, end, rows).await?,
            None => self.bring_noted(&mut release, page, rows).await?,
        }
        if release.progress.is_over() {
            return Ok(Some(self.held_back.end(release)));
        }
        self.held_back.go_on(release);
        Ok(None)
    }

    /// A step of the walk over what the main flow had passed when the release began.
    async fn walk(
        &mut self,
        release: &mut Release<Progress>,
        page: &mut Page,
        after: i64,
        end: i64,
        rows: usize,
    ) -> Result<(), StoreError> {
        let text = page::rows_of_lane(&self.target.table, &release.lane, after, end, rows);
        let brought = self.bring_left_out(text, release, page, Progress::walks).await?;
        let last = brought.ids.last().copied();
        if brought.is_cut || brought.ids.len() >= rows {
            release.progress.walked_to(last.unwrap_or(after));
            return Ok(());
        }
        release.progress.walked_to(end);
        if last.is_none() && release.progress.step().is_some() {
            // Ids may be missing from here on, as many as there are.
            let next = page::first_after(&mut self.conn, &self.target.table, end).await?;
            release.progress.walked_to(next.map_or(i64::MAX, |next| next - 1));
        }
        Ok(())
    }

    /// Brings what the main flow has left out since the release began.
    async fn bring_noted(
        &mut self,
        release: &mut Release<Progress>,
        page: &mut Page,
        rows: usize,
    ) -> Result<(), StoreError> {
        while page.len() < rows {
            let ids = release.progress.next_noted(IDS_PER_STATEMENT.min(rows - page.len()));
            let Some(&last) = ids.last() else { break };
            let brought =
                self.bring_left_out(page::by_ids(&self.target.table, &ids), release, page, Progress::is_noted).await?;
            if brought.is_cut {
                release.progress.noted_came_up_to(brought.ids.last().copied().unwrap_or_default());
                break;
            }
            release.progress.noted_came_up_to(last);
        }
        Ok(())
    }

    /// Brings rows into a page that were left out of the main flow, as far as this step of the release brings them.
    async fn bring_left_out(
        &mut self,
        text: String,
        release: &Release<Progress>,
        page: &mut Page,
        brings: impl Fn(&Progress, i64) -> bool,
    ) -> Result<Brought, StoreError> {
        let mut brought = Brought::default();
        let mut reader = Rows::new(self.most);
        let mut rows = sqlx::raw_sql(sql(text)).fetch(&mut self.conn);
        while let Some(row) = rows.try_next().await.map_err(|error| classify("reading a held lane", error))? {
            let read = reader.read(&row)?;
            let id = read.id();
            let is_wanted = is_unsent(&row)?
                && brings(&release.progress, id)
                && read.is_of(&release.lane)
                && !read.is_kept_back(&self.held_back, Some(&release.lane));
            if is_wanted && page.take(read) == Fit::Full {
                brought.is_cut = true;
                break;
            }
            brought.ids.push(id);
        }
        Ok(brought)
    }

    /// Asks for as many rows as fitted, where not all fitted, and for more again once they do: what does not fit was sent
    /// for nothing.
    fn adapt(&mut self, found: &Found, taken: usize) {
        match found {
            Found::All => {}
            Found::Full => self.rows = self.rows.saturating_mul(2),
            Found::Cut => self.rows = taken.max(1),
        }
    }

    async fn next(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        self.look_behind().await?;
        // What is read from here on needs another proof, and positions tell of it.
        if std::mem::take(&mut self.proven) {
            self.proof = self.proof.next();
        }
        let Self { held_back, list, .. } = self;
        let opened = Vec::from_iter(held_back.begin_release(|held| Progress::begin(held, list)));
        let rows = limit.records.min(self.rows).max(1);
        let mut page = Page::new(limit);
        let mut closed = Vec::new();
        let is_release = self.held_back.has_release() && self.pages < PAGES_PER_RELEASE;
        let is_full = if is_release {
            self.pages += 1;
            closed.extend(self.read_left_out(&mut page, rows).await?);
            true
        } else {
            self.pages = 0;
            let found = self.read_until_found(&mut page, rows).await?;
            self.adapt(&found, page.len());
            !matches!(found, Found::All)
        };
        let (records, unreadable) = page.load(&mut self.conn, &self.target.table).await?;
        let more = is_full || self.held_back.is_releasing();
        Ok(Batch { records, unreadable, end: self.position(), more, token: None, opened, closed })
    }
}

/// Notes a row for the release under way, if it is left out for that one's lane alone.
fn note(release: &mut Option<Release<Progress>>, read: &Read, held_back: &HeldBack<Progress>) {
    if let Some(release) = release
        && read.is_of(&release.lane)
        && !read.is_kept_back(held_back, Some(&release.lane))
    {
        release.progress.note(read.id());
    }
}

/// Whether the row is not marked as sent, which is told behind the columns of a record.
fn is_unsent(row: &MySqlRow) -> Result<bool, StoreError> {
    let is_unsent = row.try_get_unchecked::<i64, _>(WIDTH).map_err(|error| classify(READING, error))?;
    Ok(is_unsent != 0)
}

#[async_trait]
impl Reader for MySqlReader {
    fn held(&self) -> &[Held] {
        &self.stored_held
    }

    fn position(&self) -> Position {
        ReadPosition::of(&self.list, Some(self.proof)).to_position()
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        self.enter()?;
        let batch = bounded(READING, BACKLOG_TIMEOUT, self.next(limit)).await?;
        self.broken = false;
        Ok(batch)
    }

    async fn prove(&mut self, term: Term) -> Result<(), StoreError> {
        if self.proven {
            return Ok(());
        }
        self.enter()?;
        let proven = recover::prove(&mut self.conn, &self.target.table, term, self.proof).await;
        self.broken = !matches!(proven, Ok(()) | Err(StoreError::TermOver { .. }));
        self.proven = proven.is_ok();
        proven
    }

    fn hold(&mut self, held: Held) {
        self.held_back.hold(held);
    }

    fn release(&mut self, lane: &Lane) {
        self.held_back.release(lane);
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.enter()?;
        let held = &checkpoint.held;
        let mut changes = HeldChanges::between(&self.stored_held, held);
        if self.target.begins_anew {
            // What is stored of the lanes tells of ids that are other rows' by now.
            changes.held = held.iter().collect();
        }
        let saved = checkpoint::save(&mut self.conn, &self.target, checkpoint, &changes).await;
        // A term that is over leaves the session as it was: the transaction was rolled back in good order.
        self.broken = !matches!(saved, Ok(()) | Err(StoreError::TermOver { .. }));
        if saved.is_ok() {
            self.target.begins_anew = false;
            self.stored_held.clone_from(held);
        }
        saved
    }
}
