//! Looking at what committed, for audits.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};
use uuid::Uuid;

use crate::contract::{Audit, AuditedRow, KnownRow, Removable, SetAside, StoreError};
use crate::outbox::Settle;
use crate::sqlite::errors::classify;
use crate::sqlite::reading::holds::covered;
use crate::sqlite::table::{Columns, OutboxTable};

/// An audit over one connection.
pub(crate) struct SqliteAudit {
    connection: SqliteConnection,
    table: OutboxTable,
    since: DateTime<Utc>,
    /// Up to here rows count as published that no held lane covers, marked or not.
    published_to: i64,
}

impl SqliteAudit {
    pub(crate) async fn open(
        mut connection: SqliteConnection,
        table: OutboxTable,
        settle: Settle,
        since: Option<DateTime<Utc>>,
    ) -> Result<Self, StoreError> {
        let column = match settle {
            Settle::Mark | Settle::Delete => "settled_to",
            Settle::Checkpoint => "position",
        };
        let sql = format!("/* outboxd: audited_position */ select {column} from {}", table.checkpoint());
        let published_to = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await;
        let published_to = published_to.map_err(|error| classify("reading the checkpoint", error))?;
        Ok(Self { connection, table, since: since.unwrap_or(DateTime::UNIX_EPOCH), published_to })
    }
}

#[async_trait]
impl Audit for SqliteAudit {
    async fn rows(&mut self, after: i64, limit: usize) -> Result<Vec<AuditedRow>, StoreError> {
        let doing = |error| classify("reading rows", error);
        let Columns { id, topic, created_at, sent_at, .. } = self.table.columns_of("o");
        let sql = format!(
            "/* outboxd: audit_rows */ select {id}, {topic}, {sent_at} is not null or {id} <= ?4 and not {covered}
             from {outbox} as o where {id} > ?1 and julianday({created_at}) >= julianday(?2) order by {id} limit ?3",
            covered = covered(&self.table),
            outbox = self.table.outbox()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(self.since);
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).bind(self.published_to);
        let rows = query.fetch_all(&mut self.connection).await.map_err(doing)?;
        rows.iter()
            .map(|row| {
                Ok(AuditedRow {
                    id: row.try_get(0).map_err(doing)?,
                    topic: row.try_get::<&str, _>(1).unwrap_or_default().into(),
                    is_published: row.try_get(2).map_err(doing)?,
                })
            })
            .collect()
    }

    async fn known(&mut self, ids: &[i64]) -> Result<Vec<KnownRow>, StoreError> {
        let doing = |error| classify("looking rows up", error);
        let Columns { id, event_id, topic, partition, .. } = self.table.columns();
        let sql = format!(
            "/* outboxd: audit_known */ with wanted (id) as materialized (select value from json_each(?))
             select {id}, {event_id}, {topic}, {partition}, false from {outbox} where {id} in (select id from wanted)
             union all
             select id, event_id, topic, partition, true from {dead} where id in (select id from wanted)",
            outbox = self.table.outbox(),
            dead = self.table.dead()
        );
        let ids = serde_json::to_string(ids).expect("numbers are always JSON");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut self.connection).await.map_err(doing)?;
        rows.iter()
            .map(|row| {
                // A row that cannot be read was not published as it is: nothing in Kafka has what stands in for its parts.
                let event_id = row.try_get(1).ok().and_then(|event_id| Uuid::try_parse(event_id).ok());
                Ok(KnownRow {
                    id: row.try_get(0).map_err(doing)?,
                    event_id: event_id.unwrap_or_default(),
                    topic: row.try_get::<&str, _>(2).unwrap_or_default().into(),
                    partition: row.try_get(3).unwrap_or_default(),
                    is_dead: row.try_get(4).map_err(doing)?,
                })
            })
            .collect()
    }

    async fn removable(&mut self, retention: Duration) -> Result<Removable, StoreError> {
        let doing = |error| classify("asking what was removed", error);
        let sql = format!(
            "/* outboxd: audit_removable */
             select coalesce((select min({id}) - 1 from {outbox}), (select position from {checkpoint})),
                 strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), (select purged_before from {checkpoint})",
            id = self.table.columns().id,
            outbox = self.table.outbox(),
            checkpoint = self.table.checkpoint()
        );
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await.map_err(doing)?;
        let now: DateTime<Utc> = row.try_get(1).map_err(doing)?;
        let retention = TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
        let written_before = now.checked_sub_signed(retention).unwrap_or(DateTime::UNIX_EPOCH);
        let by_an_operator: Option<DateTime<Utc>> = row.try_get(2).map_err(doing)?;
        let written_before = by_an_operator.map_or(written_before, |before| before.max(written_before));
        Ok(Removable { up_to: row.try_get(0).map_err(doing)?, written_before })
    }

    async fn set_aside(&mut self) -> Result<SetAside, StoreError> {
        let sql = format!(
            "/* outboxd: audit_set_aside */ select (select count(*) from {}), (select count(*) from {})",
            self.table.dead(),
            self.table.held()
        );
        let counted = sqlx::query_as::<_, (i64, i64)>(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await;
        let (dead, held) = counted.map_err(|error| classify("counting what is set aside", error))?;
        Ok(SetAside { dead_letters: dead.unsigned_abs(), held_lanes: held.unsigned_abs() })
    }
}
