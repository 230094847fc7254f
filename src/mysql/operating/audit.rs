//! Looking at what committed, for audits.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use sqlx::mysql::MySqlRow;
use uuid::Uuid;

use crate::contract::{Audit, AuditedRow, KnownRow, Removable, SetAside, StoreError};
use crate::mysql::errors::classify;
use crate::mysql::reading::holds::covered;
use crate::mysql::reading::position::{ReadPosition, is_read};
use crate::mysql::session::{Session, ask, id_list, sql};
use crate::mysql::settling::checkpoint;
use crate::mysql::table::{Columns, OutboxTable};
use crate::mysql::values;
use crate::outbox::Settle;

/// An audit over one connection.
pub(crate) struct MySqlAudit {
    session: Session,
    table: OutboxTable,
    since: DateTime<Utc>,
    /// What it calls read counts as published that no held lane covers, marked or not.
    published: Option<ReadPosition>,
}

impl MySqlAudit {
    pub(crate) async fn open(
        mut session: Session,
        table: OutboxTable,
        settle: Settle,
        since: Option<DateTime<Utc>>,
    ) -> Result<Self, StoreError> {
        let stored = checkpoint::load(&mut session.conn, &table).await?;
        let published = stored.settling(settle).cloned();
        Ok(Self { session, table, since: since.unwrap_or(DateTime::UNIX_EPOCH), published })
    }
}

#[async_trait]
impl Audit for MySqlAudit {
    async fn rows(&mut self, after: i64, limit: usize) -> Result<Vec<AuditedRow>, StoreError> {
        let doing = "reading rows";
        let held = checkpoint::load(&mut self.session.conn, &self.table).await?.held;
        let columns = self.table.columns();
        let Columns { id, topic, created_at, .. } = &columns;
        let text = format!(
            "/* outboxd: audit_rows */ select {id}, {topic}, {sent} or {is_read} and not {covered}
             from {outbox} force index (primary) where {id} > {after} and {created_at} >= {since} order by {id} limit {limit}",
            sent = columns.sent(),
            is_read = is_read(self.published.as_ref(), id),
            covered = covered(&held, &columns),
            outbox = self.table.outbox(),
            since = values::time(self.since)
        );
        let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(&mut self.session.conn)).await?;
        let read = |row: &MySqlRow| -> Result<AuditedRow, sqlx::Error> {
            let topic = row.try_get::<&str, _>(1).unwrap_or_default().into();
            Ok(AuditedRow { id: row.try_get(0)?, topic, is_published: row.try_get(2)? })
        };
        rows.iter().map(|row| read(row).map_err(|error| classify(doing, error))).collect()
    }

    async fn known(&mut self, ids: &[i64]) -> Result<Vec<KnownRow>, StoreError> {
        let doing = "looking rows up";
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let Columns { id, event_id, topic, partition, .. } = self.table.columns();
        let part = |table: &str, is_dead: u8| {
            format!(
                "select {id}, cast({event_id} as char), {topic}, {partition}, {is_dead} from {table} where {id} in ({})",
                id_list(ids.iter().copied())
            )
        };
        let text = format!(
            "/* outboxd: audit_known */ {} union all {}",
            part(&self.table.outbox(), 0),
            part(&self.table.dead(), 1)
        );
        let rows = ask(doing, sqlx::raw_sql(sql(text)).fetch_all(&mut self.session.conn)).await?;
        let read = |row: &MySqlRow| -> Result<KnownRow, sqlx::Error> {
            // A row that cannot be read was not published as it is: nothing in Kafka has what stands in for its parts.
            let event_id = row.try_get(1).ok().and_then(|event_id| Uuid::try_parse(event_id).ok());
            Ok(KnownRow {
                id: row.try_get(0)?,
                event_id: event_id.unwrap_or_default(),
                topic: row.try_get::<&str, _>(2).unwrap_or_default().into(),
                partition: row.try_get(3).unwrap_or_default(),
                is_dead: row.try_get(4)?,
            })
        };
        rows.iter().map(|row| read(row).map_err(|error| classify(doing, error))).collect()
    }

    async fn removable(&mut self, retention: Duration) -> Result<Removable, StoreError> {
        let doing = "asking what was removed";
        let conn = &mut self.session.conn;
        let stored = checkpoint::load(conn, &self.table).await?;
        let text = format!(
            "/* outboxd: audit_removable */
             select (select min({id}) - 1 from {outbox}), utc_timestamp(6), (select purged_before from {checkpoint})",
            id = self.table.columns().id,
            outbox = self.table.outbox(),
            checkpoint = self.table.checkpoint()
        );
        let row = ask(doing, sqlx::raw_sql(sql(text)).fetch_one(conn)).await?;
        let read = || -> Result<(Option<i64>, DateTime<Utc>, Option<DateTime<Utc>>), sqlx::Error> {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
        };
        let (below_all, now, by_an_operator) = read().map_err(|error| classify(doing, error))?;
        let retention = TimeDelta::from_std(retention).unwrap_or(TimeDelta::MAX);
        let written_before = now.checked_sub_signed(retention).unwrap_or(DateTime::UNIX_EPOCH);
        let written_before = by_an_operator.map_or(written_before, |before| before.max(written_before));
        let position = stored.at.map_or(0, |at| at.floor());
        Ok(Removable { up_to: below_all.unwrap_or(position), written_before })
    }

    async fn set_aside(&mut self) -> Result<SetAside, StoreError> {
        let text = format!(
            "/* outboxd: audit_set_aside */ select (select count(*) from {}), (select count(*) from {})",
            self.table.dead(),
            self.table.lanes()
        );
        let counted = sqlx::query_as::<_, (i64, i64)>(sql(text)).fetch_one(&mut self.session.conn);
        let (dead, held) = ask("counting what is set aside", counted).await?;
        Ok(SetAside { dead_letters: dead.unsigned_abs(), held_lanes: held.unsigned_abs() })
    }
}
