//! Looking at what committed, for audits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use crate::contract::{Audit, AuditedRow, KnownRow, Removable, SetAside, StoreError};
use crate::outbox::Settle;
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::told;
use crate::postgres::session::{ask, sql};
use crate::postgres::settling::checkpoint::{self, Stored};
use crate::postgres::table::{Columns, OutboxTable};

/// Ids in one statement at most: what fits into one record of TLS. Each further one can take forty milliseconds longer,
/// since the driver does not switch Nagle's algorithm off.
const IDS_PER_STATEMENT: usize = 1_000;

/// An audit over one session.
pub(crate) struct PgAudit {
    conn: PgConnection,
    table: OutboxTable,
    settle: Settle,
    since: Option<DateTime<Utc>>,
    stored: Stored,
    topics: HashSet<Arc<str>>,
}

impl PgAudit {
    pub(crate) async fn open(
        mut conn: PgConnection,
        table: OutboxTable,
        settle: Settle,
        since: Option<DateTime<Utc>>,
    ) -> Result<Self, StoreError> {
        let stored = checkpoint::load(&mut conn, &table).await?;
        Ok(Self { conn, table, settle, since, stored, topics: HashSet::new() })
    }

    async fn find_few(&mut self, ids: &[i64]) -> Result<Vec<KnownRow>, StoreError> {
        let Columns { id, event_id, topic, partition, .. } = self.table.columns();
        let text = format!(
            "/* outboxd: audit_known */
             select {id}, {event_id}, {topic}, {partition}, false from {outbox} where {id} = any($1)
             union all
             select id, event_id, topic, partition, true from {dead} where id = any($1)",
            outbox = self.table.outbox(),
            dead = self.table.dead()
        );
        let rows = ask("looking rows up", sqlx::query(sql(text)).bind(ids).fetch_all(&mut self.conn)).await?;
        let known = |row: &sqlx::postgres::PgRow| KnownRow {
            id: row.get(0),
            // A row that cannot be read was not published as it is: nothing in Kafka has what stands in for its parts.
            event_id: row.try_get(1).unwrap_or_default(),
            topic: shared(&mut self.topics, row.try_get(2).unwrap_or_default()),
            partition: row.get(3),
            is_dead: row.get(4),
        };
        Ok(rows.iter().map(known).collect())
    }
}

/// One allocation for each topic instead of one for each row.
fn shared(topics: &mut HashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(topic) = topics.get(name) {
        return Arc::clone(topic);
    }
    let topic: Arc<str> = name.into();
    topics.insert(Arc::clone(&topic));
    topic
}

#[async_trait]
impl Audit for PgAudit {
    async fn rows(&mut self, after: i64, limit: usize) -> Result<Vec<AuditedRow>, StoreError> {
        let columns = self.table.columns();
        let Columns { id, topic, created_at, sent_at, .. } = &columns;
        let text = format!(
            "/* outboxd: audit_rows */ select {id}, {topic}, {sent_at} is not null or not {left} and {is_read}
             from {outbox} where {id} > $1 and {created_at} >= $2 order by {id} limit $3",
            left = left_to_a_lane(&columns, "$4"),
            is_read = told::is_read(&columns, 5),
            outbox = self.table.outbox()
        );
        let statement = sqlx::query(sql(text))
            .bind(after)
            .bind(self.since.unwrap_or(DateTime::UNIX_EPOCH))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(Holds::new(&self.stored.held).to_told_json().map(Json));
        let statement = told::bind(statement, self.stored.settling(self.settle));
        let rows = ask("reading rows", statement.fetch_all(&mut self.conn)).await?;
        let row = |row: &sqlx::postgres::PgRow| AuditedRow {
            id: row.get(0),
            topic: shared(&mut self.topics, row.try_get(1).unwrap_or_default()),
            is_published: row.get::<Option<bool>, _>(2).unwrap_or_default(),
        };
        Ok(rows.iter().map(row).collect())
    }

    async fn known(&mut self, ids: &[i64]) -> Result<Vec<KnownRow>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_STATEMENT) {
            found.extend(self.find_few(ids).await?);
        }
        Ok(found)
    }

    async fn removable(&mut self, retention: Duration) -> Result<Removable, StoreError> {
        let text = format!(
            "/* outboxd: audit_removable */ select coalesce((select purged_to from {checkpoint}), 0),
                 greatest(clock_timestamp() - $1 * interval '1 second', (select purged_before from {checkpoint}))",
            checkpoint = self.table.checkpoint()
        );
        let statement = sqlx::query(sql(text)).bind(retention.as_secs_f64());
        let row = ask("asking what was removed", statement.fetch_one(&mut self.conn)).await?;
        Ok(Removable { up_to: row.get(0), written_before: row.get(1) })
    }

    async fn set_aside(&mut self) -> Result<SetAside, StoreError> {
        let text = format!(
            "/* outboxd: audit_set_aside */ select (select count(*) from {}), (select count(*) from {} where not settled)",
            self.table.dead(),
            self.table.held()
        );
        let row = ask("counting what is set aside", sqlx::query(sql(text)).fetch_one(&mut self.conn)).await?;
        let count = |column: usize| row.get::<i64, _>(column).unsigned_abs();
        Ok(SetAside { dead_letters: count(0), held_lanes: count(1) })
    }
}
