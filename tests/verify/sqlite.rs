//! The same audit of an outbox in SQLite.

use outboxd::outbox::Table;
use outboxd::sqlite;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::{publish_to, verify_between};
use crate::support::daemon::Daemon;
use crate::support::kafka::Topic;
use crate::support::{machine, services};

/// What records of the file say they are from.
const SOURCE: &str = "shop.db.outbox";

struct Shop {
    directory: TempDir,
    topic: Topic,
    brokers: String,
}

impl Shop {
    async fn open() -> Self {
        let brokers = services::kafka();
        let topic = Topic::create(&brokers, 3).await;
        let shop = Self { directory: TempDir::new().expect("a temporary directory"), topic, brokers };
        sqlite::migrate(&shop.url(), &Table::default()).await.expect("migrated");
        shop
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.directory.path().join("shop.db").display())
    }

    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.directory.path().join("shop.db"));
        options.connect().await.expect("the file opens")
    }

    async fn run(&self, sql: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connect().await).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Rows of one key that no relay has published: their ids and event ids.
    async fn rows(&self, rows: i64) -> Vec<(i64, Uuid)> {
        let mut connection = self.connect().await;
        let insert = "with recursive n (n) as (select 1 union all select n + 1 from n where n < ?2) \
            insert into outbox (topic, key, payload) select ?1, 'k', 'x' from n returning id, event_id";
        let inserted = sqlx::query_as(insert).bind(self.topic.name()).bind(rows).fetch_all(&mut connection).await;
        let rows: Vec<(i64, String)> = inserted.expect("rows are inserted");
        rows.into_iter().map(|(id, event)| (id, event.parse().expect("a UUID"))).collect()
    }

    #[track_caller]
    fn assert_found(&self, settle: &str, damage: [u64; 5]) {
        let code = if damage[..3].iter().any(|count| *count > 0) { 1 } else { 0 };
        let topic = ["--topic", self.topic.name()];
        let verdict = verify_between(&self.url(), &self.brokers, settle, &topic);
        assert_eq!((verdict.code, verdict.damage()), (Some(code), damage), "{settle}: {}", verdict.report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_outbox_in_sqlite_passes_in_every_settle_mode() {
    for settle in ["mark", "delete", "checkpoint"] {
        let _machine = machine::shared().await;
        let shop = Shop::open().await;
        shop.rows(2_000).await;
        let relay = Daemon::new(&shop.url(), &shop.brokers).with("outbox.settle", settle);
        let mut relay = relay.start().await;
        shop.topic.holds(2_000).await;
        shop.assert_found(settle, [0; 5]);
        assert_eq!(relay.stop().await, Some(0));
        shop.assert_found(settle, [0; 5]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_an_outbox_in_sqlite_is_found_by_marks_and_by_checkpoint() {
    let _machine = machine::shared().await;
    let shop = Shop::open().await;
    let rows = shop.rows(5).await;
    publish_to(&shop.topic, &shop.brokers, SOURCE, "k", &[rows[2], rows[0], rows[2]]);
    // Nothing says yet that the second row was published.
    shop.assert_found("mark", [0, 1, 0, 1, 0]);
    shop.assert_found("checkpoint", [0, 1, 0, 1, 0]);
    let position = rows[3].0;
    shop.run(&format!("update outbox_checkpoint set position = {position}")).await;
    shop.run(&format!(
        "insert into outbox_held (topic, key, from_id, cause, since)
         values ('{}', 'k', {position}, 'missing_topic', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
        shop.topic.name()
    ))
    .await;
    shop.assert_found("checkpoint", [1, 1, 0, 1, 0]);
    shop.assert_found("mark", [0, 1, 0, 1, 0]);
    shop.run("update outbox set sent_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')").await;
    shop.assert_found("mark", [3, 1, 0, 1, 0]);
    publish_to(&shop.topic, &shop.brokers, SOURCE, "k", &[(rows[4].0 + 1, Uuid::new_v4())]);
    shop.assert_found("mark", [3, 1, 1, 1, 0]);
}
