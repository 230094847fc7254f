//! The store: settings, sessions, and the promises handed on to the modules that keep them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::sync::Mutex;

use crate::contract::{
    Backlog, DatabaseSettings, DeadLetters, DueLetter, Footprint, HeldLanes, Inspect, Leader, LeaseSession, LeaseStore,
    Operations, OutboxStore, Purge, Reader, ReplayPage, Steering, Store as Promises, StoreError, WakeSource,
};
use crate::outbox::{
    DeadLetter, Held, HeldLane, Intent, Lane, Limit, Notify, Operation, OperationProgress, Orders, Position, ReadToken,
    Replay, Replayable, Settle, Settlement, Term, TopicPattern,
};
use crate::postgres::address::Address;
use crate::postgres::leading::lease::{self, PgLease};
use crate::postgres::leading::wake::PgWake;
use crate::postgres::operating::footprint;
use crate::postgres::operating::inspect::{self, Sweep};
use crate::postgres::operating::operations;
use crate::postgres::operating::purge::{self, Purging};
use crate::postgres::operating::steering;
use crate::postgres::reading::reader::PgReader;
use crate::postgres::session::{ANSWER_TIMEOUT, Guc, INDEX_ONLY_PLANS, PATIENT, bounded, configure_ttl, table_oid};
use crate::postgres::settling::checkpoint;
use crate::postgres::settling::dead;
use crate::postgres::settling::held;
use crate::postgres::settling::rebase;
use crate::postgres::settling::recover;
use crate::postgres::settling::settle;
use crate::postgres::settling::settle::{Settling, SettlingSlot};
use crate::postgres::table::OutboxTable;

/// An outbox in PostgreSQL. Holds at most one connection each for settling and for looking; every reading session,
/// lease session and wake source has its own.
pub struct Store {
    pub(super) settings: DatabaseSettings,
    pub(super) address: Arc<Address>,
    settling: Mutex<SettlingSlot>,
    looking: Mutex<Option<Looking>>,
}

/// The session that looks at the table, and how far its rounds are.
struct Looking {
    conn: PgConnection,
    sweep: Sweep,
    purging: Purging,
}

/// The reader's and the leader's sessions commit with a flush, whatever their role's default is.
const FLUSHED: Guc = ("synchronous_commit", "on");

impl Store {
    /// A store for these settings. Does not connect.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the URL cannot be read.
    pub fn new(settings: DatabaseSettings) -> Result<Self, StoreError> {
        let address = Arc::new(Address::new(&settings.url, &settings.table)?);
        Ok(Self { settings, address, settling: Mutex::default(), looking: Mutex::new(None) })
    }

    async fn place(&self, conn: &mut PgConnection) -> Result<checkpoint::CheckpointTarget, StoreError> {
        let system = rebase::system_identifier(conn).await?;
        let table = self.address.table().await?.clone();
        Ok(checkpoint::CheckpointTarget { table, system, settle: self.settings.settle })
    }

    /// The token of what a reader reads: the generation of the settling session, which begins before the reader.
    async fn token(&self) -> Result<Option<ReadToken>, StoreError> {
        if self.settings.settle == Settle::Checkpoint {
            return Ok(None);
        }
        self.settling.lock().await.reader_opens();
        let token = match self.settling(Settling::token).await {
            Ok(token) => token,
            // One that was lost has left its slot by now.
            Err(_) => self.settling(Settling::token).await?,
        };
        Ok(Some(token))
    }

    /// Works with the settling session.
    async fn settling<T>(
        &self,
        work: impl AsyncFnOnce(&mut Settling) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.settling.lock().await.with(&self.address, self.settings.settle, work).await
    }

