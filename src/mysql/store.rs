//! The store: settings, sessions, and the promises handed on to the modules that keep them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::MySqlConnection;
use tokio::sync::Mutex;

use crate::contract::{
    Backlog, DatabaseSettings, DeadLetters, DueLetter, Footprint, HeldLanes, Inspect, Leader, LeaseSession, LeaseStore,
    Operations, OutboxStore, Purge, Reader, ReplayPage, Steering, Store as Promises, StoreError, WakeSource,
};
use crate::mysql::address::Address;
use crate::mysql::leading::lease::{self, MySqlLease};
use crate::mysql::leading::wake::MySqlWake;
use crate::mysql::operating::footprint;
use crate::mysql::operating::inspect::{self, Sweep};
use crate::mysql::operating::operations;
use crate::mysql::operating::purge::{self, Purging};
use crate::mysql::operating::steering;
use crate::mysql::reading::reader::MySqlReader;
use crate::mysql::session::{ANSWER_TIMEOUT, BACKLOG_TIMEOUT, Job, Session, Slot, bounded};
use crate::mysql::settling::settle::{self, SettlingSlot};
use crate::mysql::settling::{dead, held, recover};
use crate::mysql::table::OutboxTable;
use crate::outbox::{
    DeadLetter, Held, HeldLane, Intent, Lane, Limit, Notify, Operation, OperationProgress, Orders, Position, Replay,
    Replayable, Settle, Settlement, Term, TopicPattern,
};

/// An outbox in MySQL or MariaDB. Holds at most one connection each for settling and for looking; every reading session,
/// lease session and wake source has its own.
pub struct Store {
    pub(super) settings: DatabaseSettings,
    pub(super) address: Arc<Address>,
    settling: Mutex<SettlingSlot>,
    looking: Slot,
    /// How far the round is that looks for forgotten rows.
    sweep: Mutex<Sweep>,
    /// How far the round is that removes old rows.
    purging: Mutex<Purging>,
}

impl Store {
    /// A store for these settings. Does not connect.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the URL cannot be read, or names no database.
    pub fn new(settings: DatabaseSettings) -> Result<Self, StoreError> {
        let address = Arc::new(Address::new(&settings.url, &settings.table)?);
        let (settling, looking) = (Mutex::default(), Slot::default());
        Ok(Self { settings, address, settling, looking, sweep: Mutex::default(), purging: Mutex::default() })
    }

    /// Works with the settling session.
    async fn settling<T>(
        &self,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.settling.lock().await.with(&self.address, work).await
    }

    /// Works with the session that looks.
    pub(super) async fn inspecting<T>(
        &self,
        work: impl AsyncFnOnce(&mut MySqlConnection, &OutboxTable) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let looking = async {
            let mut taken = self.looking.take(self.address.options(), Job::Inspect).await?;
            let done = work(&mut taken.session.conn, self.address.table()).await;
            // A term that is over leaves the session as it was.
            if matches!(done, Ok(_) | Err(StoreError::TermOver { .. })) {
                taken.give_back();
            }
            done
        };
        bounded("looking at the outbox", ANSWER_TIMEOUT, looking).await
    }

    /// Works with a session for an operator.
    pub(super) async fn operating<T>(
        &self,
        work: impl AsyncFnOnce(&mut MySqlConnection, &OutboxTable) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut session = self.address.connect(Job::Operate).await?;
        let working = work(&mut session.conn, self.address.table());
        bounded("doing what an operator asked for", ANSWER_TIMEOUT, working).await
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
        self.settling.lock().await.reader_opens();
        Ok(Box::new(MySqlReader::open(&self.address, self.settings.settle).await?))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        let settle = self.settings.settle;
        if settlement.is_empty() || settle == Settle::Checkpoint && !settlement.is_out_of_line() {
            return Ok(());
        }
        self.settling.lock().await.settle(&self.address, settle, settlement).await
    }

    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError> {
        let (table, settle) = (self.address.table(), self.settings.settle);
        let mut session = self.address.connect(Job::Read).await?;
        bounded("taking over the progress", BACKLOG_TIMEOUT, async {
            if let Some(position) = position {
                recover::recover(&mut session.conn, table, settle, term, position).await?;
            }
            let mut beyond = beyond.clone();
            beyond.set_out_of_line();
            if beyond.is_empty() {
                return Ok(());
            }
            settle::settle(&mut session.conn, table, settle, &beyond).await
        })
        .await
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError> {
        let session = self.address.connect(Job::Lease(ttl)).await?;
        Ok(Box::new(MySqlLease::new(session, self.address.table().clone(), holder, ttl)))
    }
}

#[async_trait]
impl Inspect for Store {
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError> {
        self.inspecting(async |conn, table| inspect::backlog(conn, table, count_limit).await).await
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        self.inspecting(async |conn, table| lease::leader(conn, table).await).await
    }

    async fn footprint(&self) -> Result<Footprint, StoreError> {
        self.inspecting(async |conn, table| footprint::footprint(conn, table).await).await
    }

    async fn bring_back_late(&self) -> Result<u64, StoreError> {
        let mut sweep = self.sweep.lock().await;
        let settle = self.settings.settle;
        self.inspecting(async |conn, table| inspect::bring_back_late(conn, table, settle, &mut sweep).await).await
    }

    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        let mut purging = self.purging.lock().await;
        let settle = self.settings.settle;
        self.inspecting(async |conn, table| purge::purge(conn, table, settle, &mut purging, term, retention).await)
            .await
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        let table = self.address.table();
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
        match self.settings.notify {
            Notify::Off => None,
            // Writers tell nothing here, whatever is set: the server does.
            Notify::Gated | Notify::Always => Some(Box::new(MySqlWake::new(Arc::clone(&self.address)))),
        }
    }
}
