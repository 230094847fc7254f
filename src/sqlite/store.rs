//! The store: the file, and trait impls that hand on to the files beside this one.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::SqliteConnection;
use tokio::sync::Mutex;

use crate::contract::{
    Backlog, DatabaseSettings, DeadLetters, DueLetter, Footprint, HeldLanes, Inspect, Leader, LeaseSession, LeaseStore,
    Operations, OutboxStore, Purge, Reader, ReplayPage, Steering, StoreError, WakeSource,
};
use crate::outbox::{
    DeadLetter, Held, HeldLane, Intent, Lane, Limit, Operation, OperationProgress, Orders, Position, Replay,
    Replayable, Settle, Settlement, Term, TopicPattern,
};
use crate::sqlite::connection::{ConnectionSlot, Durability, File};
use crate::sqlite::leading::lease::{self, SqliteLease};
use crate::sqlite::leading::wake::SqliteWake;
use crate::sqlite::operating::footprint;
use crate::sqlite::operating::inspect;
use crate::sqlite::operating::operations;
use crate::sqlite::operating::purge;
use crate::sqlite::operating::schema;
use crate::sqlite::operating::steering;
use crate::sqlite::reading::reader::SqliteReader;
use crate::sqlite::settling::dead;
use crate::sqlite::settling::held;
use crate::sqlite::settling::recover;
use crate::sqlite::settling::settle;
use crate::sqlite::table::OutboxTable;

/// An outbox in a SQLite file.
///
/// Connections: one for settling, one for gauges and purging, and one each for a reading session, a lease session
/// and an armed wake source.
#[derive(Debug)]
pub struct Store {
    pub(super) file: File,
    pub(super) table: OutboxTable,
    pub(super) settle: Settle,
    settling: ConnectionSlot,
    pub(super) chores: ConnectionSlot,
    /// Where the next round of purging begins.
    purged_to: Mutex<i64>,
    /// Where the next look for rows begins that became due behind the reader.
    swept_to: Mutex<i64>,
}

impl Store {
    /// Takes the settings in; connects to nothing.
    ///
    /// # Errors
    /// When the URL names no file, or the table a schema.
    pub fn new(settings: DatabaseSettings) -> Result<Self, StoreError> {
        let DatabaseSettings { url, table, settle, .. } = settings;
        let file = schema::file(url.expose(), &table)?;
        let (settling, chores) = (ConnectionSlot::default(), ConnectionSlot::default());
        let [purged_to, swept_to] = [0, 0].map(Mutex::new);
        Ok(Self { file, table: OutboxTable::named(&table), settle, settling, chores, purged_to, swept_to })
    }

    /// Works with a connection for an operator, whose changes are durable when they are acknowledged.
    pub(super) async fn operating<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        schema::check_file(&self.file)?;
        work(&mut self.file.connect(Durability::Flushed).await?).await
    }

    /// Works with the connection for chores.
    pub(super) async fn chore<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut chores = self.chores.take(&self.file).await?;
        let done = work(&mut chores.connection).await?;
        chores.give_back();
        Ok(done)
    }
}

impl crate::contract::Store for Store {
    fn wake(&self) -> Option<Box<dyn WakeSource>> {
        Some(Box::new(SqliteWake::new(self.file.clone())))
    }
}

#[async_trait]
impl OutboxStore for Store {
    async fn open(&self) -> Result<Box<dyn Reader>, StoreError> {
        Ok(Box::new(SqliteReader::open(&self.file, &self.table, self.settle).await?))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<(), StoreError> {
        if settlement.is_out_of_line() && !settlement.is_empty() {
            // Rare enough for a connection of its own, whose commits are flushed.
            let mut connection = self.file.connect(Durability::Flushed).await?;
            return settle::settle(&mut connection, &self.table, self.settle, settlement).await;
        }
        if settlement.is_empty() || self.settle == Settle::Checkpoint {
            return Ok(());
        }
        let mut settling = self.settling.take(&self.file).await?;
        settle::settle(&mut settling.connection, &self.table, self.settle, settlement).await?;
        settling.give_back();
        Ok(())
    }

    async fn recover(&self, term: Term, position: Option<&Position>, beyond: &Settlement) -> Result<(), StoreError> {
        let mut connection = self.file.connect(Durability::Flushed).await?;
        if let Some(position) = position {
            recover::recover(&mut connection, &self.table, self.settle, term, position).await?;
        }
        let mut beyond = beyond.clone();
        beyond.set_out_of_line();
        settle::settle(&mut connection, &self.table, self.settle, &beyond).await
    }
}

#[async_trait]
impl LeaseStore for Store {
    async fn lease(&self, holder: &str, ttl: Duration) -> Result<Box<dyn LeaseSession>, StoreError> {
        Ok(Box::new(SqliteLease::open(&self.file, &self.table, holder, ttl).await?))
    }
}

#[async_trait]
impl Inspect for Store {
    async fn backlog(&self, count_limit: u64) -> Result<Backlog, StoreError> {
        self.chore(async |connection| inspect::backlog(connection, &self.table, count_limit).await).await
    }