    /// Works with the session that looks.
    pub(super) async fn inspecting<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection, &OutboxTable) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let table = self.address.table().await?;
        let mut place = self.looking.lock().await;
        let mut looking = self.looking(&mut place).await?;
        let done = work(&mut looking.conn, table).await?;
        *place = Some(looking);
        Ok(done)
    }

    /// Works with a session for an operator, whose changes are durable when they are acknowledged.
    pub(super) async fn operating<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection, &OutboxTable) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("operate", &[FLUSHED]).await?;
        bounded("doing what an operator asked for", ANSWER_TIMEOUT, work(&mut conn, table)).await
    }

    async fn looking(&self, place: &mut Option<Looking>) -> Result<Looking, StoreError> {
        match place.take() {
            Some(looking) => Ok(looking),
            None => {
                let conn = self.address.connect("inspect", &INDEX_ONLY_PLANS).await?;
                Ok(Looking { conn, sweep: Sweep::default(), purging: Purging::default() })
            }
        }
    }
}

/// The options hold the password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
impl OutboxStore for Store {
    async fn open(&self) -> Result<Box<dyn Reader>, StoreError> {
        let settings: Vec<Guc> = INDEX_ONLY_PLANS.into_iter().chain(PATIENT).chain([FLUSHED]).collect();
        // Together, since nothing is published meanwhile; but nothing is read before its generation has begun.
        let (token, mut conn) = tokio::try_join!(self.token(), self.address.connect("reader", &settings))?;
        let place = self.place(&mut conn).await?;
        let mut stored = checkpoint::load(&mut conn, &place.table).await?;
        if rebase::is_foreign(&mut conn, &place.table, &stored, &place.system).await? {
            stored = rebase::rebase(&mut conn, &place).await?;
        }
        Ok(Box::new(PgReader::begin(conn, place, stored, token).await?))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        if settlement.is_empty() {
            return Ok(());
        }
        let (table, settle) = (self.address.table().await?, self.settings.settle);
        if settlement.is_out_of_line() {
            let flushed = async |session: &mut Settling| {
                settle::settle_flushed(&mut session.conn, table, settle, settlement).await
            };
            return self.settling(flushed).await;
        }
        if settle == Settle::Checkpoint {
            return Ok(());
        }
        let mut place = self.settling.lock().await;
        let settled = async |session: &mut Settling| session.settle(table, settle, settlement).await;
        place.with(&self.address, settle, settled).await?;
        place.settled(settlement);
        Ok(())
    }

    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError> {
        let settings: Vec<Guc> = INDEX_ONLY_PLANS.into_iter().chain(PATIENT).chain([FLUSHED]).collect();
        let mut conn = self.address.connect("reader", &settings).await?;
        let place = self.place(&mut conn).await?;
        recover::recover(&mut conn, &place, term, position, beyond).await
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError> {
        let table = self.address.table().await?;
        let mut conn = self.address.connect("lease", &[FLUSHED]).await?;
        configure_ttl(&mut conn, ttl).await?;
        let oid = table_oid(&mut conn, table).await?;
        Ok(Box::new(PgLease::new(conn, table.clone(), oid, holder, ttl)))
    }
}

#[async_trait]
impl Inspect for Store {
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError> {
        let counting =
            async |conn: &mut PgConnection, table: &OutboxTable| inspect::backlog(conn, table, count_limit).await;
        bounded("counting the backlog", ANSWER_TIMEOUT, self.inspecting(counting)).await
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        self.inspecting(async |conn, table| lease::leader(conn, table).await).await
    }

    async fn footprint(&self) -> Result<Footprint, StoreError> {
        self.inspecting(async |conn, table| footprint::footprint(conn, table).await).await
    }

    async fn bring_back_late(&self) -> Result<u64, StoreError> {
        let mut place = self.looking.lock().await;
        let mut looking = self.looking(&mut place).await?;
        let Looking { conn, sweep, .. } = &mut looking;
        let (table, settle) = (self.address.table().await?, self.settings.settle);
        let late = inspect::bring_back_late(conn, table, settle, sweep);
        let late = bounded("looking for forgotten rows", ANSWER_TIMEOUT, late).await?;
        *place = Some(looking);
        Ok(late)
    }

    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        let mut place = self.looking.lock().await;
        let mut looking = self.looking(&mut place).await?;
        let Looking { conn, purging, .. } = &mut looking;
        let (table, settle) = (self.address.table().await?, self.settings.settle);
        let purged =
            bounded("purging", ANSWER_TIMEOUT, purge::purge(conn, table, settle, purging, term, retention)).await;
        // A term that is over leaves the session as it was.
        if matches!(purged, Ok(_) | Err(StoreError::TermOver { .. })) {
            *place = Some(looking);
        }
        purged
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        let table = self.address.table().await?;
        self.settling(async |session| dead::dead_letter(&mut session.conn, table, letters).await).await
    }

