//! What the next batch is: everything after the last id, and what is left of lanes being released.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::contract::{Checkpoint, Reader, StoreError};
use crate::outbox::{
    Batch, Held, HeldChanges, Lane, Limit, Position, Proof, ProvenPosition, Record, Settle, Term, Unreadable,
};
use crate::reading::{Filling, Fit, HeldBack};
use crate::sqlite::connection::{Durability, File};
use crate::sqlite::errors::classify;
use crate::sqlite::reading::position;
use crate::sqlite::reading::rows::{Read, Rows};
use crate::sqlite::settling::checkpoint::{self, StoredPositions};
use crate::sqlite::settling::held;
use crate::sqlite::settling::recover;
use crate::sqlite::table::{Columns, OutboxTable};

/// A reading session. One writer at a time gives out ids and commits them before the next begins, so a row that
/// is not visible yet has a higher id than all that are: what is above the last id read is what is new.
#[derive(Debug)]
pub(crate) struct SqliteReader {
    connection: SqliteConnection,
    table: OutboxTable,
    settle: Settle,
    /// The held lanes that are stored.
    held: Vec<Held>,
    /// What is left out; a release has the id up to which the lane's rows were looked at.
    held_back: HeldBack<i64>,
    last: i64,
    /// Rows that are larger are not loaded.
    most: usize,
    /// While a lane is being released, batches of it and of what is new take turns.
    turn_of_release: bool,
    /// The proof that what was read needs before it is published.
    proof: Proof,
    /// Whether it was made.
    proven: bool,
}

impl SqliteReader {
    pub(crate) async fn open(file: &File, table: &OutboxTable, settle: Settle) -> Result<Self, StoreError> {
        let mut connection = file.connect(Durability::Flushed).await?;
        let doing = |error| classify("reading the checkpoint", error);
        let mut snapshot = connection.begin().await.map_err(doing)?;
        let last = checkpoint::stored_position(&mut snapshot, table).await.map_err(doing)?;
        let held = held::list(&mut snapshot, table).await?.into_iter().map(|lane| lane.held).collect::<Vec<_>>();
        snapshot.rollback().await.map_err(doing)?;
        let held_back = HeldBack::new(&held);
        let (table, proof) = (table.clone(), Proof::first());
        let (most, turn_of_release, proven) = (usize::MAX, false, false);
        Ok(Self { connection, table, settle, held, held_back, last, most, turn_of_release, proof, proven })
    }

    async fn read_new(&mut self, page: &mut Page, highest: i64) -> Result<(), StoreError> {
        let columns = self.table.columns();
        let Columns { id, .. } = &columns;
        let selected = columns.selected();
        let unsent = columns.unsent();
        let sql = format!(
            "/* outboxd: fetch */ select {selected} from {} not indexed
             where {id} > ? and {id} <= ? and {unsent} order by {id}",
            self.table.outbox()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.last).bind(highest);
        let mut rows = query.fetch(&mut self.connection);
        let mut reader = Rows::new(self.most);
        while let Some(row) = rows.try_next().await.map_err(|error| classify("reading the outbox", error))? {
            let read = reader.read(&row)?;
            let id = read.id();
            if !read.is_kept_back(&self.held_back, None) && page.take(read) == Fit::Full {
                return Ok(());
            }
            self.last = id;
        }
        self.last = highest;
        Ok(())
    }

    /// Reads on in the lane being released, up to where the session is. Returns the lane when that is reached.
    async fn read_left_out(&mut self, page: &mut Page) -> Result<Option<Lane>, StoreError> {
        let Some(mut release) = self.held_back.take_release() else { return Ok(None) };
        let columns = self.table.columns();
        let Columns { id, topic, key, partition, .. } = &columns;
        let sql = format!(
            "/* outboxd: fetch_left_out */ select {selected} from {outbox}
             where {id} > ?1 and {id} <= ?2 and {unsent} and {topic} = ?3 and case
                when ?5 is not null then {partition} = ?5
                when ?4 is not null then {key} = ?4 and {partition} is null
                else true end
             order by {id}",
            selected = columns.selected(),
            unsent = columns.unsent(),
            outbox = self.table.outbox()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(release.progress).bind(self.last).bind(release.lane.topic());
        let query = query.bind(release.lane.key()).bind(release.lane.partition());
        let mut rows = query.fetch(&mut self.connection);
        let mut reader = Rows::new(self.most);
        while let Some(row) = rows.try_next().await.map_err(|error| classify("reading a held lane", error))? {
            let read = reader.read(&row)?;
            let id = read.id();
            if !read.is_kept_back(&self.held_back, Some(&release.lane)) && page.take(read) == Fit::Full {
                drop(rows);
                self.held_back.go_on(release);
                return Ok(None);
            }
            release.progress = id;
        }
        drop(rows);
        Ok(Some(self.held_back.end(release)))
    }
}

/// A batch being filled.
struct Page {
    filling: Filling,
    rows: Vec<Read>,
}

impl Page {
    fn new(limit: Limit) -> Self {
        Self { filling: Filling::of(limit), rows: Vec::new() }
    }

