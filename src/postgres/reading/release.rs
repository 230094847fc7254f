//! Releases of held lanes: what was left out comes by id, and only then the lane flows with the others again.
//!
//! The lane has a position of its own, which follows that of the main flow in rounds: each reads what is left of the lane
//! up to where the main flow is by then, and never beyond, because what committed late below `from_id` comes by the main
//! flow, and goes first. Pages of the two alternate, so that neither waits for the other. When both stand at the same
//! position, the lane has nothing left that the main flow left out, and the main flow includes it from there on.
//!
//! A lane inside a held topic is not released before the topic: all that is left of it would be the topic's.

use std::collections::VecDeque;

use sqlx::PgConnection;

use crate::contract::StoreError;
use crate::outbox::{Lane, Limit};
use crate::postgres::reading::holds::Holds;
use crate::postgres::reading::page::{self, Left, RowSelection, Window};
use crate::postgres::reading::position::{ReadPosition, Snapshot};
use crate::postgres::reading::rows::Page;
use crate::postgres::reading::walk::WindowWalk;
use crate::postgres::table::OutboxTable;

/// Pages of a release for each page of the main flow, in its first round. Each further round has twice as many, so that it
/// catches up with the main flow however much is written to the lane meanwhile.
const PAGES_PER_RELEASE: u32 = 2;

/// Whose page is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The main flow's.
    Main,
    /// The release's.
    Release,
}

/// What a batch has to tell of releases.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Lanes whose release begins.
    pub opened: Vec<Lane>,
    /// Lanes whose release is complete.
    pub closed: Vec<Lane>,
}

/// The releases under way; the first that may be is worked on.
#[derive(Debug)]
pub(crate) struct Releases {
    queue: VecDeque<Release>,
    /// Pages of releases since one of the main flow.
    pages: u32,
    /// Rows that are larger are not loaded.
    most: usize,
}

#[derive(Debug)]
struct Release {
    lane: Lane,
    /// What is left of the lane has come as far as this calls it read; nothing before the first round is over.
    read: Option<ReadPosition>,
    round: Option<Round>,
    rounds: u32,
    begun: bool,
    told: bool,
}

/// What is read of one lane up to where the main flow was when the round began.
#[derive(Debug)]
struct Round {
    upto: ReadPosition,
    /// What is visible in it does not lead to rows of the round.
    since: Snapshot,
    /// Its walk by id, unless it may fit one page.
    walk: Option<WindowWalk>,
}

impl Round {
    /// The first round may read everything, and one inside the window of the one before has its ids, so they walk. Others
    /// are led by what became visible since.
    async fn begin(
        conn: &mut PgConnection,
        table: &OutboxTable,
        read: Option<&ReadPosition>,
        from_id: i64,
        upto: &ReadPosition,
    ) -> Result<Self, StoreError> {
        let last = |at: &ReadPosition| at.frozen.as_ref().map_or(0, |frozen| frozen.last);
        let walk = match read.filter(|read| !read.prev.is_nothing() || read.is_in_the_window_of(upto)) {
            None => Some(WindowWalk::after(conn, table, from_id - 1).await?),
            Some(read) if read.is_in_the_window_of(upto) => {
                Some(WindowWalk::between(last(read).max(from_id - 1), last(upto)))
            }
            Some(_) => None,
        };
        let since = read.filter(|_| walk.is_none()).map_or_else(Snapshot::nothing, |read| read.prev.clone());
        Ok(Self { upto: upto.clone(), since, walk })
    }
}

impl Release {
    fn of(lane: &Lane) -> Self {
        Self { lane: lane.clone(), read: None, round: None, rounds: 0, begun: false, told: false }
    }

    /// Whether nothing is left of the lane that the main flow has passed.
    fn is_level_with(&self, at: &ReadPosition) -> bool {
        self.round.is_none() && self.read.as_ref().is_some_and(|read| read.is_level_with(at))
    }