    async fn due(&self, after: i64, limit: Limit) -> Result<Vec<DueLetter>, StoreError> {
        self.inspecting(async |conn, table| dead::due(conn, table, after, limit).await).await
    }

    async fn delivered(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| dead::delivered(conn, table, ids).await).await
    }

    async fn undeliverable(&self, id: i64, why: &str) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| dead::undeliverable(conn, table, id, why).await).await
    }
}

#[async_trait]
impl HeldLanes for Store {
    async fn held_lanes(&self) -> Result<Vec<HeldLane>, StoreError> {
        self.inspecting(async |conn, table| held::list(conn, table).await).await
    }

    async fn request_release(&self, lanes: &[Lane], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |conn, table| held::request(conn, table, lanes, intent).await).await
    }

    async fn release_requests(&self) -> Result<Vec<Held>, StoreError> {
        self.inspecting(async |conn, table| held::requested(conn, table).await).await
    }

    async fn grant_releases(&self, lanes: &[Lane]) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| held::grant(conn, table, lanes).await).await
    }
}

#[async_trait]
impl Steering for Store {
    async fn orders(&self) -> Result<Orders, StoreError> {
        self.inspecting(async |conn, table| steering::orders(conn, table).await).await
    }

    async fn pause(
        &self,
        topics: &TopicPattern,
        until: Option<DateTime<Utc>>,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        self.operating(async |conn, table| steering::pause(conn, table, topics, until, intent).await).await
    }

    async fn resume(&self, topics: &TopicPattern, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |conn, table| steering::resume(conn, table, topics, intent).await).await
    }

    async fn request_step_down(&self, term: Term, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |conn, table| steering::request_step_down(conn, table, term, intent).await).await
    }

    async fn attend(&self, holder: &str, is_standby: bool) -> Result<(), StoreError> {
        self.inspecting(async |conn, table| steering::attend(conn, table, holder, is_standby).await).await
    }

    async fn standbys(&self) -> Result<Vec<String>, StoreError> {
        self.inspecting(async |conn, table| steering::standbys(conn, table).await).await
    }
}

#[async_trait]
impl Operations for Store {
    async fn replayable(&self, replay: &Replay, look_at: u64) -> Result<Replayable, StoreError> {
        self.operating(async |conn, table| {
            operations::replayable(conn, table, self.settings.settle, replay, look_at).await
        })
        .await
    }

    async fn start_replay(&self, replay: &Replay, intent: &Intent) -> Result<i64, StoreError> {
        self.operating(async |conn, table| operations::start_replay(conn, table, replay, intent).await).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>, StoreError> {
        self.inspecting(async |conn, table| operations::list(conn, table, limit).await).await
    }

    async fn cancel_operation(&self, id: i64, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |conn, table| operations::cancel(conn, table, id, intent).await).await
    }

    async fn next_operation(&self) -> Result<Option<Operation>, StoreError> {
        self.inspecting(async |conn, table| operations::next(conn, table).await).await
    }

    async fn replay_page(&self, operation: &Operation, limit: Limit) -> Result<ReplayPage, StoreError> {
        self.inspecting(async |conn, table| {
            operations::replay_page(conn, table, self.settings.settle, operation, limit).await
        })
        .await
    }

    async fn note_progress(&self, term: Term, id: i64, progress: &OperationProgress) -> Result<bool, StoreError> {
        self.inspecting(async |conn, table| operations::note_progress(conn, table, term, id, progress).await).await
    }
}

impl Promises for Store {
    fn wake(&self) -> Option<Box<dyn WakeSource>> {
        let always = match self.settings.notify {
            Notify::Off => return None,
            Notify::Gated => false,
            Notify::Always => true,
        };
        Some(Box::new(PgWake::new(Arc::clone(&self.address), always)))
    }
}
