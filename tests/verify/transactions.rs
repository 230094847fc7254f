//! Transactions of Kafka, aborted and open, as an audit sees them.

use rdkafka::producer::Producer;
use uuid::Uuid;

use super::{publish, send, sent_rows, source, transactional, verify, verify_between};
use crate::support::scene::Scene;
use crate::support::{machine, wait};

#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_aborted_transaction_are_seen_by_those_who_read_uncommitted() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 1).await;
    let source = source(&scene).await;
    publish(&scene, &source, "k", &rows);
    let producer = transactional(&scene);
    producer.begin_transaction().expect("begun");
    send(&producer, scene.topic.name(), &source, "k", &[(rows[0].0 + 1, Uuid::new_v4())]);
    producer.flush(wait::PATIENCE).expect("sent");
    producer.abort_transaction(wait::PATIENCE).expect("aborted");
    assert_eq!(verify(&scene, "mark", &[]).damage(), [0; 5]);
    let verdict = verify(&scene, "mark", &["--isolation", "read_uncommitted"]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [0, 0, 1, 0, 0]), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_behind_an_open_transaction_of_anybody_are_hidden_and_not_lost() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 3).await;
    let source = source(&scene).await;
    publish(&scene, &source, "k", &rows[..1]);
    let another = transactional(&scene);
    another.begin_transaction().expect("begun");
    send(&another, scene.topic.name(), "another.outbox", "k", &[(1, Uuid::new_v4())]);
    another.flush(wait::PATIENCE).expect("sent");
    publish(&scene, &source, "k", &rows[1..2]);

    // The third row is nowhere: an open transaction excuses only what is behind it.
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [1, 0, 0, 0, 0]), "{}", verdict.report);
    assert_eq!((verdict.count("hidden"), verdict.count("published")), (1, 1), "{}", verdict.report);
    assert_eq!(verdict.report["examples"]["lost"][0]["id"], rows[2].0);

    publish(&scene, &source, "k", &rows[2..]);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.count("hidden")), (Some(0), 2), "{}", verdict.report);
    let verdict = verify(&scene, "mark", &["--isolation", "read_uncommitted"]);
    assert_eq!((verdict.code, verdict.count("hidden"), verdict.count("published")), (Some(0), 0, 3));
    another.abort_transaction(wait::PATIENCE).expect("aborted");
    let verdict = verify(&scene, "mark", &["--no-duplicates"]);
    assert_eq!((verdict.code, verdict.count("hidden"), verdict.count("published")), (Some(0), 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_waits_for_a_transaction_that_is_about_to_commit() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 1).await;
    let source = source(&scene).await;
    let producer = transactional(&scene);
    producer.begin_transaction().expect("begun");
    send(&producer, scene.topic.name(), &source, "k", &rows);
    producer.flush(wait::PATIENCE).expect("sent");
    let (url, brokers) = (scene.database.url().to_owned(), scene.brokers.clone());
    let audit = tokio::task::spawn_blocking(move || verify_between(&url, &brokers, "mark", &[]));
    // It has read the rows, and has asked nothing more for longer than reading one record takes.
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle'
        and query like '%audit_rows%' and state_change < clock_timestamp() - interval '2 seconds'";
    wait::until_true("the audit waits", wait::PATIENCE, async || scene.database.number(waits).await == 1).await;
    producer.commit_transaction(wait::PATIENCE).expect("committed");
    let verdict = audit.await.expect("an audit");
    assert_eq!((verdict.code, verdict.damage()), (Some(0), [0; 5]), "{}", verdict.report);
    assert_eq!((verdict.count("published"), verdict.count("hidden")), (1, 0), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_publishes_in_transactions_passes_under_load_and_shows_every_row_once() {
    let _machine = machine::loaded().await;
    let scene = Scene::set().await;
    let mut relay = scene.relay().with("relay.delivery", "exactly-once").start().await;
    let writers = scene.steady_writers().start(&scene.seed).await;
    for round in 1..=5 {
        scene.topic.holds(round * 1_000).await;
        let verdict = verify(&scene, "mark", &["--no-duplicates"]);
        assert_eq!((verdict.code, verdict.damage()), (Some(0), [0; 5]), "{}", verdict.report);
    }
    let rows = writers.stop().await.rows_of(scene.topic.name());
    scene.all_settled().await;
    assert_eq!(relay.stop().await, Some(0));
    let verdict = verify(&scene, "mark", &["--no-duplicates"]);
    assert_eq!((verdict.code, verdict.damage(), verdict.count("hidden")), (Some(0), [0; 5], 0), "{}", verdict.report);
    assert_eq!((verdict.count("published"), verdict.count("records")), (rows, rows), "{}", verdict.report);
}
