//! One leader at a time, and a clean takeover: real processes on real PostgreSQL and Apache Kafka, under load.
//!
//! Each relay says on its records that it sent them, and the broker stamps them with the time of the append, so that
//! what consumers saw tells who published until when.

mod handover;
mod pause;
mod severed;

use std::time::Duration;

use chrono::Utc;
use rdkafka::message::Message;

use crate::support::audit::{Auditor, Verdict};
use crate::support::daemon::{Daemon, Running};
use crate::support::kafka::header;
use crate::support::ledger::Ledger;
use crate::support::scene::Scene;
use crate::support::services::{self, Server};

/// The lease of these tests: a busy machine renews it in time.
const TTL: Duration = Duration::from_secs(2);

/// A place where relays take over from each other.
struct Stage {
    scene: Scene,
}

/// A record as the broker has it.
struct Appended {
    /// Who sent it.
    by: String,
    partition: i32,
    offset: i64,
    /// When, in milliseconds of the wall clock.
    at: i64,
}

impl Stage {
    async fn set() -> Self {
        Self::set_on(&services::postgres()).await
    }

    async fn set_on(server: &Server) -> Self {
        Self { scene: Scene::set_stamped(server).await }
    }

    /// A relay of this name, not started yet.
    fn relay(&self, name: &str) -> Daemon {
        self.relay_through(name, self.scene.database.url())
    }

    /// The same, which reaches the database by this URL.
    fn relay_through(&self, name: &str, url: &str) -> Daemon {
        let relay = Daemon::new(url, &self.scene.brokers);
        relay.with("outbox.source", name).with("lease.ttl", &format!("{}ms", TTL.as_millis()))
    }

    /// Starts a relay and waits until it leads.
    async fn leader(&self, name: &str) -> Running {
        let leader = self.relay(name).start().await;
        leader.reaches("outboxd_leader", 1.0).await;
        leader
    }

    /// Waits until so many more records are published.
    async fn published(&self, more: u64) {
        let before = self.scene.topic.count().expect("the broker answers");
        self.scene.topic.holds(before + more).await;
    }

    /// What every record says, partition by partition in the order of the offsets, and what the audit says.
    async fn records(&self, ledger: &Ledger, mut auditor: Auditor) -> (Vec<Appended>, Verdict) {
        let mut records = Vec::new();
        let topic = &self.scene.topic;
        topic
            .read(|record| {
                auditor.see(record);
                let by = header(record, "outbox-source").expect("every record says who sent it").to_owned();
                let at = record.timestamp().to_millis().expect("the broker stamps");
                records.push(Appended { by, partition: record.partition(), offset: record.offset(), at });
            })
            .await;
        (records, auditor.judge(ledger, &[topic.name()]))
    }
}

/// When this relay's first record was appended.
fn first(records: &[Appended], by: &str) -> i64 {
    records.iter().filter(|record| record.by == by).map(|record| record.at).min().expect("it published")
}

/// When this relay's last record was appended.
fn last(records: &[Appended], by: &str) -> i64 {
    records.iter().filter(|record| record.by == by).map(|record| record.at).max().expect("it published")
}

/// The records of `old` that stand behind a record of `new` in their partition.
fn stale<'a>(records: &'a [Appended], old: &str, new: &str) -> Vec<&'a Appended> {
    let is_after = |record: &&Appended| {
        let beginning = records.iter().filter(|other| other.by == new && other.partition == record.partition);
        beginning.map(|other| other.offset).min().is_some_and(|beginning| record.offset > beginning)
    };
    records.iter().filter(|record| record.by == old).filter(is_after).collect()
}

/// A time in the milliseconds in which the broker stamps.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("a time that a test waits for")
}

/// The wall clock, in milliseconds.
fn now() -> i64 {
    Utc::now().timestamp_millis()
}

/// Prints figures for a developer who reads the test's output.
fn report(what: &str, figures: impl std::fmt::Debug) {
    println!("measured: {what}: {figures:?}");
}
