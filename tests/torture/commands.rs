//! What operators type while things break: pausing, stepping down, sending again, and moving single messages.
//!
//! A command may fail, or be done and not say so: what must have an end is typed until there is nothing more to do.

use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::support::wait;
use crate::torture::operator;
use crate::torture::rows::{Hand, Written};
use crate::torture::script::{Fault, Kind, Script};
use crate::torture::stage::{Outbox, Stage};

/// Messages of a key that are given up.
const GIVEN_UP: u64 = 4;

/// A partition that no topic has.
const NO_PARTITION: i32 = 9_999;

/// How long a relay may take to obey. With something else broken it may take too long for a round.
const OBEYED: Duration = Duration::from_secs(5);

/// Someone at a terminal, and an outbox.
struct Operator<'a> {
    hand: Hand<'a>,
    settle: &'static str,
    fault: Fault,
}

/// Does what an operator does, to its end. Says whether it had an effect.
pub(crate) async fn type_in(stage: &Stage<'_>, script: &Script, fault: Fault, deed: Kind) -> bool {
    let operator = Operator { hand: Hand::of(stage, fault), settle: script.mode.settle, fault };
    match deed {
        Kind::PauseAll => operator.pause(&[]).await,
        Kind::PauseTopics => operator.pause(&["--topic", &pattern(operator.hand.topic().name())]).await,
        Kind::StepDown => operator.types(&["step-down", "--reason", "torture"]).await.is_ok(),
        Kind::Replay => operator.replay().await,
        Kind::Requeue => operator.requeue().await,
        Kind::Discard => operator.discard().await,
        Kind::Skip => operator.skip().await,
        Kind::Purge => operator.types(&["purge", "--older-than", "500ms", "--reason", "torture"]).await.is_ok(),
        fault => unreachable!("{fault:?} is no operator's"),
    }
}

fn pattern(topic: &str) -> String {
    format!("{topic}*")
}

/// Resumes whatever a database that was taken back has paused again.
pub(crate) async fn resume_again(stage: &Stage<'_>, script: &Script) {
    for (number, outbox) in stage.outboxes.iter().enumerate() {
        let fault = Fault { whom: number, ..script.faults[0] };
        let operator = Operator { hand: Hand::of(stage, fault), settle: script.mode.settle, fault };
        operator.resume(&[]).await;
        for topic in &outbox.topics {
            operator.resume(&["--topic", &pattern(topic.name())]).await;
        }
    }
}

/// Waits until every replay has come to its end. Says whether it came to that in time.
pub(crate) async fn replays_end(stage: &Stage<'_>, patience: Duration) -> bool {
    let ended = wait::until_true("no operation runs", wait::LONG_PATIENCE, async || {
        for Outbox { table, .. } in &stage.outboxes {
            let running = format!("select count(*) from {table}_operation where state = 'running'");
            if stage.database.number(&running).await > 0 {
                return false;
            }
        }
        true
    });
    timeout(patience, ended).await.is_ok()
}

/// Whether the audit log tells of all that operators did.
///
/// # Errors
/// When it lacks something.
pub(crate) async fn are_told(stage: &Stage<'_>, done: &[(Kind, Duration)]) -> Result<(), String> {
    for (kind, _) in done {
        let command = match kind {
            Kind::PauseAll | Kind::PauseTopics => "resume",
            Kind::StepDown => "step-down",
            Kind::Replay => "replay",
            Kind::Requeue => "dead requeue",
            Kind::Discard => "dead discard",
            Kind::Skip => "skip",
            Kind::Purge => "purge",
            _ => continue,
        };
        let mut told = 0;
        for Outbox { table, .. } in &stage.outboxes {
            let entries = format!("select count(*) from {table}_audit where command = '{command}'");
            told += stage.database.number(&entries).await;
        }
        if told == 0 {
            return Err(format!("an operator did {kind:?}, and the audit log has no {command}"));
        }
    }
    Ok(())
}

