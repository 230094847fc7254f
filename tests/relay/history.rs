//! Histories that fork under an exactly-once relay: a standby that was behind is promoted, a backup is restored, another
//! outbox has the same name. What Kafka remembers is not taken for what this database holds; nothing is lost.

use std::collections::BTreeMap;

use crate::support::daemon::{Daemon, Running};
use crate::support::database::{Database, migrate_table};
use crate::support::kafka::{Topic, text};
use crate::support::scene::Scene;
use crate::support::throwaway::Postgres;
use crate::support::{machine, services, wait};

/// What the stores' own tests do not tell apart: rows that bear a mark, and rows that bear none.
const SETTLE: [&str; 2] = ["mark", "checkpoint"];

fn exactly_once(database: &Database, brokers: &str, settle: &str) -> Daemon {
    Daemon::new(database.url(), brokers).with("relay.delivery", "exactly-once").with("outbox.settle", settle)
}

/// Commits rows one by one, whose payloads are their numbers.
async fn insert(database: &Database, table: &str, topic: &Topic, rows: std::ops::RangeInclusive<u32>) {
    for row in rows {
        let insert = format!("insert into {table} (topic, key, payload) values ($1, $2, convert_to($3, 'UTF8'))");
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert)).bind(topic.name()).bind((row % 7).to_string());
        insert.bind(row.to_string()).execute(database.pool()).await.expect("a row is inserted");
    }
}

/// Lets transaction ids run beyond those that were handed out in the future that is gone.
async fn burn_transaction_ids(database: &Database) {
    database.run("do $$ begin for i in 1..2000 loop perform pg_current_xact_id(); commit; end loop; end $$").await;
}

/// How often each row is in the topic.
async fn published(topic: &Topic) -> BTreeMap<u32, usize> {
    let mut rows = BTreeMap::new();
    topic.read(|record| *rows.entry(text(record).parse().expect("a number")).or_default() += 1).await;
    rows
}

async fn holds(topic: &Topic, rows: &[std::ops::RangeInclusive<u32>]) {
    let wanted: Vec<u32> = rows.iter().cloned().flatten().collect();
    let what = format!("the topic holds the rows {rows:?}");
    wait::until_true(&what, wait::PATIENCE, async || {
        let rows = published(topic).await;
        wanted.iter().all(|row| rows.contains_key(row))
    })
    .await;
}

