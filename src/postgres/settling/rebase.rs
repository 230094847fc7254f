//! Outboxes that were moved: their transaction ids are another cluster's.
//!
//! Arithmetic with the stored snapshots holds for the rows that came along and for none written since. So, once, in a
//! transaction that sees one snapshot: rows that are due get the id of that transaction, and a position begins at the
//! snapshot. Writers are not kept out: what they commit meanwhile, the snapshot does not show, so it is new. Rows that
//! are marked as sent stay as they are, and so do their ids, which no window reaches.

use sqlx::types::Json;
use sqlx::{Connection, PgConnection, Row};

use crate::contract::StoreError;
use crate::outbox::Settle;
use crate::postgres::errors::{classify, is_denied, not_now};
use crate::postgres::reading::holds::{Holds, left_to_a_lane};
use crate::postgres::reading::position::{ReadPosition, Snapshot};
use crate::postgres::reading::told;
use crate::postgres::session::{BACKLOG_TIMEOUT, ask, ask_within, bounded, sql};
use crate::postgres::settling::checkpoint::{self, CheckpointTarget, Stored};
use crate::postgres::table::{Columns, OutboxTable};
use crate::postgres::xid::Xid;

/// What this cluster calls itself; empty where the role may not ask. Rows from the future betray a restored
/// dump as well.
pub(crate) async fn system_identifier(conn: &mut PgConnection) -> Result<String, StoreError> {
    let statement =
        "/* outboxd: system_identifier */ select system_identifier::text from pg_catalog.pg_control_system()";
    match sqlx::query_scalar::<_, String>(statement).fetch_one(conn).await {
        Err(error) if is_denied(&error) => Ok(String::new()),
        result => result.map_err(|error| classify("asking for the system identifier", error)),
    }
}

/// Whether the stored position is another cluster's, as far as can be told. Where none is stored the rows tell.
pub(crate) async fn is_foreign(
    conn: &mut PgConnection,
    table: &OutboxTable,
    stored: &Stored,
    system: &str,
) -> Result<bool, StoreError> {
    let doing = "looking for a moved outbox";
    let Some(at) = &stored.at else {
        let text = format!(
            "/* outboxd: look_for_foreign_xids */ select exists (
                 select from {outbox} where {xid} >= (select pg_snapshot_xmax(pg_current_snapshot())))",
            outbox = table.outbox(),
            xid = table.columns().xid
        );
        return ask(doing, sqlx::query_scalar(sql(text)).fetch_one(conn)).await;
    };
    if !stored.system.is_empty() && !system.is_empty() && stored.system != system {
        return Ok(true);
    }
    // The checkpoint was written by a transaction below the end of our own snapshot.
    let statement = "/* outboxd: is_from_ahead */ select pg_snapshot_xmax(pg_current_snapshot()) < $1";
    ask(doing, sqlx::query_scalar(statement).bind(Xid(at.boundary().xmax)).fetch_one(conn)).await
}

/// Begins a position in this cluster, and returns what is stored now.
pub(crate) async fn rebase(conn: &mut PgConnection, place: &CheckpointTarget) -> Result<Stored, StoreError> {
    let doing = "taking over a moved outbox";
    let CheckpointTarget { table, system, settle } = place;
    bounded(doing, BACKLOG_TIMEOUT, async {
        let begin = "begin isolation level repeatable read";
        let mut transaction = conn.begin_with(begin).await.map_err(|error| classify(doing, error))?;
        let now = snapshot(&mut transaction).await?;
        let stored = checkpoint::load(&mut transaction, table).await?;
        if !is_foreign(&mut transaction, table, &stored, system).await? {
            // Another relay did it meanwhile.
            transaction.rollback().await.map_err(|error| classify(doing, error))?;
            return Ok(stored);
        }
        let due = stamp_due(&mut transaction, table, &stored, *settle, &now).await?;
        let highest = stored.at.as_ref().map_or(0, |at| at.highest);
        let at = ReadPosition { prev: now, highest, system: system.clone(), ..ReadPosition::default() };
        replace_position(&mut transaction, place, &stored, &at).await?;
        transaction.commit().await.map_err(|error| classify(doing, error))?;
        tracing::warn!(
            outbox = %table,
            due,
            "the outbox was moved here from another cluster: every row that is not settled is due"
        );
        checkpoint::load(conn, table).await
    })
    .await
}

/// The snapshot with which reading begins: taken before our transaction has an id, so that the rows that we
/// stamp with it are new.
async fn snapshot(conn: &mut PgConnection) -> Result<Snapshot, StoreError> {
    let statement = "/* outboxd: snapshot_before_rebase */ select pg_current_snapshot()::text";
    let text = ask("reading the snapshot", sqlx::query_scalar::<_, String>(statement).fetch_one(conn)).await?;
    text.parse().map_err(|error| not_now("reading the snapshot", format!("{error}")))
}

/// Gives every row that is not settled the id of our transaction, and says how many they are. Where a position settles
/// rows, those it settled are marked as sent instead: that position said nothing of rows above its highest id, nor of those
/// written after it was stored, whose ids may begin anew. A trigger stamps, so that the relay needs no right to change an
/// id.
async fn stamp_due(
    conn: &mut PgConnection,
    table: &OutboxTable,
    stored: &Stored,
    settle: Settle,
    now: &Snapshot,
) -> Result<i64, StoreError> {
    let columns = table.columns();
    let Columns { id, xid, created_at, sent_at, .. } = &columns;
    let text = format!(
        "/* outboxd: stamp_due */
         with judged as materialized (
             select {id}, not {left} and {created_at} <= $3 and {is_settled} as is_settled from {outbox} where {unsent}
         ),
         stamped as (
             update {outbox} o set {sent_at} = case when j.is_settled then $3 end
             from judged j where o.{id} = j.{id} and (not j.is_settled or o.{xid} >= $1) returning j.is_settled
         )
         select count(*) filter (where not is_settled) from stamped",
        outbox = table.outbox(),
        unsent = columns.unsent(),
        left = left_to_a_lane(&columns, "$2"),
        is_settled = told::is_read(&columns, 4)
    );
    let statement = sqlx::query(sql(text))
        .bind(Xid(now.xmin))
        .bind(Holds::new(&stored.held).to_told_json().map(Json))
        .bind(stored.saved_at);
    let statement = told::bind(statement, stored.settling(settle));
    let row = ask_within("stamping what is due", BACKLOG_TIMEOUT, statement.fetch_one(conn)).await?;
    Ok(row.get(0))
}

/// Stores the position, as the one that settles rows, too, where one did, and as what is told of held lanes.
async fn replace_position(
    conn: &mut PgConnection,
    CheckpointTarget { table, system, settle }: &CheckpointTarget,
    stored: &Stored,
    at: &ReadPosition,
) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: replace_position */
         with lanes as (
             update {held} set after_position = $1 where after_position is not null
         )
         insert into {checkpoint} (position, highest_id, system, term, saved_at, settled_position)
         values ($1, $2, $3, 0, clock_timestamp(), $4)
         on conflict (only_row) do update set position = excluded.position, system = excluded.system,
             saved_at = excluded.saved_at, settled_position = excluded.settled_position, read_position = null",
        checkpoint = table.checkpoint(),
        held = table.held()
    );
    let position = at.to_position();
    let settles = stored.settling(*settle).map(|_| position.as_str());
    let statement = sqlx::query(sql(text)).bind(position.as_str()).bind(at.highest).bind(system).bind(settles);
    ask("storing the position", statement.execute(conn)).await.map(drop)
}
