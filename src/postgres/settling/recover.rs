//! Taking over what the broker knows to be published, and proving to it what the database holds.

use sqlx::types::Json;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::outbox::{Position, Proof, Proofs, Settle, Settlement, Term};
use crate::postgres::errors::{classify, incompatible};
use crate::postgres::reading::holds::{Holds, not_held};
use crate::postgres::reading::position::ReadPosition;
use crate::postgres::session::{BACKLOG_TIMEOUT, ask, ask_within, bounded, sql};
use crate::postgres::settling::checkpoint::{self, CheckpointTarget, Stored};
use crate::postgres::settling::settle;
use crate::postgres::table::{Columns, OutboxTable};
use crate::postgres::xid::Xid;

/// What there is to do about a progress that does not descend from what this database holds.
const REPAIR: &str = "if that is meant (a restored backup, a promoted standby, another table or cluster), name another relay.progress_topic, or give this outbox a name of its own by outbox.source: then all that the database calls unsent is published, some of it for a second time";

/// Commits a proof, flushed: what was visible before is durable then, and so are the ids of its transactions.
pub(crate) async fn prove(
    conn: &mut PgConnection,
    table: &OutboxTable,
    term: Term,
    proof: Proof,
) -> Result<(), StoreError> {
    let text = format!("/* outboxd: prove */ update {} set history = $2, proof = $3 where term = $1", table.lease());
    let statement = sqlx::query(sql(text)).bind(term.0).bind(proof.history).bind(proof.number);
    let done = ask("proving what was read", statement.execute(conn)).await?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// Reads the proofs that the database has, if the term is the leader's.
async fn proofs(conn: &mut PgConnection, table: &OutboxTable, term: Term) -> Result<Proofs, StoreError> {
    let text = format!(
        "/* outboxd: proofs */ select history, proof, earlier_history, earlier_proof from {} where term = $1",
        table.lease()
    );
    let found = sqlx::query(sql(text)).bind(term.0).fetch_optional(conn);
    let row = ask("looking for proofs", found).await?.ok_or(StoreError::TermOver { term })?;
    let proof = |at: usize| {
        let number = row.get(at + 1);
        row.get::<Option<Uuid>, _>(at).map(|history| Proof { history, number })
    };
    Ok(Proofs { latest: proof(0), earlier: proof(2) })
}

/// Records as delivered what was read up to a position, and what is named; moves the checkpoint there.
pub(crate) async fn recover(
    conn: &mut PgConnection,
    place: &CheckpointTarget,
    term: Term,
    position: Option<&Position>,
    beyond: &Settlement,
) -> Result<(), StoreError> {
    let CheckpointTarget { table, settle, .. } = place;
    bounded("taking over the progress", BACKLOG_TIMEOUT, async {
        let proofs = proofs(conn, table, term).await?;
        let to = position.map(read_position).transpose()?;
        let stored = checkpoint::load(conn, table).await?;
        let step = to.as_ref().map(|to| step(&proofs, place, &stored, to)).transpose()?;
        if !beyond.is_empty() {
            let mut beyond = beyond.clone();
            beyond.set_out_of_line();
            settle::settle(conn, table, *settle, &beyond).await?;
        }
        let (Some(step), Some(to), Some(position)) = (step, to, position) else { return Ok(()) };
        let from = stored.at.clone().unwrap_or_default();
        if step.moves {
            settle_between(conn, table, *settle, &from, &to, &Holds::new(&stored.held)).await?;
        }
        conclude(conn, place, term, position, &to, &step).await
    })
    .await
}

/// What a progress means for the database.
struct Step {
    /// Whether it is ahead of the stored checkpoint.
    moves: bool,
    /// The last proof of its history, which is to be remembered for as long as the broker may tell of that history.
    remember: Option<Proof>,
}

/// Judges a progress. One whose proof the database has can tell of nothing that the database does not hold; any other
/// is of a future that this database never had, or of another one. Ids cannot tell: they come again.
fn step(proofs: &Proofs, place: &CheckpointTarget, stored: &Stored, to: &ReadPosition) -> Result<Step, StoreError> {
    let is_ahead = to.is_after(stored.at.as_ref().unwrap_or(&ReadPosition::default()));
    let Some(proof) = to.proof else {
        // Written by a version that made no proofs.
        return match is_ahead {
            false => Ok(Step { moves: false, remember: None }),
            true => {
                Err(incompatible("the progress in Kafka does not tell which history of the outbox it is of", REPAIR))
            }
        };
    };
    let Some(last) = proofs.last_of(proof) else {
        return Err(incompatible(
            "the progress in Kafka is not of this outbox's history: the database was restored to an earlier point, lost commits that it had acknowledged, or is another one",
            REPAIR,
        ));
    };
    let is_foreign = !to.system.is_empty() && !place.system.is_empty() && to.system != place.system;
    let remember = Some(last);
    match is_foreign {
        false => Ok(Step { moves: is_ahead, remember }),
        // What the outbox brought along from there covers it, or was read on from here.
        true if stored.system == place.system || !is_ahead => Ok(Step { moves: false, remember }),
        true => {
            Err(incompatible("the progress in Kafka is of another cluster, and ahead of what was moved here", REPAIR))
        }
    }
}

fn read_position(position: &Position) -> Result<ReadPosition, StoreError> {
    ReadPosition::from_position(position.as_str()).map_err(|error| StoreError::Incompatible {
        problem: "the progress in Kafka cannot be read".to_owned(),
        repair: "run the version of outboxd that wrote it, or a newer one".to_owned(),
        source: Some(Box::new(error)),
    })
}

/// Moves the checkpoint, and remembers the history, if the term is still the leader's.
async fn conclude(
    conn: &mut PgConnection,
    place: &CheckpointTarget,
    term: Term,
    position: &Position,
    to: &ReadPosition,
    step: &Step,
) -> Result<(), StoreError> {
    let doing = "taking over the progress";
    let mut transaction = conn.begin().await.map_err(|error| classify(doing, error))?;
    if step.moves {
        checkpoint::save_position(&mut transaction, place, term, position, to.highest).await?;
    }
    if let Some(Proof { history, number }) = step.remember {
        let text = format!(
            "/* outboxd: remember_history */ update {} set earlier_history = $2, earlier_proof = $3 where term = $1",
            place.table.lease()
        );
        let statement = sqlx::query(sql(text)).bind(term.0).bind(history).bind(number);
        let done = ask("remembering the history", statement.execute(&mut *transaction)).await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::TermOver { term });
        }
    }
    transaction.commit().await.map_err(|error| classify(doing, error))
}

