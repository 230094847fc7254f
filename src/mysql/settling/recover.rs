//! Taking over what the broker knows to be published, and proving to it what the database holds.

use sqlx::mysql::MySqlRow;
use sqlx::{Connection, MySqlConnection, Row};
use uuid::Uuid;

use crate::contract::StoreError;
use crate::mysql::errors::{classify, incompatible};
use crate::mysql::reading::holds::covered;
use crate::mysql::reading::page;
use crate::mysql::reading::position::{ReadPosition, is_read};
use crate::mysql::session::{ask, sql};
use crate::mysql::settling::checkpoint::{self, CheckpointTarget, Stored};
use crate::mysql::settling::settle;
use crate::mysql::table::OutboxTable;
use crate::outbox::{Position, Proof, Proofs, Settle, Term};

const RECOVERING: &str = "taking over the progress";

/// Rows that are settled at once.
const ROWS_PER_STEP: usize = 1_000;

/// What there is to do about a progress that does not descend from what this database holds.
const REPAIR: &str = "if that is meant (a restored backup, a promoted replica, another table or server), name another relay.progress_topic, or give this outbox a name of its own by outbox.source: then all that the database calls unsent is published, some of it for a second time";

/// Commits a proof, flushed: the log is flushed as a whole, with what was read before.
pub(crate) async fn prove(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    term: Term,
    proof: Proof,
) -> Result<(), StoreError> {
    let text = format!("/* outboxd: prove */ update {} set history = ?, proof = ? where term = ?", table.lease());
    let statement = sqlx::query(sql(text)).bind(proof.history.to_string()).bind(proof.number).bind(term.0);
    let done = ask("proving what was read", statement.execute(conn)).await?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// The proofs that the database has, if the term is the leader's.
async fn proofs(conn: &mut MySqlConnection, table: &OutboxTable, term: Term) -> Result<Proofs, StoreError> {
    let doing = "looking for proofs";
    let text = format!(
        "/* outboxd: proofs */ select history, proof, earlier_history, earlier_proof from {} where term = {}",
        table.lease(),
        term.0
    );
    let found = ask(doing, sqlx::raw_sql(sql(text)).fetch_optional(conn)).await?;
    let row = found.ok_or(StoreError::TermOver { term })?;
    Ok(Proofs { latest: proof(&row, 0)?, earlier: proof(&row, 2)? })
}

fn proof(row: &MySqlRow, at: usize) -> Result<Option<Proof>, StoreError> {
    let failed = |error| classify("looking for proofs", error);
    let Some(history) = row.try_get_unchecked::<Option<&str>, _>(at).map_err(failed)? else { return Ok(None) };
    let history = Uuid::try_parse(history)
        .map_err(|_| incompatible("the lease's row names no history", "run the version of outboxd that wrote it"))?;
    Ok(Some(Proof { history, number: row.try_get_unchecked(at + 1).map_err(failed)? }))
}

/// Records as delivered everything up to a position but for held lanes, and moves the checkpoint there.
pub(crate) async fn recover(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    settle: Settle,
    term: Term,
    position: &Position,
) -> Result<(), StoreError> {
    let to = ReadPosition::from_position(position)?;
    let proofs = proofs(conn, table, term).await?;
    let stored = checkpoint::load(conn, table).await?;
    // A position beyond what ids go to is of ids that are given out anew since: of rows that are gone.
    let is_of_now = checkpoint::next_id(conn, table).await?.is_none_or(|next| next > to.last);
    let is_ahead = is_of_now && to.is_after(stored.at.as_ref().unwrap_or(&ReadPosition::default()));
    let remember = judge(&proofs, is_ahead, to.proof)?;
    if is_ahead {
        settle_between(conn, table, settle, &stored, &to).await?;
    }
    let target = CheckpointTarget { table: table.clone(), settle, begins_anew: stored.begins_anew };
    let mut transaction = conn.begin().await.map_err(|error| classify(RECOVERING, error))?;
    let done = take_note(&mut transaction, &target, term, is_ahead.then_some(position), remember).await;
    checkpoint::conclude(transaction, RECOVERING, done).await
}

/// Moves the checkpoint to a position, and remembers the history, if the term is still the leader's.
async fn take_note(
    transaction: &mut MySqlConnection,
    target: &CheckpointTarget,
    term: Term,
    position: Option<&Position>,
    remember: Option<Proof>,
) -> Result<(), StoreError> {
    if let Some(position) = position {
        checkpoint::move_to(transaction, target, term, position, position).await?;
    }
    match remember {
        Some(last) => remember_history(transaction, &target.table, term, last).await,
        None => Ok(()),
    }
}

/// Judges a progress, and returns the last proof of its history. A progress whose proof the database has can tell of
/// nothing that the database does not hold; any other is of a future that this database never had, or of another one.
/// Ids cannot tell: they come again.
fn judge(proofs: &Proofs, is_ahead: bool, proof: Option<Proof>) -> Result<Option<Proof>, StoreError> {
    match proof {
        None if !is_ahead => Ok(None),
        None => Err(incompatible("the progress in Kafka does not tell which history of the outbox it is of", REPAIR)),
        Some(proof) => proofs.last_of(proof).map(Some).ok_or_else(|| {
            incompatible(
                "the progress in Kafka is not of this outbox's history: the database was restored to an earlier point, lost commits that it had acknowledged, or is another one",
                REPAIR,
            )
        }),
    }
}

/// Remembers a history for as long as the broker may tell of it: the next session begins another.
async fn remember_history(
    transaction: &mut MySqlConnection,
    table: &OutboxTable,
    term: Term,
    Proof { history, number }: Proof,
) -> Result<(), StoreError> {
    let text = format!(
        "/* outboxd: remember_history */ update {} set earlier_history = ?, earlier_proof = ? where term = ?",
        table.lease()
    );
    let statement = sqlx::query(sql(text)).bind(history.to_string()).bind(number).bind(term.0);
    let done = ask("remembering the history", statement.execute(transaction)).await?;
    if done.rows_affected() == 0 { Err(StoreError::TermOver { term }) } else { Ok(()) }
}

/// Settles the rows that were read after what is stored and up to a position, but for those of held lanes, some at a time.
async fn settle_between(
    conn: &mut MySqlConnection,
    table: &OutboxTable,
    how: Settle,
    stored: &Stored,
    to: &ReadPosition,
) -> Result<(), StoreError> {
    if how == Settle::Checkpoint {
        return Ok(());
    }
    let columns = table.columns();
    let mut after = stored.at.as_ref().map_or(0, ReadPosition::floor);
    let mut settled = 0;
    loop {
        let text = format!(
            "/* outboxd: look_for_progress */ select {id} from {outbox} force index (primary)
             where {id} > {after} and {is_read} and not {was_read} and {unsent} and not {covered}
             order by {id} limit {ROWS_PER_STEP}",
            id = columns.id,
            outbox = table.outbox(),
            is_read = is_read(Some(to), &columns.id),
            was_read = is_read(stored.at.as_ref(), &columns.id),
            unsent = columns.unsent(),
            covered = covered(&stored.held, &columns)
        );
        let ids = page::ids(conn, RECOVERING, text).await?;
        settle::settle_ids(conn, table, how, &ids).await?;
        settled += ids.len();
        match ids.last() {
            Some(last) if ids.len() >= ROWS_PER_STEP => after = *last,
            _ => break,
        }
    }
    if settled > 0 {
        tracing::info!(rows = settled, "recorded as published what the last leader had no time to record");
    }
    Ok(())
}
