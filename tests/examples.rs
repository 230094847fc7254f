//! Every example does what it says, run as its reader would run it.

use std::path::Path;
use std::process::Command;

use crate::support::database::migrate;
use crate::support::machine;
use crate::support::scene::Scene;

/// Runs an example to its end and returns what it printed.
pub(crate) fn run(example: &str, environment: &[(&str, &str)]) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_outboxd")).with_file_name("examples").join(example);
    let output = Command::new(&binary).envs(environment.iter().copied()).output();
    let output = output.unwrap_or_else(|error| panic!("{} was not built by `cargo test`: {error}", binary.display()));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example} failed: {errors}");
    String::from_utf8(output.stdout).expect("an example prints text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_enqueued_in_a_transaction_of_postgresql() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let said = run("enqueue_postgres", &[("DATABASE_URL", scene.database.url())]);
    assert!(said.contains("are committed"), "{said}");
    let count =
        "select count(*) from outbox o join orders r on o.key = r.id::text where topic = 'orders.order.created'";
    assert_eq!(scene.database.number(count).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_runs_inside_a_process_of_ones_own() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    scene.insert("key", "payload").await;
    let environment = [("DATABASE_URL", scene.database.url()), ("BROKERS", &scene.brokers)];
    let said = run("embed_relay", &environment);
    assert_eq!(said.trim(), "ended: Graceful");
    assert_eq!(scene.topic.count().expect("the topic is there"), 1);
}

#[test]
fn a_message_enqueued_in_sqlite_reaches_a_sink_of_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", folder.path().join("shop.db").display());
    migrate(&url);
    run("enqueue_sqlite", &[("DATABASE_URL", &url)]);
    let said = run("custom_sink", &[("DATABASE_URL", &url)]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, ["orders.order.created {\"total\":12}", "ended: Graceful"]);
}
