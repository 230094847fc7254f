//! The smallest place where the binary can work: a SQLite file and a broker in this process.

use outboxd::kafka::{Broker, IsolationLevel, read_to_end};
use outboxd::outbox::Table;
use outboxd::{Message, sqlite};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use crate::support::daemon::Daemon;

pub(crate) const TOPIC: &str = "orders";

/// A migrated outbox in a file, and a broker with the topic [`TOPIC`].
pub(crate) struct Small {
    folder: TempDir,
    pub(crate) broker: Broker,
}

impl Small {
    pub(crate) async fn new() -> Self {
        let small = Self::without_tables();
        sqlite::migrate(&small.url(), &Table::default()).await.expect("the tables can be made");
        small
    }

    /// The same before `outboxd migrate`.
    pub(crate) fn without_tables() -> Self {
        let broker = Broker::start(1).expect("a broker starts in this process");
        broker.create_topic(TOPIC, 3).expect("the topic can be created");
        Self { folder: TempDir::new().expect("a temporary folder can be made"), broker }
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("shop.db").display())
    }

    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::new(&self.url(), self.broker.bootstrap_servers())
    }

    /// Commits so many messages of a few keys.
    pub(crate) async fn write(&self, messages: usize) {
        let message = |number| Message::to(TOPIC).key(format!("order-{}", number % 7)).text("{}").expect("valid");
        let messages: Vec<Message> = (0..messages).map(message).collect();
        let mut connection = self.connection().await;
        sqlite::enqueue_many(&mut connection, &messages).await.expect("messages can be written");
    }

    /// How many messages are not recorded as sent.
    pub(crate) async fn unsent(&self) -> i64 {
        let count = sqlx::query_scalar("select count(*) from outbox where sent_at is null");
        count.fetch_one(&mut self.connection().await).await.expect("the outbox can be read")
    }

    /// How many records the topic holds.
    pub(crate) async fn published(&self) -> usize {
        let brokers = self.broker.bootstrap_servers().to_owned();
        let properties = [("bootstrap.servers".to_owned(), brokers)].into();
        read_to_end(&properties, TOPIC, IsolationLevel::ReadCommitted).await.expect("the topic can be read").len()
    }

    /// Runs a statement.
    pub(crate) async fn run(&self, statement: &str) {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut self.connection().await).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    pub(crate) async fn connection(&self) -> SqliteConnection {
        SqliteConnection::connect(&self.url()).await.expect("the file can be opened")
    }
}
