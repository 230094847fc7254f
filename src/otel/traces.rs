//! What makes spans of what is published, and what sends them.

use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::sync::mpsc;

use crate::contract::{Sink, SinkError};
use crate::observe::outage::Outage;
use crate::otel::collector::Collector;
use crate::otel::export::Export;
use crate::otel::queue::Queue;
use crate::otel::settings::Settings;
use crate::otel::sink::TracedSink;

/// What the process is called where nothing else is said.
const SERVICE: &str = "outboxd";

/// The conventions by which spans are named and described.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.40.0";

/// Makes spans of what is published.
#[derive(Debug, Clone)]
pub struct Traces {
    tracer: SdkTracer,
}

impl Traces {
    /// What makes spans, and what sends them once it runs. `outbox` and `instance` say whose spans they are: which outbox is
    /// published, and by which relay.
    ///
    /// # Errors
    /// When spans cannot be sent like this.
    pub fn new(settings: &Settings, outbox: &str, instance: &str) -> Result<(Self, Export), SinkError> {
        let collector = Collector::new(settings)?;
        let (queue, spans) = mpsc::channel(settings.queue);
        let resource = resource(settings, outbox, instance);
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampler.clone())
            .with_span_processor(Queue(queue))
            .with_resource(resource.clone())
            .build();
        let scope = InstrumentationScope::builder(SERVICE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA)
            .build();
        let export = Export {
            spans,
            collector,
            resource: (&resource).into(),
            most: settings.batch,
            delay: settings.delay,
            gathered: Vec::new(),
            parcel: None,
            outage: Outage::default(),
        };
        Ok((Self { tracer: provider.tracer_with_scope(scope) }, export))
    }

    /// Makes spans of what this sink is given, which the spans call `system`, as [`TracedSink::new`] has it.
    pub fn around(&self, sink: Box<dyn Sink>, system: &'static str) -> Box<dyn Sink> {
        Box::new(TracedSink::new(sink, self.tracer.clone(), system))
    }
}

/// Whose spans they are. What the variables say goes before the rest.
fn resource(settings: &Settings, outbox: &str, instance: &str) -> Resource {
    let own = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
        KeyValue::new("outboxd.outbox", outbox.to_owned()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match &settings.service_name {
        Some(name) => resource.with_service_name(name.clone()).build(),
        None => resource.build(),
    }
}
