//! What one round plays on: a database, topics, relays with a proxy before each, and who writes.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, RwLock};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::{sleep, timeout};

use crate::support::audit::GivenUp;
use crate::support::daemon::{Daemon, Running};
use crate::support::database::{Database, migrate_for};
use crate::support::kafka::Topic;
use crate::support::ledger::{Ledger, read_payload};
use crate::support::proxy::Proxy;
use crate::support::seed::Seed;
use crate::support::wait;
use crate::support::workload::{Workload, Writers};
use crate::torture::mode::Mode;
use crate::torture::operator::{self, ROLE};
use crate::torture::rig::Rig;
use crate::torture::script::Script;

/// The relays' `lease.ttl`, in milliseconds.
pub(crate) const TTL: u64 = 1_000;

/// Topics of each outbox, and partitions of each topic.
const TOPICS: (usize, i32) = (2, 4);

/// Bytes of a payload that no topic takes, and what topics take then.
const LARGE: i32 = 20_000;
const LIMIT: &str = "10000";

/// What topics take otherwise.
pub(crate) const USUAL_LIMIT: &str = "1048588";

/// Records in a topic from which on it counts as flowing.
const FLOWING: u64 = 50;

/// How often an operator looks after lanes that wait.
const RELEASING: Duration = Duration::from_secs(1);

/// One round's world.
pub(crate) struct Stage<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) database: Database,
    pub(crate) outboxes: Vec<Outbox>,
    pub(crate) relays: Vec<Relay>,
    /// What is still on its way back when the faults are over.
    pub(crate) recovering: Mutex<JoinSet<()>>,
    /// Rows of which operators deleted the dead letters: topic, key and number.
    pub(crate) discarded: Mutex<Vec<(String, String, u64)>>,
    /// Shared by who starts a relay; alone has it who breaks what a relay proves before it begins.
    pub(crate) starting: RwLock<()>,
}

/// An outbox and what is written to it.
pub(crate) struct Outbox {
    pub(crate) table: String,
    pub(crate) topics: Vec<Topic>,
    /// One that appears late, if there is such.
    pub(crate) late: Option<Topic>,
    pub(crate) workload: Workload,
}

/// A relay: two of them work for each outbox, the even one and the odd one after it.
pub(crate) struct Relay {
    pub(crate) daemon: Daemon,
    pub(crate) proxy: Proxy,
    pub(crate) running: Mutex<Running>,
}

impl<'a> Stage<'a> {
    /// Makes all of it, and starts the relays.
    pub(crate) async fn set(rig: &'a Rig, script: &Script) -> Self {
        let server = rig.postgres.lock().await.server().clone();
        let database = Database::empty(&server).await;
        if rig.is_fresh() {
            // So that a crash takes rolled-back work with it that a reader has seen the ids of.
            database.run("alter system set wal_writer_delay = '10s'").await;
            database.run("select pg_reload_conf()").await;
            database.run(&format!("create role {ROLE} login password '{ROLE}'")).await;
        }
        let (mut outboxes, mut relays) = (Vec::new(), Vec::new());
        for number in 0..script.outboxes {
            let outbox = Outbox::make(rig, &database, number, script).await;
            for _ in 0..2 {
                relays.push(Relay::start(rig, &database, &outbox, script).await);
            }
            outboxes.push(outbox);
        }
        let (recovering, discarded) = (Mutex::default(), Mutex::default());
        Self { rig, database, outboxes, relays, recovering, discarded, starting: RwLock::default() }
    }

    /// Sets the writers to work, one group an outbox.
    pub(crate) async fn write(&self, seed: &Seed) -> Vec<Writers> {
        let mut writers = Vec::new();
        for outbox in &self.outboxes {
            writers.push(outbox.workload.clone().start(seed).await);
        }
        writers
    }

    /// What need not arrive: dead letters, and what operators deleted of them.
    pub(crate) async fn given_up(&self) -> GivenUp {
        let mut given_up = self.dead_letters().await;
        for (topic, key, seq) in &*self.discarded.lock().await {
            given_up.add(topic, key, *seq);
        }
        given_up
    }

    /// Dead letters of all outboxes. None while the database is away.
    pub(crate) async fn dead_letters(&self) -> GivenUp {
        let mut given_up = GivenUp::default();
        for outbox in &self.outboxes {
            let read = format!("select topic, payload from {}_dead where code <> 'unreadable'", outbox.table);
            let rows =
                sqlx::query_as::<_, (String, Vec<u8>)>(AssertSqlSafe(read)).fetch_all(self.database.pool()).await;
            for (topic, payload) in rows.unwrap_or_default() {
                let (key, seq) = read_payload(&payload).expect("a payload that a writer wrote");
                given_up.add(&topic, key, seq);
            }
        }
        given_up
    }

    /// Raises the topics' limits and releases the lanes that wait behind oversized records, again and again.
    pub(crate) async fn mend(&self) {
        for topic in self.topics() {
            topic.set("max.message.bytes", USUAL_LIMIT).await;
        }
        loop {
            for outbox in &self.outboxes {
                operator::release_all(self.database.url(), &outbox.table).expect("lanes are released");
            }
            sleep(RELEASING).await;
        }
    }

    /// Whether only records were given up that no topic takes, but for those that an operator gave up.
    pub(crate) async fn only_large_were_given_up(&self) -> Result<(), String> {
        for Outbox { table, .. } in &self.outboxes {
            let small = format!(
                "select count(*) from {table}_dead where length(payload) < {LARGE} and code not in ('unreadable', 'skipped')"
            );
            let small = self.database.number(&small).await;
            if small > 0 {
                return Err(format!("{small} records of {table} were given up that their topics take"));
            }
        }
        Ok(())
    }