    async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        self.chore(async |connection| lease::leader(connection, &self.table).await).await
    }

    async fn footprint(&self) -> Result<Footprint, StoreError> {
        self.chore(async |connection| footprint::footprint(connection).await).await
    }

    async fn bring_back_late(&self) -> Result<u64, StoreError> {
        let mut swept_to = self.swept_to.lock().await;
        self.chore(async |connection| {
            inspect::bring_back_late(connection, &self.table, self.settle, &mut swept_to).await
        })
        .await
    }

    async fn purge(&self, term: Term, retention: Duration) -> Result<Purge, StoreError> {
        let walk = purge::PurgeScope { table: &self.table, settle: self.settle, retention };
        let mut cursor = self.purged_to.lock().await;
        self.chore(async |connection| purge::purge(connection, walk, term, &mut cursor).await).await
    }
}

#[async_trait]
impl DeadLetters for Store {
    async fn dead_letter(&self, letters: &[DeadLetter]) -> Result<(), StoreError> {
        // Rare enough for a connection of its own, whose commits are flushed.
        let mut connection = self.file.connect(Durability::Flushed).await?;
        dead::dead_letter(&mut connection, &self.table, letters).await
    }

    async fn due(&self, after: i64, limit: Limit) -> Result<Vec<DueLetter>, StoreError> {
        self.chore(async |connection| dead::due(connection, &self.table, after, limit).await).await
    }

    async fn delivered(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.chore(async |connection| dead::delivered(connection, &self.table, ids).await).await
    }

    async fn undeliverable(&self, id: i64, why: &str) -> Result<(), StoreError> {
        self.chore(async |connection| dead::undeliverable(connection, &self.table, id, why).await).await
    }
}

#[async_trait]
impl HeldLanes for Store {
    async fn held_lanes(&self) -> Result<Vec<HeldLane>, StoreError> {
        self.chore(async |connection| held::list(connection, &self.table).await).await
    }

    async fn request_release(&self, lanes: &[Lane], intent: &Intent) -> Result<u64, StoreError> {
        self.operating(async |connection| held::request(connection, &self.table, lanes, intent).await).await
    }

    async fn release_requests(&self) -> Result<Vec<Held>, StoreError> {
        self.chore(async |connection| held::requested(connection, &self.table).await).await
    }

    async fn grant_releases(&self, lanes: &[Lane]) -> Result<(), StoreError> {
        self.chore(async |connection| held::grant(connection, &self.table, lanes).await).await
    }
}

#[async_trait]
impl Steering for Store {
    async fn orders(&self) -> Result<Orders, StoreError> {
        self.chore(async |connection| steering::orders(connection, &self.table).await).await
    }

    async fn pause(
        &self,
        topics: &TopicPattern,
        until: Option<DateTime<Utc>>,
        intent: &Intent,
    ) -> Result<(), StoreError> {
        self.operating(async |connection| steering::pause(connection, &self.table, topics, until, intent).await).await
    }

    async fn resume(&self, topics: &TopicPattern, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |connection| steering::resume(connection, &self.table, topics, intent).await).await
    }

    async fn request_step_down(&self, term: Term, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |connection| steering::request_step_down(connection, &self.table, term, intent).await)
            .await
    }

    async fn attend(&self, holder: &str, is_standby: bool) -> Result<(), StoreError> {
        self.chore(async |connection| steering::attend(connection, &self.table, holder, is_standby).await).await
    }

    async fn standbys(&self) -> Result<Vec<String>, StoreError> {
        self.chore(async |connection| steering::standbys(connection, &self.table).await).await
    }
}

#[async_trait]
impl Operations for Store {
    async fn replayable(&self, replay: &Replay, look_at: u64) -> Result<Replayable, StoreError> {
        self.operating(async |connection| {
            operations::replayable(connection, &self.table, self.settle, replay, look_at).await
        })
        .await
    }

    async fn start_replay(&self, replay: &Replay, intent: &Intent) -> Result<i64, StoreError> {
        self.operating(async |connection| operations::start_replay(connection, &self.table, replay, intent).await).await
    }

    async fn operations(&self, limit: u32) -> Result<Vec<Operation>, StoreError> {
        self.chore(async |connection| operations::list(connection, &self.table, limit).await).await
    }

    async fn cancel_operation(&self, id: i64, intent: &Intent) -> Result<bool, StoreError> {
        self.operating(async |connection| operations::cancel(connection, &self.table, id, intent).await).await
    }

    async fn next_operation(&self) -> Result<Option<Operation>, StoreError> {
        self.chore(async |connection| operations::next(connection, &self.table).await).await
    }

    async fn replay_page(&self, operation: &Operation, limit: Limit) -> Result<ReplayPage, StoreError> {
        self.chore(async |connection| {
            operations::replay_page(connection, &self.table, self.settle, operation, limit).await
        })
        .await
    }

    async fn note_progress(&self, term: Term, id: i64, progress: &OperationProgress) -> Result<bool, StoreError> {
        self.chore(async |connection| operations::note_progress(connection, &self.table, term, id, progress).await)
            .await
    }
}
