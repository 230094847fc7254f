//! An outbox on either kind of database, with a topic and a relay that is not started yet: what an operator meets is the same.

use std::process::Output;

use outboxd::contract::{DatabaseSettings, Messages, OutboxStore};
use outboxd::kafka::{Consumed, IsolationLevel, read_to_end};
use outboxd::outbox::{Settle, Table};
use outboxd::secret::Secret;
use outboxd::{postgres, sqlite};
use serde_json::Value;
use sqlx::PgConnection;

use crate::daemon::small::{self, Small};
use crate::daemon::{outboxd, ran, stderr, stdout};
use crate::support::daemon::{Daemon, Running};
use crate::support::scene::Scene;
use crate::support::wait;

/// An outbox in a SQLite file, or in PostgreSQL.
pub(super) enum Place {
    File(Small),
    Server(Box<Scene>),
}

impl Place {
    /// One of each kind.
    pub(super) async fn both() -> [Self; 2] {
        [Self::File(Small::new().await), Self::server().await]
    }

    /// The one in PostgreSQL.
    pub(super) async fn server() -> Self {
        Self::Server(Box::new(Scene::set().await))
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self, Place::File(_))
    }

    pub(super) fn url(&self) -> String {
        match self {
            Place::File(small) => small.url(),
            Place::Server(scene) => scene.database.url().to_owned(),
        }
    }

    pub(super) fn brokers(&self) -> String {
        match self {
            Place::File(small) => small.broker.bootstrap_servers().to_owned(),
            Place::Server(scene) => scene.brokers.clone(),
        }
    }

    /// The topic that there is.
    pub(super) fn topic(&self) -> String {
        match self {
            Place::File(_) => small::TOPIC.to_owned(),
            Place::Server(scene) => scene.topic.name().to_owned(),
        }
    }

    /// The outbox without the binary.
    pub(super) fn store(&self) -> Box<dyn Messages> {
        let settings = DatabaseSettings::new(Secret::new(self.url()), Table::default(), Settle::Mark);
        match self {
            Place::File(_) => Box::new(sqlite::Store::new(settings).expect("a store")),
            Place::Server(_) => Box::new(postgres::Store::new(settings).expect("a store")),
        }
    }

    /// What a relay records in, without the binary.
    pub(super) fn outbox_store(&self) -> Box<dyn OutboxStore> {
        let settings = DatabaseSettings::new(Secret::new(self.url()), Table::default(), Settle::Mark);
        match self {
            Place::File(_) => Box::new(sqlite::Store::new(settings).expect("a store")),
            Place::Server(_) => Box::new(postgres::Store::new(settings).expect("a store")),
        }
    }

    /// Another session, in the middle of a transaction that did this.
    pub(super) async fn begun(&self, statement: &'static str) -> PgConnection {
        let Place::Server(scene) = self else { panic!("a file has one writer") };
        let mut connection = scene.database.connect().await;
        for statement in ["begin", statement] {
            sqlx::raw_sql(statement).execute(&mut connection).await.expect("it can be done");
        }
        connection
    }

    pub(super) fn relay(&self) -> Daemon {
        match self {
            Place::File(small) => small.daemon(),
            Place::Server(scene) => scene.relay(),
        }
    }

    /// Makes a relay lead that does nothing.
    pub(super) async fn somebody_leads(&self) {
        let released = if self.is_file() { "" } else { ", released = false" };
        self.run(&format!("update outbox_lease set holder = 'relay-1', expires_at = '2999-01-01T00:00:00Z'{released}"))
            .await;
    }

    /// A relay with these settings that waits for the lease of one that does nothing.
    pub(super) async fn waiting_relay(&self, settings: &[(&str, &str)]) -> Running {
        self.somebody_leads().await;
        let with = |daemon: Daemon, (setting, value): &(&str, &str)| daemon.with(setting, value);
        settings.iter().fold(self.relay().with_long_lease(), with).start().await
    }

    /// Runs a statement, in which TOPIC stands for the topic.
    pub(super) async fn run(&self, statement: &str) {
        let statement = statement.replace("TOPIC", &self.topic());
        match self {
            Place::File(small) => small.run(&statement).await,
            Place::Server(scene) => scene.database.run(&statement).await,
        }
    }

    /// Commits so many messages with the payloads 1, 2 and so on, of so many keys in turn.
    pub(super) async fn write(&self, messages: u32, keys: u32) {
        let payload = if self.is_file() { "cast(n as text)" } else { "convert_to(n::text, 'UTF8')" };
        self.run(&format!(
            "insert into outbox (topic, key, payload, headers)
             with recursive n (n) as (select 1 union all select n + 1 from n where n < {messages})
             select 'TOPIC', 'key-' || (n % {keys}), {payload}, '{{\"a\": \"b\"}}' from n order by n"
        ))
        .await;
    }

    /// Gives up those messages that meet a condition, as a relay does.
    pub(super) async fn kill(&self, condition: &str) {
        self.run(&format!(
            "insert into outbox_dead (id, event_id, topic, key, payload, headers, partition, created_at, code, message)
             select id, event_id, topic, key, payload, headers, partition, created_at, 'too_large', 'larger than the topic takes'
             from outbox where {condition};
             delete from outbox where {condition}"
        ))
        .await;
    }

    /// The number that a query says.
    pub(super) async fn number(&self, query: &str) -> i64 {
        match self {
            Place::File(small) => {
                let number = sqlx::query_scalar(sqlx::AssertSqlSafe(query));
                number.fetch_one(&mut small.connection().await).await.expect("a number")
            }
            Place::Server(scene) => scene.database.number(query).await,
        }
    }

    /// Runs a command on the outbox.
    pub(super) fn outboxd(&self, arguments: &[&str]) -> Output {
        let url = self.url();
        ran(&[arguments, &["--database-url", &url]].concat())
    }

    /// Runs a command that succeeds, and returns what it says.
    pub(super) fn said(&self, arguments: &[&str]) -> String {
        let output = self.outboxd(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// Runs a command that fails with exit code 1, and returns what it complains of.
    pub(super) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.outboxd(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stdout(&output));
        stderr(&output)
    }

    /// The objects that a command writes, one a line.
    pub(super) fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.said(&[arguments, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// The audit log: each command, how much it changed, and why; the last first.
    pub(super) fn audit_log(&self) -> Vec<(String, u64, Option<String>)> {
        let told = |entry: &Value| {
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            (text("command").expect("a command"), entry["affected"].as_u64().expect("a number"), text("reason"))
        };
        self.objects(&["audit-log"]).iter().map(told).collect()
    }

    /// All that the topic holds.
    pub(super) async fn records(&self) -> Vec<Consumed> {
        let properties = [("bootstrap.servers".to_owned(), self.brokers())].into();
        read_to_end(&properties, &self.topic(), IsolationLevel::ReadCommitted).await.expect("the topic can be read")
    }

    /// Waits until the topic holds so many records.
    pub(super) async fn holds(&self, records: usize) {
        let what = format!("the topic holds {records} records");
        wait::until_true(&what, wait::PATIENCE, async || self.records().await.len() >= records).await;
    }

    /// Waits until nothing is unsettled.
    pub(super) async fn all_settled(&self) {
        wait::until_true("every row is settled", wait::PATIENCE, async || {
            self.number("select count(*) from outbox where sent_at is null").await == 0
        })
        .await;
    }

    /// What `outboxd verify` finds of the topic, with its exit code.
    pub(super) fn verified(&self) -> (Option<i32>, Value) {
        self.verified_with("mark")
    }

    /// As [`verified`](Self::verified), where rows are settled in another way.
    pub(super) fn verified_with(&self, settle: &str) -> (Option<i32>, Value) {
        let (brokers, topic, url) = (self.brokers(), self.topic(), self.url());
        let arguments = ["verify", "--json", "--brokers", &brokers, "--topic", &topic, "--database-url", &url];
        let output = outboxd(&arguments).env("OUTBOXD_OUTBOX__SETTLE", settle).output().expect("the binary starts");
        (output.status.code(), serde_json::from_slice(&output.stdout).expect("the report is JSON"))
    }
}
