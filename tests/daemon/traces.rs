//! Traces, as a collector of OpenTelemetry gets them from the binary.

use std::collections::BTreeSet;
use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use outboxd::{Message, sqlite};
use rdkafka::message::Message as _;
use tokio::time::Instant;

use crate::daemon::small::{Small, TOPIC};
use crate::daemon::{outboxd, stderr};
use crate::support::collector::{Collector, attributes};
use crate::support::daemon::{Daemon, PROMPT, Running};
use crate::support::kafka::header;
use crate::support::scene::Scene;
use crate::support::services::variable;
use crate::support::wait::{self, PATIENCE, SLACK};
use crate::support::{children, machine};

/// What rows bear: a context that is sampled, with a state; one that is not sampled; and what is none.
const PARENTS: [(&str, &str); 3] = [
    ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
    ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "a=1"),
    ("00-NO-CONTEXT-AT-ALL-01", " , ="),
];

/// Sends spans as soon as there is one.
fn at_once(daemon: Daemon, endpoint: &str) -> Daemon {
    daemon.with("otel.endpoint", endpoint).with_variable("OTEL_BSP_SCHEDULE_DELAY", "10")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The traces and states to which these spans are linked.
fn links(spans: &[Span]) -> BTreeSet<(String, String)> {
    let links = spans.iter().flat_map(|span| &span.links);
    links.map(|link| (format!("{}-{}", hex(&link.trace_id), hex(&link.span_id)), link.trace_state.clone())).collect()
}

/// Writes three rows with a context each, and asserts that consumers get what the rows bear.
async fn publish_traced_rows(scene: &Scene) {
    let mut transaction = scene.database.pool().begin().await.expect("a transaction");
    for (parent, state) in PARENTS {
        let message = Message::to(scene.topic.name()).key("hunter2-key").header("traceparent", parent);
        let message = message.header("tracestate", state).text("swordfish-payload").expect("a valid message");
        outboxd::postgres::enqueue(&mut transaction, &message).await.expect("a row is inserted");
    }
    transaction.commit().await.expect("a commit");
    let mut tail = scene.topic.follow();
    let records = tail.records(PARENTS.len()).await;
    for (record, (parent, state)) in records.iter().zip(PARENTS) {
        assert_eq!((header(record, "traceparent"), header(record, "tracestate")), (Some(parent), Some(state)));
        assert_eq!(record.payload(), Some(&b"swordfish-payload"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_spans_linked_to_their_rows_traces_whatever_the_delivery() {
    let _machine = machine::shared().await;
    for delivery in ["at-least-once", "exactly-once"] {
        let (scene, collector) = (Scene::set().await, Collector::start().await);
        let daemon = at_once(scene.relay(), collector.endpoint()).with("relay.delivery", delivery);
        let daemon = daemon.with_variable("OTEL_TRACES_SAMPLER", "always_on");
        let daemon = daemon.with_variable("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
        let _relay = daemon.with_variable("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter3").start().await;
        publish_traced_rows(&scene).await;

        let spans = collector.has_records(PARENTS.len() as i64).await;
        for span in &spans {
            assert_eq!((span.kind(), &*span.name), (SpanKind::Producer, &*format!("send {}", scene.topic.name())));
            assert!(span.parent_span_id.is_empty() && span.end_time_unix_nano >= span.start_time_unix_nano);
            let attributes = attributes(&span.attributes);
            assert_eq!(attributes["messaging.system"], "kafka");
            assert_eq!(
                (&*attributes["messaging.operation.type"], &*attributes["messaging.operation.name"]),
                ("send", "send")
            );
            assert_eq!(attributes["messaging.destination.name"], scene.topic.name());
            assert!(!attributes.contains_key("error.type"), "{attributes:?}");
        }
        let context = |(parent, state): (&str, &str)| (parent[3..52].to_owned(), state.to_owned());
        assert_eq!(links(&spans), PARENTS[..2].iter().copied().map(context).collect());
        assert_what_was_sent(&collector, &format!("{}.outbox", scene.database.name()));
    }
}

/// Asserts that every request tells whose spans they are, and nothing of keys and payloads.
fn assert_what_was_sent(collector: &Collector, outbox: &str) {
    for request in collector.requests() {
        assert_eq!(
            (&*request.path, &request.headers["content-type"]),
            ("/v1/traces", &"application/x-protobuf".parse().expect("a header"))
        );
        assert_eq!(request.headers["authorization"], "Bearer hunter3");
        for secret in ["hunter2", "swordfish"] {
            assert!(!request.body.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
        let decoded = request.decoded();
        let resource = decoded.resource_spans[0].resource.as_ref().expect("a resource");
        let resource = attributes(&resource.attributes);
        let named = ["service.name", "service.version", "outboxd.outbox", "deployment.environment.name"];
        assert_eq!(named.map(|name| &*resource[name]), ["outboxd", env!("CARGO_PKG_VERSION"), outbox, "test"]);
        assert!(!resource["service.instance.id"].is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_traced_if_one_of_its_rows_is_unless_the_variables_say_otherwise() {
    let _machine = machine::shared().await;
    let (small, collector) = (Small::new().await, Collector::start().await);
    let relay = at_once(small.daemon(), collector.endpoint());
    let relay = relay.with_variable("OTEL_TRACES_SAMPLER", "parentbased_always_off").start().await;
    small.write(5).await;
    write(&small, PARENTS[1].0).await;
    relay.reaches("outboxd_published_total", 6.0).await;
    write(&small, PARENTS[0].0).await;
    let spans = collector.has_records(1).await;
    assert_eq!(links(&spans).len(), 1, "{spans:?}");
    assert!(links(&spans).iter().all(|(context, _)| PARENTS[0].0.contains(context.as_str())), "{spans:?}");
}

/// Commits a row of this context.
async fn write(small: &Small, parent: &str) {
    let message = Message::to(TOPIC).header("traceparent", parent).text("{}").expect("a valid message");
    let mut connection = small.connection().await;
    sqlite::enqueue_many(&mut connection, &[message]).await.expect("a row is inserted");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_unless_it_is_asked_for_and_the_variables_of_opentelemetry_ask_as_well() {
    let _machine = machine::shared().await;
    let (small, collector) = (Small::new().await, Collector::start().await);
    let traced = small.daemon().with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint());
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")] {
        let mut relay = traced.clone().with_variable(off.0, off.1).start().await;
        small.write(5).await;
        relay.reaches("outboxd_published_total", 5.0).await;
        assert_eq!(relay.stop().await, Some(0));
        assert_eq!(collector.requests().len(), 0, "{off:?}");
        assert_eq!(relay.log().contains("outboxd speaks nothing else"), off.1 == "grpc", "{}", relay.log());
    }
    let mut relay = traced.with_variable("OTEL_SERVICE_NAME", "shop-relay").start().await;
    small.write(5).await;
    relay.reaches("outboxd_published_total", 5.0).await;
    assert_eq!(relay.stop().await, Some(0));
    let request = collector.requests().into_iter().next().expect("a request");
    let decoded = request.decoded();
    let resource = decoded.resource_spans[0].resource.as_ref().expect("a resource");
    assert_eq!(attributes(&resource.attributes)["service.name"], "shop-relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_wait_are_sent_before_the_end() {
    let _machine = machine::shared().await;
    let (small, collector) = (Small::new().await, Collector::start().await);
    let daemon = small.daemon().with("otel.endpoint", collector.endpoint());
    let mut relay = daemon.with_variable("OTEL_BSP_SCHEDULE_DELAY", "3600000").start().await;
    small.write(50).await;
    relay.reaches("outboxd_published_total", 50.0).await;
    assert!(collector.requests().is_empty());
    assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    collector.has_records(50).await;
}

/// Publishes rows one by one, each in a batch of its own.
async fn publish_one_by_one(small: &Small, relay: &Running, rows: u32) {
    let before = relay.metric("outboxd_published_total").await;
    for row in 1..=rows {
        small.write(1).await;
        relay.reaches("outboxd_published_total", before + f64::from(row)).await;
    }
}

/// Asks a relay to stop whose collector takes no spans.
async fn stops_in_time(relay: &mut Running) {
    let told = Instant::now();
    assert_eq!(relay.stop().await, Some(0), "{}", relay.log());
    assert!(told.elapsed() < SLACK + PROMPT, "it took {:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_up_neither_publishing_nor_a_stop_and_is_told_of_once() {
    let _machine = machine::shared().await;
    let small = Small::new().await;
    let mut relay = at_once(small.daemon(), "http://127.0.0.1:1").start().await;
    publish_one_by_one(&small, &relay, 3).await;
    wait::until_true("it is told", PATIENCE, async || relay.log().contains("traces are not taken")).await;
    publish_one_by_one(&small, &relay, 3).await;
    wait::until_true("all is settled", PATIENCE, async || small.unsent().await == 0).await;
    stops_in_time(&mut relay).await;
    assert_eq!(relay.log().matches("traces are not taken").count(), 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_neither_publishing_nor_a_stop() {
    let _machine = machine::shared().await;
    let small = Small::new().await;
    // It takes connections, and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port is free");
    let endpoint = format!("http://{}", silent.local_addr().expect("it listens"));
    let daemon = at_once(small.daemon(), &endpoint).with_variable("OTEL_BSP_MAX_QUEUE_SIZE", "1");
    let mut relay = daemon.clone().with_variable("OTEL_EXPORTER_OTLP_TIMEOUT", "600000").start().await;
    // One is on its way and one waits; there is no room for others.
    publish_one_by_one(&small, &relay, 4).await;
    relay.reaches("outboxd_spans_dropped_total", 1.0).await;
    wait::until_true("all is settled", PATIENCE, async || small.unsent().await == 0).await;
    stops_in_time(&mut relay).await;
    assert!(!relay.log().contains("traces are not taken"), "{}", relay.log());

    let relay = daemon.with_variable("OTEL_EXPORTER_OTLP_TIMEOUT", "100").start().await;
    publish_one_by_one(&small, &relay, 1).await;
    let late = "it did not answer within 100ms";
    wait::until_true("it is told", PATIENCE, async || relay.log().contains(late)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_a_collector_refuses_are_counted_and_those_for_which_it_has_no_time_come_again() {
    let _machine = machine::shared().await;
    let (small, collector) = (Small::new().await, Collector::start().await);
    let relay = at_once(small.daemon(), collector.endpoint()).start().await;
    collector.answer(400);
    small.write(5).await;
    relay.reaches("outboxd_spans_dropped_total", 1.0).await;
    assert!(relay.log().contains("it answered 400 Bad Request"), "{}", relay.log());

    collector.answer(503);
    let before = collector.requests().len();
    let dropped = relay.metric("outboxd_spans_dropped_total").await;
    small.write(7).await;
    wait::until_true("it is asked", PATIENCE, async || collector.requests().len() > before).await;
    collector.answer(0);
    collector.has_records(7).await;
    wait::until_true("it is told", PATIENCE, async || relay.log().contains("taken by the collector again")).await;
    assert_eq!(relay.metric("outboxd_spans_dropped_total").await, dropped);
    collector.take_out(3);
    small.write(1).await;
    relay.reaches("outboxd_spans_dropped_total", dropped + 3.0).await;
    assert_eq!(relay.log().matches("traces are not taken").count(), 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_by_tls_to_a_collector_whose_certificate_is_trusted_and_to_no_other() {
    let _machine = machine::shared().await;
    let (small, collector) = (Small::new().await, Collector::start_secure().await);
    let daemon = at_once(small.daemon(), collector.endpoint());
    let mut relay = daemon.clone().start().await;
    small.write(5).await;
    wait::until_true("it is told", PATIENCE, async || relay.log().contains("invalid peer certificate")).await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(collector.requests().len(), 0);

    let authority = variable("OUTBOXD_TEST_CA");
    let _relay = daemon.with_variable("OTEL_EXPORTER_OTLP_CERTIFICATE", &authority).start().await;
    small.write(5).await;
    collector.has_records(5).await;
}

#[test]
fn an_endpoint_that_is_none_is_refused_at_the_start_and_what_is_secret_in_it_is_not_told() {
    let settings = ["--database-url", "sqlite:x.db", "--brokers", "localhost:1", "--http", ""];
    for (endpoint, problem) in [
        ("collector:4318", "is no address of a collector"),
        ("grpc://collector", "is no address of a collector"),
        ("http://", "is no address"),
        ("https://app:hunter2@collector", "holds more than an address"),
    ] {
        let mut check = outboxd(&[&["config", "--check"][..], &settings[..4]].concat());
        let output = children::run(check.env("OUTBOXD_OTEL__ENDPOINT", endpoint)).expect("the binary starts");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{endpoint}: {said}");
        assert!(said.contains("otel.endpoint") && said.contains(problem), "{endpoint}: {said}");
        let mut run = outboxd(&[&["run"][..], &settings[..]].concat());
        let output = children::run(run.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)).expect("the binary starts");
        let started = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{endpoint}: {started}");
        assert!(
            started.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && started.contains("write http://HOST:PORT"),
            "{started}"
        );
        assert!(!said.contains("hunter2") && !started.contains("hunter2"), "{said} {started}");
    }
}