impl Operator<'_> {
    /// Types a command, and returns what it says.
    ///
    /// # Errors
    /// With what it complains of.
    async fn types(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.args(arguments).args(["--yes", "--database-url", self.hand.stage.database.url()]);
        command.args(["--table", &self.hand.outbox.table]).env("OUTBOXD_OUTBOX__SETTLE", self.settle);
        let output = spawn_blocking(move || command.output()).await.expect("no panic").expect("the binary starts");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Types a command until it has nothing more to do, which it says so.
    async fn types_until(&self, arguments: &[&str], nothing_more: &[&str]) {
        wait::until_true(&format!("{arguments:?} has nothing to do"), wait::PATIENCE, async || {
            let said = self.types(arguments).await;
            said.is_err_and(|complaint| nothing_more.iter().any(|nothing| complaint.contains(nothing)))
        })
        .await;
    }

    /// Pauses topics, or everything, and resumes them in any case.
    async fn pause(&self, topics: &[&str]) -> bool {
        let asked = self.types(&[&["pause", "--reason", "torture"], topics].concat()).await;
        let obeyed = wait::until_true("a relay obeys", wait::PATIENCE, async || {
            let relays = self.hand.relays();
            relays[0].shows("outboxd_paused").await || relays[1].shows("outboxd_paused").await
        });
        let is_obeyed = asked.is_ok() && timeout(OBEYED, obeyed).await.is_ok();
        sleep(self.fault.lasting).await;
        self.resume(topics).await;
        is_obeyed
    }

    async fn resume(&self, topics: &[&str]) {
        self.types_until(&[&["resume"], topics].concat(), &["nothing is paused", "there is no pause of"]).await;
    }

    /// Has a topic sent again, and cancels that every other time.
    async fn replay(&self) -> bool {
        let rate = (500 * (1 + self.fault.whom % 8)).to_string();
        let topic = self.hand.topic().name();
        let asked = self.types(&["replay", "--topic", topic, "--rate", &rate, "--reason", "torture"]).await;
        let Ok(said) = asked else { return false };
        if self.fault.whom.is_multiple_of(2) {
            let id = said.strip_prefix("operation ").and_then(|rest| rest.split(':').next()).expect("a number");
            sleep(self.fault.lasting / 2).await;
            self.types_until(&["operations", "cancel", id], &["does not run"]).await;
        }
        true
    }

    /// Puts letters back before more is written to their lane, which therefore is in order.
    async fn requeue(&self) -> bool {
        let key = "requeued-0";
        let written = self.write_letters(key).await;
        sleep(self.fault.lasting / 2).await;
        self.end_letters("requeue", key).await;
        let followed = self.hand.follow(&[key]).await;
        written.is_ok() && followed.is_ok()
    }

    /// Deletes letters: none of them need arrive, and none may.
    async fn discard(&self) -> bool {
        let (topic, key) = (self.hand.topic().name(), "discarded-0");
        let written = self.write_letters(key).await;
        sleep(self.fault.lasting / 2).await;
        self.end_letters("discard", key).await;
        if self.hand.outbox.ledger().await.last(topic, key) > 0 {
            self.hand
                .stage
                .discarded
                .lock()
                .await
                .extend((1..=GIVEN_UP).map(|seq| (topic.to_owned(), key.to_owned(), seq)));
        }
        let followed = self.hand.follow(&[key]).await;
        written.is_ok() && followed.is_ok()
    }

    async fn end_letters(&self, how: &str, key: &str) {
        let topic = self.hand.topic().name();
        let arguments = ["dead", how, "--topic", topic, "--key", key, "--reason", "torture"];
        self.types_until(&arguments, &["no dead letter is meant by that"]).await;
    }

    /// Gives up all of a lane whose records are rejected, and releases it.
    async fn skip(&self) -> bool {
        let (topic, table, key) = (self.hand.topic().name(), &self.hand.outbox.table, "skipped-0");
        let written = self.write_impossible(key).await;
        let partition = NO_PARTITION.to_string();
        let skip = ["skip", "--topic", topic, "--partition", &partition, "--limit", "100", "--reason", "torture"];
        let waiting = format!("select count(*) from {table} where key = '{key}' and partition = {NO_PARTITION}");
        wait::until_true("all of the lane is given up", wait::PATIENCE, async || {
            let _may_be_in_flight = self.types(&skip).await;
            let waiting = sqlx::query_scalar::<_, i64>(AssertSqlSafe(&*waiting));
            waiting.fetch_one(self.hand.stage.database.pool()).await.is_ok_and(|waiting| waiting == 0)
        })
        .await;
        let release = async || operator::release_all(self.hand.stage.database.url(), table).is_ok();
        wait::until_true("the lane is released", wait::PATIENCE, release).await;
        let followed = self.hand.follow(&[key]).await;
        written.is_ok() && followed.is_ok()
    }

    /// Writes messages and makes dead letters of them in one transaction, so that no relay ever sees them.
    async fn write_letters(&self, key: &str) -> Written {
        let Outbox { table, .. } = self.hand.outbox;
        let columns = "id, event_id, topic, key, payload, headers, partition, created_at";
        let bury = format!(
            "with gone as (delete from {table} where key = '{key}' returning *)
             insert into {table}_dead ({columns}, code, message) select {columns}, 'too_large', 'torture' from gone"
        );
        self.write(key, GIVEN_UP, &bury).await
    }

    /// Writes messages that no topic can take.
    async fn write_impossible(&self, key: &str) -> Written {
        let Outbox { table, .. } = self.hand.outbox;
        self.write(key, GIVEN_UP, &format!("update {table} set partition = {NO_PARTITION} where key = '{key}'")).await
    }

    async fn write(&self, key: &str, count: u64, and_then: &str) -> Written {
        let mut connection: PgConnection = self.hand.connect().await?;
        connection.execute("begin").await?;
        self.hand.events(&mut connection, key, self.hand.topic().name(), count as i64).await?;
        connection.execute(AssertSqlSafe(and_then)).await?;
        connection.execute("commit").await.map(drop)
    }
}
