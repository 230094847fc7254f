//! Recording deliveries.

use sqlx::postgres::{PgConnectOptions, PgQueryResult};
use sqlx::{Connection, PgConnection};

use crate::contract::StoreError;
use crate::outbox::{Settle, Settlement, Table};
use crate::postgres::errors::classify;
use crate::postgres::session::{Guc, INDEX_ONLY_PLANS, ask, connect, missing, sql, table_oid};

/// Settlements need no flush of their own: the next stored checkpoint flushes the log up to itself. What a crash of
/// the database forgets in between is delivered again.
const UNFLUSHED: Guc = ("synchronous_commit", "off");

/// The session that settles.
pub(super) struct Settling {
    pub(super) conn: PgConnection,
    /// Ends with the session: a crash, after which ids may come again, takes it along.
    era: u64,
    table: Relation,
}

/// A table and the file it is in, by which one that was truncated or made anew is told from what it was.
#[derive(Clone, Copy)]
struct Relation {
    oid: i64,
    filenode: i64,
}

impl Settling {
    pub(super) async fn begin(options: &PgConnectOptions, table: &Table, era: u64) -> Result<Self, StoreError> {
        let settings: Vec<Guc> = INDEX_ONLY_PLANS.into_iter().chain([UNFLUSHED]).collect();
        let mut conn = connect(options, "settle", &settings).await?;
        let oid = table_oid(&mut conn, table).await?;
        let statement = "/* outboxd: filenode */ select pg_relation_filenode($1::bigint::oid::regclass)::bigint";
        let filenode = sqlx::query_scalar::<_, Option<i64>>(statement).bind(oid).fetch_one(&mut conn);
        let filenode = ask("looking for the outbox table", filenode).await?.ok_or_else(|| missing(table))?;
        Ok(Self { conn, era, table: Relation { oid, filenode } })
    }

    /// The era that it stands for, if the server is still there.
    pub(super) async fn era(&mut self) -> Result<u64, StoreError> {
        ask("settling", self.conn.ping()).await.map(|()| self.era)
    }

    /// Carries out a settlement. A row whose event id differs is another row than the one that was delivered.
    ///
    /// Comparing it takes as long as everything else, so rows that were read in this session's era are looked up by
    /// their ids alone. When not all were found that way, they are compared.
    pub(super) async fn settle(
        &mut self,
        table: &Table,
        how: Settle,
        settlement: &Settlement,
    ) -> Result<(), StoreError> {
        let by_id = match how {
            Settle::Checkpoint => return Ok(()),
            Settle::Mark => format!("update {} set sent_at = now() where sent_at is null", table.outbox()),
            Settle::Delete => format!("delete from {} where true", table.outbox()),
        };
        if settlement.era() == Some(self.era) {
            let text = format!(
                "/* outboxd: settle_by_id */ {by_id} and id = any($1)
                 and pg_relation_filenode($2::bigint::oid::regclass)::bigint = $3"
            );
            let Relation { oid, filenode } = self.table;
            let statement = sqlx::query(sql(text)).bind(settlement.ids()).bind(oid).bind(filenode);
            let done: PgQueryResult = ask("settling", statement.execute(&mut self.conn)).await?;
            if done.rows_affected() == settlement.len() as u64 {
                return Ok(());
            }
        }
        settle(&mut self.conn, table, how, settlement).await
    }
}

/// Carries out a settlement, comparing event ids.
pub(super) async fn settle(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    match how {
        Settle::Checkpoint if !settlement.is_out_of_line() => Ok(()),
        Settle::Checkpoint | Settle::Mark => run(conn, mark(table), settlement).await,
        Settle::Delete => run(conn, delete(table), settlement).await,
    }
}

/// As [`settle`], flushed whatever the session's `synchronous_commit`.
pub(super) async fn settle_flushed(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    settlement: &Settlement,
) -> Result<(), StoreError> {
    let doing = "settling";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    let flush = sqlx::query("/* outboxd: flush */ set local synchronous_commit = on");
    ask(doing, flush.execute(&mut *transaction)).await?;
    settle(&mut transaction, table, how, settlement).await?;
    ask(doing, transaction.commit()).await
}

fn mark(table: &Table) -> String {
    format!(
        "/* outboxd: mark */ update {outbox} o set sent_at = now()
         from unnest($1::bigint[], $2::uuid[]) s (id, event_id)
         where o.id = s.id and o.event_id = s.event_id and o.sent_at is null",
        outbox = table.outbox()
    )
}

fn delete(table: &Table) -> String {
    format!(
        "/* outboxd: delete */ delete from {outbox} o
         using unnest($1::bigint[], $2::uuid[]) s (id, event_id)
         where o.id = s.id and o.event_id = s.event_id",
        outbox = table.outbox()
    )
}

async fn run(conn: &mut PgConnection, text: String, settlement: &Settlement) -> Result<(), StoreError> {
    let statement = sqlx::query(sql(text)).bind(settlement.ids()).bind(settlement.event_ids());
    ask("settling", statement.execute(conn)).await.map(drop)
}