    /// Whether the tables say that all is settled.
    pub(crate) async fn settled(&self, mode: Mode) -> Result<(), String> {
        for Outbox { table, .. } in &self.outboxes {
            let condition = match mode.settle {
                "mark" => "sent_at is null".to_owned(),
                "delete" => "true".to_owned(),
                // No row says so; the next reader begins at the checkpoint.
                _ => format!(
                    "not exists (select from {table}_checkpoint
                         where pg_visible_in_snapshot(xid, (position::json ->> 'prev')::pg_snapshot))"
                ),
            };
            let left = self.database.number(&format!("select count(*) from {table} where {condition}")).await;
            if left > 0 {
                return Err(format!("{left} rows of {table} are not settled, though all were published"));
            }
        }
        Ok(())
    }

    /// Waits until the tables say so, while the relays are at work. Says whether it came to that in time.
    pub(crate) async fn settles(&self, mode: Mode, patience: Duration) -> bool {
        let settled =
            wait::until_true("all is settled", wait::LONG_PATIENCE, async || self.settled(mode).await.is_ok());
        timeout(patience, settled).await.is_ok()
    }

    /// What has committed by now in all outboxes.
    pub(crate) async fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for outbox in &self.outboxes {
            ledger.merge(outbox.ledger().await);
        }
        ledger
    }

    /// Waits until everything that was broken is back.
    pub(crate) async fn whole(&self) {
        let mut recovering = self.recovering.lock().await;
        while let Some(back) = recovering.join_next().await {
            back.expect("a broker starts");
        }
    }

    /// Prints what the relays said, for a developer who looks into a failure.
    pub(crate) async fn show_logs(&self) {
        for relay in &self.relays {
            let running = relay.running.lock().await;
            eprintln!("--- relay {} ---\n{}", running.pid(), running.log());
        }
    }

    /// Waits until records flow in every topic. A fault that comes before that proves nothing: relays that deliver in
    /// transactions take seconds to begin.
    pub(crate) async fn flows(&self) {
        let flows = |topic: &&Topic| topic.count().is_ok_and(|records| records >= FLOWING);
        wait::until_true("records flow in every topic", wait::PATIENCE, async || {
            block_in_place(|| self.topics().iter().all(flows))
        })
        .await;
    }

    /// All topics that records are read from.
    pub(crate) fn audited(&self) -> Vec<&Topic> {
        self.outboxes.iter().flat_map(Outbox::audited).collect()
    }

    /// The topics of all outboxes.
    pub(crate) fn topics(&self) -> Vec<&Topic> {
        self.outboxes.iter().flat_map(|outbox| &outbox.topics).collect()
    }

    /// The outbox of a topic, by its number among all topics.
    pub(crate) fn outbox_of(&self, topic: usize) -> &Outbox {
        &self.outboxes[topic / TOPICS.0]
    }

    /// The other relay of the same outbox.
    pub(crate) fn partner(&self, relay: usize) -> &Relay {
        &self.relays[relay ^ 1]
    }
}

impl Outbox {
    async fn make(rig: &Rig, database: &Database, number: usize, script: &Script) -> Self {
        let table = if number == 0 { "outbox".to_owned() } else { format!("outbox_{number}") };
        migrate_for(database.url(), &table, ("outboxd", ROLE));
        let mut topics = Vec::new();
        for _ in 0..TOPICS.0 {
            topics.push(Topic::create_replicated(&rig.brokers, TOPICS.1, 3).await);
        }
        if script.has_oversized_records() {
            for topic in &topics {
                topic.set("max.message.bytes", LIMIT).await;
            }
        }
        let names: Vec<&str> = topics.iter().map(Topic::name).collect();
        let workload = Workload {
            writers: script.writers,
            keys: script.keys,
            outages: true,
            outbox: table.clone(),
            large: script.has_oversized_records().then_some((60, LARGE)),
            ..Workload::steady(database.url(), &names)
        };
        let late = script.has_late_topic(number).then(|| Topic::missing_replicated(&rig.brokers, TOPICS.1, 3));
        Self { table, topics, late, workload }
    }

    /// The topics that its records are read from.
    pub(crate) fn audited(&self) -> impl Iterator<Item = &Topic> {
        self.topics.iter().chain(&self.late)
    }

    /// What has committed by now.
    pub(crate) async fn ledger(&self) -> Ledger {
        self.workload.ledger().await
    }
}

impl Relay {
    async fn start(rig: &Rig, database: &Database, outbox: &Outbox, script: &Script) -> Self {
        let proxy = Proxy::before(database.url()).await;
        let url = proxy.url(database.url()).replacen("outboxd:outboxd", &format!("{ROLE}:{ROLE}"), 1);
        let daemon = Daemon::new(&url, &rig.brokers)
            .with("outbox.table", &outbox.table)
            .with("lease.ttl", &format!("{TTL}ms"))
            .with("relay.shutdown.deadline", "10s")
            // A broker that is back is noticed soon.
            .with("kafka.reconnect.backoff.max.ms", "500");
        let daemon = script.mode.set(daemon);
        let running = Mutex::new(daemon.spawn());
        Self { daemon, proxy, running }
    }

    /// A new process in place of one that has ended.
    pub(crate) fn again(&self) -> Running {
        self.daemon.spawn()
    }

    /// Whether it leads, as far as it answers.
    pub(crate) async fn leads(&self) -> bool {
        self.shows("outboxd_leader").await
    }

    /// Whether one of its metrics is more than 0, as far as it answers.
    pub(crate) async fn shows(&self, metric: &str) -> bool {
        self.running.lock().await.metric(metric).await > 0.0
    }
}
