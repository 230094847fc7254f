//! Outboxes that were restored from a dump: their transaction ids are another cluster's.
//!
//! Arithmetic with the stored snapshots holds for the rows of the dump and for none written since. So, once,
//! under a lock that keeps writers out: rows that were not read get the id of our transaction, rows that were read
//! and seem to come from the future get id 0, and a position begins at the snapshot before.

use sqlx::{Connection, PgConnection};

use crate::contract::StoreError;
use crate::outbox::Table;
use crate::postgres::checkpoint::{self, Stored};
use crate::postgres::errors::{classify, is_denied, not_now};
use crate::postgres::session::{BACKLOG, ask, ask_within, bounded, sql};
use crate::postgres::snapshot::{At, Snapshot};
use crate::postgres::xid::Xid;

/// What this cluster calls itself; empty where the role may not ask. Rows from the future betray a restored
/// dump as well.
pub(super) async fn system_identifier(conn: &mut PgConnection) -> Result<String, StoreError> {
    let statement =
        "/* outboxd: system_identifier */ select system_identifier::text from pg_catalog.pg_control_system()";
    match sqlx::query_scalar::<_, String>(statement).fetch_one(conn).await {
        Err(error) if is_denied(&error) => Ok(String::new()),
        result => result.map_err(|error| classify("asking for the system identifier", error)),
    }
}

/// Whether the table holds transaction ids of another cluster, as far as can be told.
pub(super) async fn is_foreign(
    conn: &mut PgConnection,
    table: &Table,
    stored: &Stored,
    system: &str,
) -> Result<bool, StoreError> {
    let moved = stored.at.is_some() && !stored.system.is_empty() && !system.is_empty() && stored.system != system;
    if moved {
        return Ok(true);
    }
    // A visible row was written by a transaction below the end of our own snapshot, and so was the checkpoint.
    let text = format!(
        "/* outboxd: look_for_foreign_xids */
         select pg_snapshot_xmax(pg_current_snapshot()) < $1
             or exists (select from {outbox} where xid >= pg_snapshot_xmax(pg_current_snapshot()))",
        outbox = table.outbox()
    );
    let known = Xid(stored.at.as_ref().map_or(0, |at| at.boundary().xmax));
    ask("looking for restored rows", sqlx::query_scalar(sql(text)).bind(known).fetch_one(conn)).await
}

/// Gives the rows ids of this cluster, in one transaction, and returns what is stored now.
pub(super) async fn rebase(conn: &mut PgConnection, table: &Table, system: &str) -> Result<Stored, StoreError> {
    let doing = "taking over a restored outbox";
    bounded(doing, BACKLOG, async {
        let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
        keep_writers_out(&mut transaction, table).await?;
        let stored = checkpoint::load(&mut transaction, table).await?;
        if !is_foreign(&mut transaction, table, &stored, system).await? {
            // Another relay did it while we waited for the lock.
            transaction.rollback().await.map_err(|error| classify(doing, error))?;
            return Ok(stored);
        }
        let now = snapshot(&mut transaction).await?;
        let at = stored.at.clone().unwrap_or_default();
        let unread = renew_unread(&mut transaction, table, &at).await?;
        let read = retire_read(&mut transaction, table, &now).await?;
        let at = At { prev: now, frozen: None, highest: at.highest, system: system.to_owned() };
        replace_position(&mut transaction, table, system, &at).await?;
        transaction.commit().await.map_err(|error| classify(doing, error))?;
        tracing::warn!(
            outbox = %table,
            unread,
            read,
            "the outbox was restored from a dump of another cluster: rows that were not read are read from here on"
        );
        Ok(Stored { at: Some(at), system: system.to_owned(), held: stored.held })
    })
    .await
}

/// Waits a bounded time for open writers, because new ones queue behind us.
async fn keep_writers_out(conn: &mut PgConnection, table: &Table) -> Result<(), StoreError> {
    let doing = "locking a restored outbox";
    ask(doing, sqlx::query("/* outboxd: bound_lock */ set local lock_timeout = '5s'").execute(&mut *conn)).await?;
    let text = format!("/* outboxd: lock_outbox */ lock table {} in share row exclusive mode", table.outbox());
    ask(doing, sqlx::query(sql(text)).execute(conn)).await.map(drop)
}

/// The snapshot with which reading begins: taken before our transaction has an id, so that the rows that we
/// stamp with it are new.
async fn snapshot(conn: &mut PgConnection) -> Result<Snapshot, StoreError> {
    let statement = "/* outboxd: snapshot_before_rebase */ select pg_current_snapshot()::text";
    let text = ask("reading the snapshot", sqlx::query_scalar::<_, String>(statement).fetch_one(conn)).await?;
    text.parse().map_err(|error| not_now("reading the snapshot", format!("{error}")))
}

/// Rows above the highest id ever read were not read, whoever wrote them; of the others, the stored position tells.
async fn renew_unread(conn: &mut PgConnection, table: &Table, at: &At) -> Result<u64, StoreError> {
    let text = format!(
        "/* outboxd: renew_unread */ update {outbox} set xid = pg_current_xact_id()
         where sent_at is null and (id > $1 or (xid >= $2 or xid = any($3))
             and not ($4::text is not null and id <= $5 and pg_visible_in_snapshot(xid, $4::text::pg_snapshot)))",
        outbox = table.outbox()
    );
    let frozen = at.frozen.as_ref();
    let statement = sqlx::query(sql(text))
        .bind(at.highest)
        .bind(Xid(at.prev.xmax))
        .bind(Xid::all(&at.prev.open))
        .bind(frozen.map(|frozen| frozen.cur.to_string()))
        .bind(frozen.map(|frozen| frozen.last));
    Ok(ask_within("renewing unread rows", BACKLOG, statement.execute(conn)).await?.rows_affected())
}

/// Id 0 is below every snapshot: no window ever finds these rows, releases of held lanes do.
async fn retire_read(conn: &mut PgConnection, table: &Table, now: &Snapshot) -> Result<u64, StoreError> {
    let text = format!(
        "/* outboxd: retire_read */ update {outbox} set xid = '0' where xid >= $1 and xid <> pg_current_xact_id()",
        outbox = table.outbox()
    );
    let statement = sqlx::query(sql(text)).bind(Xid(now.xmin));
    Ok(ask_within("retiring read rows", BACKLOG, statement.execute(conn)).await?.rows_affected())
}

async fn replace_position(conn: &mut PgConnection, table: &Table, system: &str, at: &At) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: replace_position */
         insert into {checkpoint} (position, highest_id, system, term, saved_at)
         values ($1, $2, $3, 0, clock_timestamp())
         on conflict (only_row) do update set position = excluded.position, system = excluded.system,
             saved_at = excluded.saved_at",
        checkpoint = table.checkpoint()
    );
    let position = at.to_position();
    let statement = sqlx::query(sql(text)).bind(position.as_str()).bind(at.highest).bind(system);
    ask("storing the position", statement.execute(conn)).await.map(drop)
}
