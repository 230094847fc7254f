//! The span of a submission, over a sink in memory: what it tells of what became of the records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use opentelemetry::Context;
use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor};
use outboxd::contract::{Rejection, Sink};
use outboxd::memory;
use outboxd::memory::faults::{self, Call, Fault, Script};
use outboxd::otel::TracedSink;
use outboxd::outbox::{Record, Term};
use uuid::Uuid;

const EVENT: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Remembers the spans that ended.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("no panic").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Kept {
    fn tracer(&self, sampler: Sampler) -> SdkTracer {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).with_span_processor(self.clone()).build();
        provider.tracer("test")
    }

    /// The only span since the last time.
    fn only(&self) -> SpanData {
        let mut spans = std::mem::take(&mut *self.0.lock().expect("no panic"));
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans.remove(0)
    }
}

fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    span.attributes.iter().map(|attribute| (attribute.key.to_string(), attribute.value.to_string())).collect()
}

fn failure(span: &SpanData) -> (Option<String>, String) {
    let kind = attributes(span).remove("error.type");
    match &span.status {
        Status::Error { description } => (kind, description.to_string()),
        other => (kind, format!("{other:?}")),
    }
}

fn record(id: i64, topic: &str) -> Record {
    Record {
        id,
        event_id: EVENT,
        topic: topic.into(),
        key: Some("hunter2".to_owned()),
        payload: Some(b"swordfish".to_vec()),
        headers: vec![("traceparent".to_owned(), Some(PARENT.to_owned()))],
        partition: Some(4),
        created_at: Utc::now(),
    }
}

/// A sink in memory with a script around it, spans around that, and the spans that ended.
async fn traced(script: &Script) -> (memory::Sink, Box<dyn Sink>, Kept) {
    let (broker, kept) = (memory::Sink::new(), Kept::default());
    let scripted = faults::Sink::new(Box::new(broker.clone()), script.clone());
    let mut sink: Box<dyn Sink> =
        Box::new(TracedSink::new(Box::new(scripted), kept.tracer(Sampler::AlwaysOn), "kafka"));
    sink.open(Term(1), None).await.expect("it opens");
    (broker, sink, kept)
}

#[tokio::test]
async fn a_submission_is_a_span_of_its_own_trace_by_the_messaging_conventions() {
    let (broker, mut sink, kept) = traced(&Script::new()).await;
    let records = [record(1, "orders"), record(2, "orders")];
    sink.submit(&records, None).await.expect("taken").await;
    let span = kept.only();
    assert_eq!((&*span.name, &span.span_kind, &span.status), ("send orders", &SpanKind::Producer, &Status::Unset));
    let expected = [
        ("messaging.batch.message_count", "2"),
        ("messaging.destination.name", "orders"),
        ("messaging.destination.partition.id", "4"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.system", "kafka"),
    ];
    assert_eq!(attributes(&span), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let linked: Vec<String> = span.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
    assert_eq!(linked, ["4bf92f3577b34da6a3ce929d0e0e4736"], "both records bear one context");
    assert_ne!(span.span_context.trace_id().to_string(), linked[0]);
    let said = format!("{span:?}");
    assert!(!said.contains("hunter2") && !said.contains("swordfish"), "{said}");
    assert_eq!(broker.delivered().iter().map(|delivery| delivery.record.clone()).collect::<Vec<_>>(), records);

    sink.submit(&[record(3, "orders")], None).await.expect("taken").await;
    assert_eq!(attributes(&kept.only())["messaging.message.id"], EVENT.to_string());
    sink.submit(&[record(4, "orders"), record(5, "users")], None).await.expect("taken").await;
    let span = kept.only();
    assert_eq!(span.name, "send");
    assert!(!attributes(&span).keys().any(|name| name.starts_with("messaging.destination")), "{span:?}");
}

#[tokio::test]
async fn a_span_tells_what_was_in_the_way() {
    let script = Script::new();
    let (broker, mut sink, kept) = traced(&script).await;
    let records = [record(1, "orders"), record(2, "orders")];

    script.on(Call::Submit, Fault::Refuse);
    assert!(sink.submit(&records, None).await.is_err());
    let (kind, description) = failure(&kept.only());
    assert_eq!(kind.as_deref(), Some("unavailable"));
    assert!(description.starts_with("the broker is not available"), "{description}");

    script.on(Call::Receipt, Fault::LoseReply);
    sink.submit(&records, None).await.expect("taken").await;
    let of_unknown = "of 2 records 0 rejected, 0 held, 2 unknown".to_owned();
    assert_eq!(failure(&kept.only()), (Some("unknown".to_owned()), of_unknown));

    sink.open(Term(2), None).await.expect("it opens");
    broker.reject(2, Rejection { code: "message_too_large", message: "too large".to_owned() });
    sink.submit(&records, None).await.expect("taken").await;
    let of_rejected = "of 2 records 1 rejected, 0 held, 0 unknown".to_owned();
    assert_eq!(failure(&kept.only()), (Some("message_too_large".to_owned()), of_rejected));

    drop(sink.submit(&records, None).await.expect("taken"));
    assert_eq!(failure(&kept.only()).0.as_deref(), Some("cut_off"));
}

#[tokio::test]
async fn what_nobody_wants_to_know_of_is_no_span_and_is_published_all_the_same() {
    let (broker, kept) = (memory::Sink::new(), Kept::default());
    let mut sink = TracedSink::new(Box::new(broker.clone()), kept.tracer(Sampler::AlwaysOff), "kafka");
    sink.open(Term(1), None).await.expect("it opens");
    sink.submit(&[record(1, "orders")], None).await.expect("taken").await;
    assert_eq!(broker.ids(), [1]);
    assert!(kept.0.lock().expect("no panic").is_empty());
}