/// Waits until the relay says that it does not believe what Kafka remembers, and ends it.
async fn refuses(mut relay: Running) {
    wait::until_true("the progress is refused", wait::PATIENCE, async || {
        relay.log().contains("not of this outbox's history") && relay.log().contains("relay.progress_topic")
    })
    .await;
    if relay.exited().is_none() {
        relay.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_was_behind_loses_no_row_that_it_has() {
    for settle in SETTLE {
        let _machine = machine::loaded().await;
        let primary = Postgres::start();
        let scene = Scene::set_on(primary.server()).await;
        let relay = exactly_once(&scene.database, &scene.brokers, settle);
        let mut running = relay.start().await;
        insert(&scene.database, "outbox", &scene.topic, 1..=10).await;
        holds(&scene.topic, &[1..=10]).await;
        let standby = primary.standby();
        standby.detach();
        insert(&scene.database, "outbox", &scene.topic, 11..=40).await;
        holds(&scene.topic, &[1..=40]).await;
        running.kill();

        standby.promote();
        let promoted = scene.database.on(standby.server());
        insert(&promoted, "outbox", &scene.topic, 1001..=1080).await;
        burn_transaction_ids(&promoted).await;
        let relay = exactly_once(&promoted, &scene.brokers, settle);
        refuses(relay.spawn()).await;
        let meant = format!("{}-meant", scene.topic.name());
        let mut running = relay.with("relay.progress_topic", &meant).start().await;
        holds(&scene.topic, &[1..=40, 1001..=1080]).await;
        assert_eq!(running.stop().await, Some(0));
        let rows = published(&scene.topic).await;
        assert!((1001..=1080).all(|row| rows[&row] == 1), "{rows:?} in mode {settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_loses_no_row_that_it_has() {
    for settle in SETTLE {
        let _machine = machine::loaded().await;
        let postgres = Postgres::start();
        let scene = Scene::set_on(postgres.server()).await;
        let relay = exactly_once(&scene.database, &scene.brokers, settle);
        let mut running = relay.start().await;
        insert(&scene.database, "outbox", &scene.topic, 1..=10).await;
        holds(&scene.topic, &[1..=10]).await;
        assert_eq!(running.stop().await, Some(0));
        let backup = postgres.back_up();
        let mut running = relay.start().await;
        insert(&scene.database, "outbox", &scene.topic, 11..=30).await;
        holds(&scene.topic, &[1..=30]).await;
        running.kill();

        postgres.restore(&backup);
        insert(&scene.database, "outbox", &scene.topic, 1001..=1050).await;
        burn_transaction_ids(&scene.database).await;
        refuses(relay.spawn()).await;
        let meant = format!("{}-meant", scene.topic.name());
        let mut running = relay.with("relay.progress_topic", &meant).start().await;
        holds(&scene.topic, &[1..=30, 1001..=1050]).await;
        assert_eq!(running.stop().await, Some(0));
        let rows = published(&scene.topic).await;
        assert!((1..=10).chain(1001..=1050).all(|row| rows[&row] == 1), "{rows:?} in mode {settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_had_everything_goes_on_and_shows_each_row_once() {
    for settle in SETTLE {
        let _machine = machine::loaded().await;
        let primary = Postgres::start();
        let scene = Scene::set_on(primary.server()).await;
        let standby = primary.standby();
        let promoted = scene.database.on(standby.server());
        let mut running = exactly_once(&scene.database, &scene.brokers, settle).start().await;
        insert(&scene.database, "outbox", &scene.topic, 1..=30).await;
        holds(&scene.topic, &[1..=30]).await;
        running.kill();
        // What the standby has got includes the proof of all that was published.
        insert(&scene.database, "outbox", &scene.topic, 31..=31).await;
        let has_all = "select count(*) from outbox where payload = convert_to('31', 'UTF8')";
        wait::until_true("the standby has everything", wait::PATIENCE, async || promoted.number(has_all).await == 1)
            .await;
        standby.detach();
        standby.promote();
        insert(&promoted, "outbox", &scene.topic, 1001..=1050).await;
        let mut running = exactly_once(&promoted, &scene.brokers, settle).start().await;
        holds(&scene.topic, &[1..=31, 1001..=1050]).await;
        assert_eq!(running.stop().await, Some(0));
        let rows = published(&scene.topic).await;
        assert!(rows.values().all(|times| *times == 1), "{rows:?} in mode {settle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_table_under_the_same_name_loses_none_of_its_rows() {
    for settle in SETTLE {
        let _machine = machine::loaded().await;
        let scene = Scene::set_on(&services::postgres()).await;
        migrate_table(scene.database.url(), "other");
        let relay = || exactly_once(&scene.database, &scene.brokers, settle).with("outbox.source", scene.topic.name());
        let mut running = relay().start().await;
        insert(&scene.database, "other", &scene.topic, 1001..=1020).await;
        insert(&scene.database, "outbox", &scene.topic, 1..=20).await;
        holds(&scene.topic, &[1..=20]).await;
        assert_eq!(running.stop().await, Some(0));
        refuses(relay().with("outbox.table", "other").spawn()).await;
        let name = format!("{}-other", scene.topic.name());
        let mut running = relay().with("outbox.table", "other").with("outbox.source", &name).start().await;
        holds(&scene.topic, &[1..=20, 1001..=1020]).await;
        assert_eq!(running.stop().await, Some(0));
        let rows = published(&scene.topic).await;
        assert!(rows.values().all(|times| *times == 1), "{rows:?} in mode {settle}");
    }
}