    /// Whether it must wait for another: the lane's topic is held.
    fn must_wait(&self, holds: &Holds) -> bool {
        let topic = Lane::topic_of(self.lane.topic());
        self.lane != topic && holds.held_from(&self.lane).is_some() && holds.held_from(&topic).is_some()
    }
}

impl Default for Releases {
    fn default() -> Self {
        Self { queue: VecDeque::new(), pages: 0, most: usize::MAX }
    }
}

impl Releases {
    /// From now on, loads no row that is larger.
    pub(crate) fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
    }

    /// Adds a lane, unless its release is under way.
    pub(crate) fn begin(&mut self, lane: &Lane) {
        if !self.queue.iter().any(|release| release.lane == *lane) {
            self.queue.push_back(Release::of(lane));
        }
    }

    /// Forgets a lane's release: it is held anew.
    pub(crate) fn abort(&mut self, lane: &Lane) {
        self.queue.retain(|release| release.lane != *lane);
    }

    /// Whether there is a release to work on.
    pub(crate) fn are_under_way(&self, holds: &Holds) -> bool {
        self.current(holds).is_some()
    }

    fn current(&self, holds: &Holds) -> Option<usize> {
        self.queue.iter().position(|release| !release.must_wait(holds))
    }

    /// Whose page is next, given what is held.
    pub(crate) fn turn(&mut self, holds: &Holds) -> Turn {
        let current = self.current(holds).map(|current| &self.queue[current]);
        let Some(release) = current.filter(|release| holds.held_from(&release.lane).is_some()) else {
            return Turn::Main;
        };
        self.pages += 1;
        if self.pages <= PAGES_PER_RELEASE.saturating_mul(2_u32.saturating_pow(release.rounds)) {
            return Turn::Release;
        }
        self.pages = 0;
        Turn::Main
    }

    /// Reads the next page of the release at hand.
    pub(crate) async fn page(
        &mut self,
        conn: &mut PgConnection,
        table: &OutboxTable,
        holds: &Holds,
        at: &ReadPosition,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let current = self.current(holds).map(|current| &mut self.queue[current]);
        let Some(release) = current else { return Ok(Page::new(limit, self.most)) };
        let Some(from_id) = holds.held_from(&release.lane) else { return Ok(Page::new(limit, self.most)) };
        release.begun = true;
        let mut round = match release.round.take() {
            Some(round) => round,
            None => Round::begin(conn, table, release.read.as_ref(), from_id, at).await?,
        };
        let window = Window { since: &round.since, until: round.upto.boundary() };
        let without = [holds.held_after(&release.lane), release.read.as_ref()];
        let left = Left { lane: &release.lane, from_id, without, upto: &round.upto };
        let which = RowSelection { holds, left: Some(left), most: self.most };
        let page = match round.walk.as_mut() {
            Some(walk) => walk.page(conn, table, window, &which, limit).await?,
            None => {
                let page = page::window_by_xid(conn, table, window, from_id - 1, &which, limit).await?;
                if let Some(last) = page.last_id().filter(|_| page.is_full()) {
                    round.walk = Some(WindowWalk::after(conn, table, last).await?);
                }
                page
            }
        };
        if round.walk.as_ref().is_none_or(WindowWalk::is_over) {
            release.read = Some(round.upto);
            release.rounds += 1;
        } else {
            release.round = Some(round);
        }
        Ok(page)
    }

    /// Ends the releases that stand where the main flow stands, and says what there is to tell.
    pub(crate) fn conclude(&mut self, at: &ReadPosition, holds: &mut Holds) -> News {
        let mut news = News::default();
        while let Some(current) = self.current(holds) {
            let release = &mut self.queue[current];
            let held = holds.held_from(&release.lane).is_some();
            if !release.told && (release.begun || !held) {
                release.told = true;
                news.opened.push(release.lane.clone());
            }
            if held && !release.is_level_with(at) {
                break;
            }
            holds.free(&release.lane);
            news.closed.push(release.lane.clone());
            self.queue.remove(current);
        }
        news
    }
}
