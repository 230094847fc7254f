//! Published is exactly what committed, each lane in commit order, however the transactions interleave.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use crate::support::daemon::PROMPT;
use crate::support::database::Database;
use crate::support::kafka::text;
use crate::support::scene::Scene;
use crate::support::{machine, services};

/// Rows that are committed, by writers of which each batch holds those of many.
const ROWS: i64 = 40_000;

/// Writers interleave as fast as they can while the relay runs; then both sides are compared.
async fn publishes_what_committed(scene: Scene, settle: &str, rows: i64) {
    let mut relay = scene.relay().with_long_lease().with("outbox.settle", settle).start().await;
    let ledger = scene.writers(rows).start(&scene.seed).await.finish().await;
    scene.topic.holds(ledger.rows_of(scene.topic.name())).await;
    // Stopping drains, so whatever would come twice or uncalled-for is there by then.
    assert_eq!(relay.stop().await, Some(0));
    scene.audit(&ledger).await.assert_exact();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_committed_is_published_in_order_when_marking() {
    let _machine = machine::loaded().await;
    publishes_what_committed(Scene::set().await, "mark", ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_committed_is_published_in_order_when_deleting() {
    let _machine = machine::loaded().await;
    publishes_what_committed(Scene::set().await, "delete", ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_committed_is_published_in_order_when_checkpointing() {
    let _machine = machine::loaded().await;
    publishes_what_committed(Scene::set().await, "checkpoint", ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_committed_is_published_in_order_on_postgresql_13() {
    let _machine = machine::loaded().await;
    publishes_what_committed(Scene::set_on(&services::postgres_13()).await, "mark", ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_committer_delays_nobody_and_is_not_missed() {
    const OPEN_FOR: Duration = Duration::from_secs(10);
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();

    let mut late = begin(&scene.database).await;
    insert(&mut late, &scene, "late", "late").await;
    let opened = Instant::now();
    let mut expected = Vec::new();
    while opened.elapsed() < OPEN_FOR {
        let payload = format!("early {}", expected.len());
        scene.insert("early", &payload).await;
        expected.push(payload.clone());
        tail.until(&format!("{payload} arrives at once"), PROMPT, |seen| seen.iter().any(|r| text(r) == payload)).await;
    }
    assert_eq!(tail.payloads(), expected, "nothing of the open transaction, and the rest in order");
    commit(&mut late).await;
    tail.until("the late row arrives at once", PROMPT, |seen| seen.iter().any(|r| text(r) == "late")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_order_wins_over_transaction_id_order() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();
    for round in 0..30 {
        let key = format!("key-{round}");
        let (second, first) = (format!("{key} second"), format!("{key} first"));
        // T1 takes the lower transaction id with other work.
        let mut t1 = begin(&scene.database).await;
        t1.execute("select pg_current_xact_id()").await.expect("T1 takes a transaction id");
        scene.insert(&key, &first).await;
        // Half of the time the relay has published T2's row before T1 writes, half of the time perhaps not.
        if round % 2 == 0 {
            tail.records(2 * round + 1).await;
        }
        insert(&mut t1, &scene, &key, &second).await;
        commit(&mut t1).await;
        let seen = tail.records(2 * round + 2).await;
        let of_key: Vec<_> = seen.iter().map(text).filter(|payload| payload.starts_with(&format!("{key} "))).collect();
        assert_eq!(of_key, [first, second]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_savepoint_is_published_and_a_rolled_back_one_is_not() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();

    let mut open = begin(&scene.database).await;
    for (savepoint, payload, end) in [
        ("a", "released", "release savepoint a"),
        ("b", "rolled back", "rollback to savepoint b"),
        ("c", "kept", "select 1"),
    ] {
        open.execute(sqlx::AssertSqlSafe(format!("savepoint {savepoint}"))).await.expect("a savepoint");
        insert(&mut open, &scene, "k", payload).await;
        open.execute(end).await.expect("the savepoint ends");
        // The relay reads while the rows are there and uncommitted: a marker proves that it did.
        let marker = format!("marker {savepoint}");
        scene.insert("other", &marker).await;
        tail.until("the marker arrives", PROMPT, |seen| seen.iter().any(|r| text(r) == marker)).await;
    }
    commit(&mut open).await;
    scene.insert("k", "afterwards").await;
    tail.until("the last row arrives", PROMPT, |seen| seen.iter().any(|r| text(r) == "afterwards")).await;
    let payloads = tail.payloads();
    let of_key: Vec<_> = payloads.iter().filter(|payload| !payload.starts_with("marker")).collect();
    assert_eq!(of_key, ["released", "kept", "afterwards"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_in_another_database_delays_nothing() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let elsewhere = Database::empty(&services::postgres()).await;
    let mut long = begin(&elsewhere).await;
    long.execute("create table held_open (id int)").await.expect("a transaction that writes");

    let _relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();
    for round in 0..20 {
        let payload = format!("row {round}");
        scene.insert("k", &payload).await;
        tail.until(&format!("{payload} arrives at once"), PROMPT, |seen| seen.len() > round).await;
    }
    long.execute("rollback").await.expect("the long transaction was open all the time");
}

async fn begin(database: &Database) -> PgConnection {
    let mut connection = database.connect().await;
    connection.execute("begin").await.expect("a transaction begins");
    connection
}

async fn insert(connection: &mut PgConnection, scene: &Scene, key: &str, payload: &str) {
    let insert = sqlx::query("insert into outbox (topic, key, payload) values ($1, $2, convert_to($3, 'UTF8'))");
    let inserted = insert.bind(scene.topic.name()).bind(key).bind(payload).execute(connection).await;
    inserted.expect("a row is inserted");
}

async fn commit(connection: &mut PgConnection) {
    connection.execute("commit").await.expect("a transaction commits");
}
