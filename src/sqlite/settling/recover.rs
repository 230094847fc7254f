//! Taking over what the broker knows to be published, and proving to it what the database holds. Connections must be
//! ones whose commits are flushed.

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::outbox::{Position, Proof, Proofs, ProvenPosition, Settle, Term};
use crate::sqlite::errors::{classify, incompatible};
use crate::sqlite::reading::holds::covered;
use crate::sqlite::reading::position;
use crate::sqlite::settling::checkpoint;
use crate::sqlite::table::OutboxTable;

/// What there is to do about a progress that does not descend from what this database holds.
const REPAIR: &str = "if that is meant (a restored copy of the file, another table), name another relay.progress_topic, or give this outbox a name of its own by outbox.source: then all that the database calls unsent is published, some of it for a second time";

/// Commits a proof, flushed: the log is flushed as a whole, with what was read before.
pub(crate) async fn prove(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    term: Term,
    proof: Proof,
) -> Result<(), StoreError> {
    let doing = |error| classify("proving what was read", error);
    let sql = format!("/* outboxd: prove */ update {} set history = ?, proof = ? where term = ?", table.lease());
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let query = sqlx::query(AssertSqlSafe(sql)).bind(proof.history.to_string()).bind(proof.number).bind(term.0);
    let done = query.execute(&mut *transaction).await.map_err(doing)?;
    transaction.commit().await.map_err(doing)?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// Records as delivered everything up to a position but for held lanes, and moves the checkpoint there.
pub(crate) async fn recover(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    mode: Settle,
    term: Term,
    position: &Position,
) -> Result<(), StoreError> {
    let doing = |error| classify("taking over the progress", error);
    let to = position::parse(position)?;
    let mut transaction = connection.begin_with("begin immediate").await.map_err(doing)?;
    let proofs = proofs(&mut transaction, table, term).await?;
    let from = checkpoint::stored_position(&mut transaction, table).await.map_err(doing)?;
    let last = judge(&proofs, from, to)?;
    settle_up_to(&mut transaction, table, mode, to.at).await.map_err(doing)?;
    move_up_to(&mut transaction, table, mode, term, to.at).await.map_err(doing)?;
    if let Some(last) = last {
        remember(&mut transaction, table, last).await.map_err(doing)?;
    }
    transaction.commit().await.map_err(doing)
}

/// Judges a progress, and returns the last proof of its history. A progress whose proof the database has can tell of
/// nothing that the database does not hold; any other is of a future that this database never had, or of another one.
/// Ids cannot tell: they come again.
fn judge(proofs: &Proofs, stored: i64, to: ProvenPosition<i64>) -> Result<Option<Proof>, StoreError> {
    match to.proof {
        // Written by a version that made no proofs.
        None if to.at <= stored => Ok(None),
        None => Err(incompatible("the progress in Kafka does not tell which history of the outbox it is of", REPAIR)),
        Some(proof) => proofs.last_of(proof).map(Some).ok_or_else(|| {
            incompatible(
                "the progress in Kafka is not of this outbox's history: the file was restored to an earlier point, lost commits that it had acknowledged, or is another one",
                REPAIR,
            )
        }),
    }
}

/// The proofs that the database has, if the term is the leader's.
async fn proofs(connection: &mut SqliteConnection, table: &OutboxTable, term: Term) -> Result<Proofs, StoreError> {
    let doing = |error| classify("looking for proofs", error);
    let sql = format!(
        "/* outboxd: proofs */ select history, proof, earlier_history, earlier_proof from {} where term = ?",
        table.lease()
    );
    let found = sqlx::query(AssertSqlSafe(sql)).bind(term.0).fetch_optional(connection).await.map_err(doing)?;
    let row = found.ok_or(StoreError::TermOver { term })?;
    let proof = |at: usize| -> Result<Option<Proof>, StoreError> {
        let Some(history) = row.try_get::<Option<&str>, _>(at).map_err(doing)? else { return Ok(None) };
        let unreadable =
            |_| incompatible("the lease's row names no history", "run the version of outboxd that wrote it");
        let history = Uuid::try_parse(history).map_err(unreadable)?;
        Ok(Some(Proof { history, number: row.try_get(at + 1).map_err(doing)? }))
    };
    Ok(Proofs { latest: proof(0)?, earlier: proof(2)? })
}

async fn move_up_to(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    mode: Settle,
    term: Term,
    position: i64,
) -> Result<(), sqlx::Error> {
    let sql = format!(
        "/* outboxd: recover_checkpoint */ update {checkpoint} set position = max(position, ?1), settled_to = {settled_to},
             term = ?2, saved_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        checkpoint = table.checkpoint(),
        settled_to = checkpoint::settled_to(mode)
    );
    sqlx::query(AssertSqlSafe(sql)).bind(position).bind(term.0).execute(connection).await.map(drop)
}

/// Remembers a history for as long as the broker may tell of it: the next session begins another.
async fn remember(connection: &mut SqliteConnection, table: &OutboxTable, last: Proof) -> Result<(), sqlx::Error> {
    let sql =
        format!("/* outboxd: remember_history */ update {} set earlier_history = ?, earlier_proof = ?", table.lease());
    let query = sqlx::query(AssertSqlSafe(sql)).bind(last.history.to_string()).bind(last.number);
    query.execute(connection).await.map(drop)
}

async fn settle_up_to(
    connection: &mut SqliteConnection,
    table: &OutboxTable,
    mode: Settle,
    position: i64,
) -> Result<(), sqlx::Error> {
    let outbox = table.outbox();
    let o = table.columns_of("o");
    let change = match mode {
        Settle::Checkpoint => return Ok(()),
        Settle::Mark => {
            let mark = table.columns().sent_at;
            format!("update {outbox} as o set {mark} = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")
        }
        Settle::Delete => format!("delete from {outbox} as o"),
    };
    let sql = format!(
        "/* outboxd: settle_progress */ {change}
         where {unsent} and {id} <= ? and {id} > (select position from {checkpoint}) and not {covered}",
        unsent = o.unsent(),
        id = o.id,
        checkpoint = table.checkpoint(),
        covered = covered(table)
    );
    sqlx::query(AssertSqlSafe(sql)).bind(position).execute(connection).await.map(drop)
}
