//! What operators do: to rights, to the clock, to lanes that wait, and to a relay that refuses to go on.

use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::wait;
use crate::torture::script::{Fault, Script};
use crate::torture::stage::{Outbox, Relay, Stage};

/// The relays' role and its password: one that has the least it needs.
pub(crate) const ROLE: &str = "torture_relay";

/// How often the clock is stepped while it is wrong: a leader renews its lease several times in a second.
const STEP: Duration = Duration::from_millis(20);

/// How long one statement may take. The database may be away.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks for the release of all held lanes.
///
/// # Errors
/// When it cannot be asked for now.
pub(crate) fn release_all(url: &str, table: &str) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["held", "release", "--all", "--database-url", url, "--table", table]);
    let output = block_in_place(|| command.output()).expect("the binary starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let is_done = output.status.success() || complaint.contains("nothing of that is held");
    if is_done { Ok(()) } else { Err(complaint.into_owned()) }
}

/// Takes a right from the relays' role that they need, and gives it back. A relay must wait for it meanwhile; one that
/// is started without it may refuse, so none is.
///
/// # Errors
/// When a relay ends.
pub(crate) async fn revoke_right(stage: &Stage<'_>, script: &Script, fault: Fault) -> Result<bool, String> {
    let none_starts = stage.starting.write().await;
    let outbox = &stage.outboxes[fault.whom % stage.outboxes.len()];
    let rights = rights(outbox, script);
    let (right, table) = &rights[fault.whom % rights.len()];
    if !run(stage, &format!("revoke {right} on {table} from {ROLE}")).await {
        return Ok(false);
    }
    sleep(fault.lasting).await;
    let grant = format!("grant {right} on {table} to {ROLE}");
    wait::until_true("the right is given back", wait::PATIENCE, async || run(stage, &grant).await).await;
    // Who is about to start a relay has it locked.
    drop(none_starts);
    for relay in &stage.relays {
        if script.may_refuse() && relay.refuses().await {
            continue;
        }
        let mut running = relay.running.lock().await;
        if let Some(ended) = running.exited() {
            return Err(format!("a relay ended without {right} on {table}: {ended}\n{}", running.log()));
        }
    }
    Ok(true)
}

/// Locks settled rows, the lease and the checkpoint in a transaction that lasts. Says whether it could.
pub(crate) async fn lock_rows(stage: &Stage<'_>, fault: Fault) -> bool {
    let Outbox { table, .. } = &stage.outboxes[fault.whom % stage.outboxes.len()];
    let locks = format!(
        "begin; select from {table} order by id limit 100 for update; select from {table}_lease for update;
         select from {table}_checkpoint for update"
    );
    let locked = async {
        let mut connection = PgConnection::connect(stage.database.url()).await?;
        connection.execute(AssertSqlSafe(locks)).await?;
        Ok::<_, sqlx::Error>(connection)
    };
    let Ok(Ok(connection)) = timeout(ANSWER, locked).await else { return false };
    sleep(fault.lasting).await;
    // Its end gives the locks back.
    drop(connection);
    true
}

/// Rights that the relays use in this round.
fn rights(outbox: &Outbox, script: &Script) -> Vec<(&'static str, String)> {
    let Outbox { table, .. } = outbox;
    let settling = match script.mode.settle {
        "mark" => ("update", table.clone()),
        "delete" => ("delete", table.clone()),
        _ => ("insert, update", format!("{table}_checkpoint")),
    };
    let mut rights = vec![settling, ("select", table.clone()), ("select, update", format!("{table}_lease"))];
    if script.has_oversized_records() {
        let kept = if script.mode.blocks() { "held" } else { "dead" };
        rights.push(("insert", format!("{table}_{kept}")));
    }
    rights
}

/// Steps the database's clock to and fro, as far as a lease shows it. A healthy leader goes on leading. Says whether
/// there was a lease to be touched.
///
/// # Errors
/// When another term began, though nothing else was broken.
pub(crate) async fn step_clock(stage: &Stage<'_>, fault: Fault, is_alone: impl Fn() -> bool) -> Result<bool, String> {
    let Outbox { table, .. } = &stage.outboxes[fault.whom % stage.outboxes.len()];
    let sign = if fault.whom.is_multiple_of(2) { '-' } else { '+' };
    let step = format!("update {table}_lease set expires_at = clock_timestamp() {sign} interval '1 hour'");
    let (before, end) = (term(stage, table).await, Instant::now() + fault.lasting);
    let mut touched = false;
    while Instant::now() < end {
        touched |= run(stage, &step).await;
        sleep(STEP).await;
    }
    let after = term(stage, table).await;
    match (before, after) {
        (Some(before), Some(after)) if is_alone() && before != after => {
            Err(format!("term {before} of {table} ended at {after}, though the clock alone was stepped"))
        }
        _ => Ok(touched),
    }
}

/// The term that has a holder, as far as the database answers.
async fn term(stage: &Stage<'_>, table: &str) -> Option<i64> {
    let read = format!("select term from {table}_lease where holder is not null and not released");
    let read = sqlx::query_scalar(AssertSqlSafe(read)).fetch_optional(stage.database.pool()).into_future();
    timeout(ANSWER, read).await.ok()?.ok()?
}

/// Runs statements if the database answers.
async fn run(stage: &Stage<'_>, text: &str) -> bool {
    let run = sqlx::raw_sql(AssertSqlSafe(text)).execute(stage.database.pool());
    timeout(ANSWER, run).await.is_ok_and(|done| done.is_ok())
}

impl Relay {
    /// Whether it ended because what the broker remembers is not of this database's history, which is right once that
    /// was taken back.
    pub(crate) async fn refuses(&self) -> bool {
        let mut running = self.running.lock().await;
        running.exited().is_some_and(|ended| ended.code() == Some(1)) && running.log().contains("progress in Kafka")
    }
}

/// Repairs, as the manual says, whatever refuses to go on, until it is over. Says how many outboxes needed that.
///
/// # Errors
/// When a relay that was started as the repair asks for does not do its part.
pub(crate) async fn repair(stage: &Stage<'_>, is_over: &CancellationToken) -> Result<usize, String> {
    let mut repaired = 0;
    while !is_over.is_cancelled() {
        for (outbox, pair) in stage.outboxes.iter().zip(stage.relays.chunks(2)) {
            if pair[0].refuses().await && pair[1].refuses().await {
                go_on_from_here(stage, outbox, pair).await?;
                repaired += 1;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(repaired)
}

/// Publishes at least once what may or may not have been, and lets the broker forget what it remembers.
async fn go_on_from_here(stage: &Stage<'_>, outbox: &Outbox, pair: &[Relay]) -> Result<(), String> {
    let mut once = pair[0].daemon.clone().with("relay.delivery", "at-least-once").spawn();
    once.reaches("outboxd_leader", 1.0).await;
    if once.stop().await != Some(0) {
        return Err(format!("the relay that was to publish at least once failed:\n{}", once.log()));
    }
    stage.rig.forget_progress(&format!("{}.public.{}", stage.database.name(), outbox.table));
    for relay in pair {
        let mut running = relay.running.lock().await;
        *running = relay.again();
        running.ready().await;
    }
    Ok(())
}
