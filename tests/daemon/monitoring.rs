//! What operators watch, with the Prometheus that they have: alerts, rules and dashboard over real relays.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::support::daemon::{Daemon, Running};
use crate::support::database::Database;
use crate::support::machine;
use crate::support::prometheus::{Prometheus, deployed, program};
use crate::support::scene::Scene;
use crate::support::services;
use crate::support::throwaway::Kafka;
use crate::support::wait::{self, LONG_PATIENCE, PATIENCE};

/// Queries of the dashboard that find nothing in this scene, by panel and letter, and why.
const FIND_NOTHING: &[(&str, &str, &str)] =
    &[("Waiting messages", "B", "more than 100,000 messages would have to wait for a count to be a floor")];

/// How long a search for data that is not there yet rests.
const SEARCH_PAUSE: Duration = Duration::from_millis(500);

/// A query of the dashboard.
struct Query {
    panel: String,
    letter: String,
    expression: String,
}

fn dashboard() -> Value {
    let text = fs::read_to_string(deployed("grafana").join("outboxd.json")).expect("the dashboard is there");
    serde_json::from_str(&text).expect("the dashboard is JSON")
}

fn all(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An expression as Grafana fills it in while everything is chosen.
fn filled(dashboard: &Value, expression: &Value) -> String {
    let mut filled = text(expression).replace("$__rate_interval", "10s");
    for variable in all(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query") {
        filled = filled.replace(&format!("${}", text(&variable["name"])), &text(&variable["allValue"]));
    }
    assert!(!filled.contains('$'), "{filled}");
    filled
}

fn queries(dashboard: &Value) -> Vec<Query> {
    let of_panel = |panel: &Value| {
        let query = |target: &Value| Query {
            panel: text(&panel["title"]),
            letter: text(&target["refId"]),
            expression: filled(dashboard, &target["expr"]),
        };
        all(&panel["targets"]).map(query).collect::<Vec<_>>()
    };
    all(&dashboard["panels"]).flat_map(of_panel).collect()
}

/// The queries that have found nothing so far.
async fn without_data(prometheus: &Prometheus, queries: &[Query]) -> Vec<(String, String)> {
    let mut without = Vec::new();
    for Query { panel, letter, expression } in queries {
        if prometheus.ask_of_all_time(expression).await.is_empty() {
            without.push((panel.clone(), letter.clone()));
        }
    }
    without
}

/// The values that a variable of the dashboard offers.
async fn offered(prometheus: &Prometheus, dashboard: &Value, variable: &str) -> Vec<String> {
    let variables = &dashboard["templating"]["list"];
    let found =
        all(variables).find(|each| each["name"] == variable).unwrap_or_else(|| panic!("no variable {variable}"));
    let query = filled(dashboard, &found["definition"]);
    let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (selector, label) = inside.and_then(|inside| inside.rsplit_once(", ")).expect("label_values(SELECTOR, LABEL)");
    let series = prometheus.ask(&format!("count by ({label}) ({selector})")).await;
    let mut values: Vec<String> = series.iter().map(|series| text(&series["metric"][label])).collect();
    // By whether they were told the name: that of a database differs from run to run.
    values.sort_by_key(|value| value.contains('.'));
    values
}

/// What `promtool` has to say against a relay's metrics.
async fn promtool_complaints(relay: &Running) -> String {
    let metrics = relay.get("/metrics").await.expect("the relay serves its metrics").body;
    let mut command = program("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool starts");
    child.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), if output.status.success() { "" } else { "promtool failed" })
}

/// Writes a row that can never be published, and waits until that is seen.
async fn write_a_dead_letter(scene: &Scene, relay: &Running, prometheus: &Prometheus) {
    let before = relay.metric("outboxd_rejected_total").await;
    scene.database.run("insert into outbox (topic, payload) values ('not-allowed', 'x')").await;
    relay.reaches("outboxd_rejected_total", before + 1.0).await;
    let seen = format!("sum(outboxd_rejected_total) > {before}");
    wait::until_true("the rejection is scraped", PATIENCE, async || !prometheus.ask(&seen).await.is_empty()).await;
}

/// Waits until every query has found something, but for those that find nothing in this scene.
async fn find_data(prometheus: &Prometheus, queries: &[Query]) {
    let of_panel = |(panel, letter, _why): &(&str, &str, &str)| (panel.to_string(), letter.to_string());
    let expected: Vec<(String, String)> = FIND_NOTHING.iter().map(of_panel).collect();
    let search = async {
        while without_data(prometheus, queries).await != expected {
            sleep(SEARCH_PAUSE).await;
        }
    };
    let _in_vain = timeout(PATIENCE, search).await;
    assert_eq!(without_data(prometheus, queries).await, expected, "queries of the dashboard that find nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_fires_its_alert_and_that_of_a_stall_which_resolve_and_every_panel_finds_data() {
    let _machine = machine::loaded().await;
    let kafka = Kafka::start();
    let scene = Scene::set_between(&services::postgres(), kafka.brokers()).await;
    scene.database.run("vacuum outbox").await;
    // A topic that does not exist is late by the time that the outage is over.
    scene.database.run("insert into outbox (topic, payload) values ('outboxd.test.missing', 'x')").await;
    let topics = format!("{},outboxd.test.missing", scene.topic.name());
    let orders = scene.relay().with("outbox.source", "orders").with("outbox.topics", &topics).start().await;
    // Another outbox of the same job, with a leader of its own, and a canary.
    let database = Database::migrated(&services::postgres()).await;
    let users = Daemon::new(database.url(), kafka.brokers()).with("relay.on_missing_topic", "create");
    let users = users.with("canary.every", "500ms").start().await;
    let prometheus = Prometheus::start(&[&orders, &users]).await;
    let fires = async || prometheus.fires("OutboxdKafkaDown", "orders").await;
    let stalls = async || prometheus.fires("OutboxdStalled", "orders").await;
    scene.insert("k", "v").await;
    orders.reaches("outboxd_published_total", 1.0).await;
    write_a_dead_letter(&scene, &orders, &prometheus).await;
    write_a_dead_letter(&scene, &orders, &prometheus).await;
    assert!(!fires().await && !stalls().await);

    kafka.kill_broker(1);
    scene.insert("k", "waits").await;
    wait::until_true("the alert fires", PATIENCE, fires).await;
    let dashboard = dashboard();
    find_data(&prometheus, &queries(&dashboard)).await;
    assert_eq!(offered(&prometheus, &dashboard, "outbox").await, ["orders", &format!("{}.outbox", database.name())]);

    wait::until_true("the alert of a stall fires", LONG_PATIENCE, stalls).await;
    kafka.restart();
    wait::until_true("both alerts resolve", PATIENCE, async || !fires().await && !stalls().await).await;
    orders.reaches("outboxd_published_total", 2.0).await;
    let muddled = "ALERTS{alertname=\"OutboxdTwoLeaders\", alertstate=\"firing\"}";
    assert_eq!(prometheus.ask_of_all_time(muddled).await, Vec::<Value>::new());
    assert_eq!(prometheus.broken_rules().await, Vec::<String>::new());
    assert_eq!(promtool_complaints(&orders).await, "");
}
