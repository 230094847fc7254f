//! Transaction ids that are handed out again, and a database that moves to another cluster.

use std::process::{Command, Stdio};

use sqlx::Executor;

use crate::support::database::Database;
use crate::support::kafka::{Topic, text};
use crate::support::scene::Scene;
use crate::support::services::{self, Server};
use crate::support::throwaway::Postgres;
use crate::support::{machine, wait};

/// PostgreSQL hands out again the transaction ids of which nothing was flushed. A relay that kept its position
/// over the crash would take the new row for one that it has seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_transaction_id_was_used_before_a_crash_is_published() {
    const ATTEMPTS: usize = 10;
    let _machine = machine::loaded().await;
    let postgres = Postgres::start();
    let scene = Scene::set_on(postgres.server()).await;
    scene.database.run("alter system set wal_writer_delay = '10s'").await;
    postgres.restart();
    let relay = scene.relay().with("outbox.notify", "off").start().await;
    let mut tail = scene.topic.follow();

    let mut reused = false;
    for attempt in 0..ATTEMPTS {
        let highest = roll_back_inserts(&scene).await;
        let reads = relay.metric("outboxd_fetch_seconds_count").await;
        relay.reaches("outboxd_fetch_seconds_count", reads + 2.0).await;
        postgres.kill();
        postgres.restart();
        let payload = format!("row {attempt}");
        scene.insert("k", &payload).await;
        let xid = "select xid::text::bigint from outbox order by id desc limit 1";
        reused |= scene.database.number(xid).await <= highest;
        tail.until(&format!("{payload} is published"), wait::PATIENCE, |seen| seen.iter().any(|r| text(r) == payload))
            .await;
        if reused {
            return;
        }
    }
    panic!("no transaction id was handed out twice in {ATTEMPTS} attempts: this run proved nothing");
}

/// Says the highest transaction id that was rolled back.
async fn roll_back_inserts(scene: &Scene) -> i64 {
    let mut connection = scene.database.connect().await;
    let mut highest = 0;
    for _ in 0..3 {
        connection.execute("begin").await.expect("a transaction begins");
        let insert = sqlx::query_scalar("insert into outbox (topic) values ('never') returning xid::text::bigint");
        highest = insert.fetch_one(&mut connection).await.expect("a row is inserted");
        connection.execute("rollback").await.expect("a transaction is rolled back");
    }
    highest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_a_new_cluster_goes_on_where_it_was_when_marking() {
    a_restored_dump_goes_on("mark").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_a_new_cluster_goes_on_where_it_was_when_checkpointing() {
    a_restored_dump_goes_on("checkpoint").await;
}

async fn a_restored_dump_goes_on(settle: &str) {
    let _machine = machine::loaded().await;
    // From the oldest server, so that any pg_dump can read it; into a cluster whose transaction ids are lower.
    let scene = Scene::set_on(&services::postgres_13()).await;
    let missing = Topic::missing(&scene.brokers, 1);
    scene
        .database
        .run("do $$ begin for i in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$")
        .await;
    let mut relay = scene.relay().with("outbox.settle", settle).start().await;
    insert(&scene.database, scene.topic.name(), 1..=100).await;
    insert(&scene.database, missing.name(), 1..=10).await;
    scene.topic.holds(100).await;
    relay.reaches("outboxd_held_lanes", 1.0).await;
    assert_eq!(relay.stop().await, Some(0));
    insert(&scene.database, scene.topic.name(), 101..=150).await;
    insert(&scene.database, missing.name(), 11..=15).await;

    let postgres = Postgres::start();
    let restored = restore(&scene.database, postgres.server()).await;
    let relay = crate::support::daemon::Daemon::new(restored.url(), &scene.brokers).with("outbox.settle", settle);
    let mut relay = relay.start().await;
    scene.topic.holds(150).await;
    insert(&restored, scene.topic.name(), 151..=200).await;
    insert(&restored, missing.name(), 16..=20).await;
    scene.topic.holds(200).await;
    missing.appear().await;
    missing.holds(20).await;
    assert_eq!(relay.stop().await, Some(0));
    for (topic, rows) in [(&scene.topic, 200), (&missing, 20)] {
        let mut found = Vec::new();
        topic.read(|record| found.push(text(record))).await;
        assert_eq!(found, (1..=rows).map(|row: i32| row.to_string()).collect::<Vec<_>>());
    }
}

/// Rows of one key, a transaction each.
async fn insert(database: &Database, topic: &str, rows: std::ops::RangeInclusive<i32>) {
    for row in rows {
        let insert = "insert into outbox (topic, key, payload) values ($1, 'k', convert_to($2, 'UTF8'))";
        let inserted = sqlx::query(insert).bind(topic).bind(row.to_string()).execute(database.pool()).await;
        inserted.expect("a row is inserted");
    }
}

/// Dumps a database and restores it as a new one of another server.
async fn restore(database: &Database, server: &Server) -> Database {
    let restored = Database::empty(server).await;
    let dump = Command::new("pg_dump").args(["--no-owner", "--no-privileges", "--dbname", database.url()]).output();
    let dump = dump.expect("pg_dump is installed (package postgresql-client, version 13 or later)");
    assert!(dump.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dump.stderr));
    let mut psql = Command::new("psql");
    psql.args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", restored.url()]);
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("psql is installed");
    std::io::Write::write_all(&mut psql.stdin.take().expect("a pipe"), &dump.stdout).expect("psql reads the dump");
    assert!(psql.wait().expect("psql ends").success(), "the dump is restored");
    restored
}
