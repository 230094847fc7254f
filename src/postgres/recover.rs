//! Taking over what the broker knows to be published, and proving to it what the database holds.

use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use crate::contract::StoreError;
use crate::outbox::{Position, Settle, Settlement, Table, Term};
use crate::postgres::checkpoint;
use crate::postgres::errors::{classify, unusable};
use crate::postgres::holds::{Holds, not_held};
use crate::postgres::session::{BACKLOG, ask, ask_within, bounded, sql};
use crate::postgres::settle;
use crate::postgres::snapshot::{At, Snapshot};
use crate::postgres::xid::Xid;

/// What there is to do about a progress that was read from somewhere else than this database.
const REPAIR: &str = "if the database was restored on purpose, run once with relay.delivery = \"at-least-once\", and remove the progress record of this outbox from the progress topic";

/// Commits something, flushed: what was visible before is durable then, and so are the ids of its transactions.
pub(super) async fn prove(conn: &mut PgConnection, table: &Table, term: Term) -> Result<(), StoreError> {
    let text = format!("/* outboxd: prove */ update {} set term = term where term = $1", table.lease());
    let done = ask("proving what was read", sqlx::query(sql(text)).bind(term.0).execute(conn)).await?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// Records as delivered what was read up to a position, and what is named; moves the checkpoint there.
pub(super) async fn recover(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    system: &str,
    (term, position, beyond): (Term, Option<&Position>, &Settlement),
) -> Result<(), StoreError> {
    let doing = "taking over the progress";
    let at = position.map(|position| read_position(position, system)).transpose()?;
    bounded(doing, BACKLOG, async {
        let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
        if !is_leader(&mut transaction, table, term).await? {
            return Err(StoreError::TermOver { term });
        }
        if !beyond.is_empty() {
            let mut beyond = beyond.clone();
            beyond.set_out_of_line();
            settle::settle(&mut transaction, table, how, &beyond).await?;
        }
        if let (Some(at), Some(position)) = (at, position) {
            refuse_ahead(&mut transaction, &at).await?;
            let stored = checkpoint::load(&mut transaction, table).await?;
            let from = stored.at.unwrap_or_default();
            if at.is_after(&from) {
                settle_between(&mut transaction, table, how, (&from, &at), &Holds::new(&stored.held)).await?;
                checkpoint::save_position(&mut transaction, table, system, (term, position), at.highest).await?;
            }
        }
        transaction.commit().await.map_err(|error| classify(doing, error))
    })
    .await
}

fn read_position(position: &Position, system: &str) -> Result<At, StoreError> {
    let at = At::from_position(position.as_str()).map_err(|error| StoreError::Unusable {
        problem: "the progress in Kafka cannot be read".to_owned(),
        repair: "run the version of outboxd that wrote it, or a newer one".to_owned(),
        source: Some(Box::new(error)),
    })?;
    if !at.system.is_empty() && !system.is_empty() && at.system != system {
        return Err(unusable("the progress in Kafka is that of another database cluster", REPAIR));
    }
    Ok(at)
}

/// Keeps the next leader from beginning a term until this is committed.
async fn is_leader(conn: &mut PgConnection, table: &Table, term: Term) -> Result<bool, StoreError> {
    let text = format!("/* outboxd: is_leader */ select true from {} where term = $1 for share", table.lease());
    let found = sqlx::query_scalar::<_, bool>(sql(text)).bind(term.0).fetch_optional(conn);
    Ok(ask("looking at the lease", found).await?.is_some())
}

async fn refuse_ahead(conn: &mut PgConnection, at: &At) -> Result<(), StoreError> {
    let statement = "/* outboxd: is_ahead */ select pg_snapshot_xmax(pg_current_snapshot()) < $1";
    let known = sqlx::query_scalar::<_, bool>(statement).bind(Xid(at.boundary().xmax)).fetch_one(conn);
    match ask("comparing the progress", known).await? {
        false => Ok(()),
        true => Err(unusable(
            "the progress in Kafka is ahead of the database, which was restored to an earlier point or lost commits that it had acknowledged",
            REPAIR,
        )),
    }
}

/// Settles the rows that were read after one position and up to another, found through the index on xid.
async fn settle_between(
    conn: &mut PgConnection,
    table: &Table,
    how: Settle,
    (from, to): (&At, &At),
    holds: &Holds,
) -> Result<(), StoreError> {
    let change = match how {
        Settle::Checkpoint => return Ok(()),
        Settle::Mark => format!("update {} set sent_at = now()", table.outbox()),
        Settle::Delete => format!("delete from {}", table.outbox()),
    };
    let wanted = format!(
        "sent_at is null and {free} and (pg_visible_in_snapshot(xid, (select $3::pg_snapshot))
             or $4::text is not null and id <= $5 and pg_visible_in_snapshot(xid, (select $4::pg_snapshot)))",
        free = not_held("$6")
    );
    let text = format!(
        "/* outboxd: settle_progress */ {change} where id in (
             select id from {outbox} where xid >= $1 and {wanted}
             union all
             select id from {outbox} where xid = any($2) and xid < $1 and {wanted})",
        outbox = table.outbox()
    );
    let frozen = to.frozen.as_ref();
    let statement = sqlx::query(sql(text))
        .bind(Xid(from.prev.xmax))
        .bind(Xid::all(&from.prev.open))
        .bind(shown(&to.prev))
        .bind(frozen.map(|frozen| frozen.cur.to_string()))
        .bind(frozen.map(|frozen| frozen.last))
        .bind(holds.to_json().map(Json));
    let done = ask_within("settling what was published", BACKLOG, statement.execute(conn)).await?;
    if done.rows_affected() > 0 {
        tracing::info!(rows = done.rows_affected(), "recorded as published what the last leader had no time to record");
    }
    Ok(())
}

/// PostgreSQL reads no snapshot that begins at 0; in the one that begins and ends at 1 nothing of ours is visible
/// either.
fn shown(snapshot: &Snapshot) -> String {
    if snapshot.is_nothing() { "1:1:".to_owned() } else { snapshot.to_string() }
}