/// Settles the rows that were read after one position and up to another, found through the index on xid.
///
/// # Errors
/// When another session has locked one of them: it would be published again if reading went on without it. The others are
/// settled, and the row is named instead of waited for.
async fn settle_between(
    conn: &mut PgConnection,
    table: &OutboxTable,
    how: Settle,
    from: &ReadPosition,
    to: &ReadPosition,
    holds: &Holds,
) -> Result<(), StoreError> {
    let columns = table.columns();
    let Columns { id, xid, sent_at, .. } = &columns;
    let outbox = table.outbox();
    let change = match how {
        Settle::Checkpoint => return Ok(()),
        Settle::Mark => format!("update {outbox} o set {sent_at} = now() from free"),
        Settle::Delete => format!("delete from {outbox} o using free"),
    };
    let wanted = format!(
        "{unsent} and {free} and (pg_visible_in_snapshot({xid}, (select $3::pg_snapshot))
             or $4::text is not null and {id} <= $5 and pg_visible_in_snapshot({xid}, (select $4::pg_snapshot)))",
        unsent = columns.unsent(),
        free = not_held(&columns, "$6")
    );
    let text = format!(
        "/* outboxd: settle_progress */
         with due as materialized (
             select {id} id from {outbox} where {xid} >= $1 and {wanted}
             union all
             select {id} id from {outbox} where {xid} = any($2) and {xid} < $1 and {wanted}
         ),
         free as materialized (
             select due.id from due join {outbox} o on o.{id} = due.id where {unsent} for update of o skip locked
         ),
         settled as ({change} where o.{id} = free.id returning free.id)
         select (select count(*) from settled), (select min(id) from (select id from due except select id from free) kept)",
        unsent = table.columns_of("o").unsent()
    );
    let frozen = to.frozen.as_ref();
    loop {
        let statement = sqlx::query(sql(text.clone()))
            .bind(Xid(from.prev.xmax))
            .bind(Xid::all(&from.prev.open))
            .bind(to.prev.shown())
            .bind(frozen.map(|frozen| frozen.cur.to_string()))
            .bind(frozen.map(|frozen| frozen.last))
            .bind(holds.to_json().map(Json));
        let answer = statement.fetch_one(&mut *conn);
        let row = ask_within("settling what was published", BACKLOG_TIMEOUT, answer).await?;
        let (settled, kept): (i64, Option<i64>) = (row.get(0), row.get(1));
        if settled > 0 {
            tracing::info!(rows = settled, "recorded as published what the last leader had no time to record");
        }
        // One that was kept may have been settled or freed meanwhile.
        match kept {
            None => return Ok(()),
            Some(id) if settle::is_locked(conn, table, id).await? => return Err(settle::locked(id)),
            Some(_) => {}
        }
    }
}
