//! Releases of held lanes: what was left out comes by id, and only then the lane flows with the others again.
//!
//! The lane has a small position of its own. In rounds it reads up to the next snapshot at which the main flow
//! has no window open; when both stand at the same snapshot, the lane has nothing left that the main flow left out,
//! and windows include it from there on. Pages of the two alternate, so that neither waits for the other.

use std::collections::VecDeque;

use sqlx::PgConnection;

use crate::contract::StoreError;
use crate::outbox::{Lane, Limit, Table};
use crate::postgres::holds::Holds;
use crate::postgres::page::{self, Which};
use crate::postgres::rows::Page;
use crate::postgres::snapshot::{At, Snapshot};
use crate::postgres::walk::Walk;

/// Pages of a release for each page of the main flow, plus one.
const CYCLE: u32 = 3;

/// Whose page is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The main flow's.
    Main,
    /// The release's.
    Release,
}

/// What a batch has to tell of releases.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Lanes whose release begins.
    pub opened: Vec<Lane>,
    /// Lanes whose release is complete.
    pub closed: Vec<Lane>,
}

/// The releases under way; the first is worked on.
#[derive(Debug, Default)]
pub(super) struct Releases {
    queue: VecDeque<Release>,
    pages: u32,
}

#[derive(Debug)]
struct Release {
    lane: Lane,
    /// What was visible in it has been read.
    read: Snapshot,
    round: Option<Round>,
    begun: bool,
    told: bool,
}

/// A window of one lane.
#[derive(Debug)]
struct Round {
    cur: Snapshot,
    /// Its walk by id, unless it may fit one page.
    walk: Option<Walk>,
}

impl Releases {
    /// Adds a lane, unless its release is under way.
    pub(super) fn begin(&mut self, lane: &Lane) {
        if !self.queue.iter().any(|release| release.lane == *lane) {
            let (lane, read) = (lane.clone(), Snapshot::nothing());
            self.queue.push_back(Release { lane, read, round: None, begun: false, told: false });
        }
    }

    /// Forgets a lane's release: it is held anew.
    pub(super) fn abort(&mut self, lane: &Lane) {
        self.queue.retain(|release| release.lane != *lane);
    }

    /// Whether nothing is being released.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whose page is next, given where the main flow is and what is held.
    pub(super) fn turn(&mut self, at: &At, holds: &Holds) -> Turn {
        let Some(release) = self.queue.front() else { return Turn::Main };
        let level = release.begun && release.round.is_none() && release.read == *at.boundary();
        if level || holds.held_from(&release.lane).is_none() {
            return Turn::Main;
        }
        self.pages = (self.pages + 1) % CYCLE;
        if self.pages == 0 { Turn::Main } else { Turn::Release }
    }

    /// Reads the next page of the first release.
    pub(super) async fn page(
        &mut self,
        conn: &mut PgConnection,
        table: &Table,
        holds: &Holds,
        at: &At,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let Some(release) = self.queue.front_mut() else { return Ok(Page::default()) };
        let Some(from_id) = holds.held_from(&release.lane) else { return Ok(Page::default()) };
        let which = Which { without: holds.to_json_without(&release.lane), lane: Some((&release.lane, from_id)) };
        release.begun = true;
        let mut round = match release.round.take() {
            Some(round) => round,
            // The first round reads everything, so it walks; a later one reads what came during the one before.
            None if release.read.is_nothing() => {
                Round { cur: at.boundary().clone(), walk: Some(Walk::after(conn, table, from_id - 1).await?) }
            }
            None => Round { cur: at.boundary().clone(), walk: None },
        };
        let window = (&release.read, &round.cur);
        let page = match round.walk.as_mut() {
            Some(walk) => walk.page(conn, table, window, &which, limit).await?,
            None => {
                let page = page::window_by_xid(conn, table, window, from_id - 1, &which, limit).await?;
                if let Some(last) = page.last_id().filter(|_| page.is_full(limit)) {
                    round.walk = Some(Walk::after(conn, table, last).await?);
                }
                page
            }
        };
        if round.walk.as_ref().is_none_or(Walk::is_over) {
            release.read = round.cur;
        } else {
            release.round = Some(round);
        }
        Ok(page)
    }

    /// Ends the releases that stand where the main flow stands, and says what there is to tell.
    pub(super) fn conclude(&mut self, at: &At, holds: &mut Holds) -> News {
        let mut news = News::default();
        while let Some(release) = self.queue.front_mut() {
            let held = holds.held_from(&release.lane).is_some();
            if !release.told && (release.begun || !held) {
                release.told = true;
                news.opened.push(release.lane.clone());
            }
            let level = release.begun && release.round.is_none() && at.frozen.is_none() && release.read == at.prev;
            if held && !level {
                break;
            }
            holds.free(&release.lane);
            news.closed.push(release.lane.clone());
            self.queue.pop_front();
        }
        news
    }
}
