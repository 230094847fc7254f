//! What most tests need: a migrated database, a topic, and a relay between them.

use crate::support::audit::{Auditor, Verdict};
use crate::support::daemon::Daemon;
use crate::support::database::Database;
use crate::support::kafka::Topic;
use crate::support::ledger::Ledger;
use crate::support::seed::Seed;
use crate::support::services::{self, Server};
use crate::support::wait;
use crate::support::workload::Workload;

/// A database with an outbox, a topic of 6 partitions, and the seed of whatever is random.
pub(crate) struct Scene {
    pub(crate) seed: Seed,
    pub(crate) database: Database,
    pub(crate) topic: Topic,
    pub(crate) brokers: String,
}

impl Scene {
    /// On the newest PostgreSQL.
    pub(crate) async fn set() -> Self {
        Self::set_on(&services::postgres()).await
    }

    /// On a given server, with the testbed's Kafka.
    pub(crate) async fn set_on(server: &Server) -> Self {
        Self::set_between(server, &services::kafka()).await
    }

    /// On a given server and given brokers.
    pub(crate) async fn set_between(server: &Server, brokers: &str) -> Self {
        let database = Database::migrated(server).await;
        let topic = Topic::create(brokers, 6).await;
        Self { seed: Seed::take(), database, topic, brokers: brokers.to_owned() }
    }

    /// On the given server, with the testbed's Kafka, and records that bear the time at which they were appended.
    pub(crate) async fn set_stamped(server: &Server) -> Self {
        let (brokers, database) = (services::kafka(), Database::migrated(server).await);
        let topic = Topic::create_stamped(&brokers, 6).await;
        Self { seed: Seed::take(), database, topic, brokers }
    }

    /// A relay that is not started yet.
    pub(crate) fn relay(&self) -> Daemon {
        Daemon::new(self.database.url(), &self.brokers)
    }

    /// Fast writers to the topic, not started yet.
    pub(crate) fn writers(&self, rows: i64) -> Workload {
        Workload::new(self.database.url(), &[self.topic.name()], rows)
    }

    /// Writers to the topic that go on until they are stopped, not started yet.
    pub(crate) fn steady_writers(&self) -> Workload {
        Workload::steady(self.database.url(), &[self.topic.name()])
    }

    /// Inserts one row and commits.
    pub(crate) async fn insert(&self, key: &str, payload: &str) {
        let insert = sqlx::query("insert into outbox (topic, key, payload) values ($1, $2, convert_to($3, 'UTF8'))");
        let inserted = insert.bind(self.topic.name()).bind(key).bind(payload).execute(self.database.pool()).await;
        inserted.expect("a row is inserted");
    }

    /// Waits until no row is unsettled; for the modes that write to the rows.
    pub(crate) async fn all_settled(&self) {
        wait::until_true("every row is settled", wait::LONG_PATIENCE, async || {
            self.database.number("select count(*) from outbox where sent_at is null").await == 0
        })
        .await;
    }

    /// Compares all that the topic holds with what committed.
    pub(crate) async fn audit(&self, ledger: &Ledger) -> Verdict {
        audit(&self.topic, ledger).await
    }
}

/// Compares all that a topic holds with what committed.
pub(crate) async fn audit(topic: &Topic, ledger: &Ledger) -> Verdict {
    let mut auditor = Auditor::default();
    topic.read(|record| auditor.see(record)).await;
    auditor.judge(ledger, &[topic.name()])
}