    fn take(&mut self, row: Read) -> Fit {
        let fit = self.filling.take(row.footprint());
        if fit == Fit::Fits {
            self.rows.push(row);
        }
        fit
    }

    /// Loads what was left out of large rows. One that is gone by now was settled.
    async fn load(
        self,
        connection: &mut SqliteConnection,
        table: &OutboxTable,
    ) -> Result<(Vec<Record>, Vec<Unreadable>), StoreError> {
        let outbox = table.outbox();
        let columns = table.columns();
        let mut records = Vec::with_capacity(self.rows.len());
        let mut unreadable = Vec::new();
        for row in self.rows {
            match row.load(connection, &outbox, &columns).await? {
                Some(Ok(record)) => records.push(record),
                Some(Err(row)) => unreadable.push(row),
                None => {}
            }
        }
        Ok((records, unreadable))
    }
}

async fn highest_id(connection: &mut SqliteConnection, table: &OutboxTable) -> Result<i64, sqlx::Error> {
    let outbox = table.outbox();
    let Columns { id, .. } = table.columns();
    let sql = format!("/* outboxd: highest_id */ select coalesce(max({id}), 0) from {outbox}");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await
}

#[async_trait]
impl Reader for SqliteReader {
    fn held(&self) -> &[Held] {
        &self.held
    }

    fn position(&self) -> Position {
        Position::new(ProvenPosition { at: self.last, proof: Some(self.proof) }.to_string())
    }

    fn load_at_most(&mut self, bytes: usize) {
        self.most = bytes;
    }

    async fn fetch(&mut self, limit: Limit) -> Result<Batch, StoreError> {
        let doing = |error| classify("reading the outbox", error);
        // What is read from here on needs another proof, and positions tell of it.
        if std::mem::take(&mut self.proven) {
            self.proof = self.proof.next();
        }
        let highest = highest_id(&mut self.connection, &self.table).await.map_err(doing)?;
        let opened = Vec::from_iter(self.held_back.begin_release(|held| held.from_id - 1));
        let mut closed = Vec::new();
        let mut page = Page::new(limit);
        self.turn_of_release = self.held_back.has_release() && (!self.turn_of_release || highest <= self.last);
        if self.turn_of_release {
            closed.extend(self.read_left_out(&mut page).await?);
        } else if highest > self.last {
            self.read_new(&mut page, highest).await?;
        }
        let more = self.held_back.is_releasing() || self.last < highest;
        let (records, unreadable) = page.load(&mut self.connection, &self.table).await?;
        Ok(Batch { records, unreadable, end: self.position(), more, token: None, opened, closed })
    }

    async fn prove(&mut self, term: Term) -> Result<(), StoreError> {
        if !self.proven {
            recover::prove(&mut self.connection, &self.table, term, self.proof).await?;
            self.proven = true;
        }
        Ok(())
    }

    fn hold(&mut self, held: Held) {
        self.held_back.hold(held::as_stored(&held));
    }

    fn release(&mut self, lane: &Lane) {
        self.held_back.release(lane);
    }

    async fn save(&mut self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        let at = StoredPositions {
            settled: position::parse(&checkpoint.position)?.at,
            read: position::parse(&checkpoint.read_to)?.at,
        };
        let held = checkpoint.held.iter().map(held::as_stored).collect::<Vec<_>>();
        let changes = HeldChanges::between(&self.held, &held);
        checkpoint::save(&mut self.connection, &self.table, self.settle, checkpoint, &at, &changes).await?;
        self.held = held;
        Ok(())
    }
}
