//! OpenTelemetry: a span for each batch that is handed to a sink, linked to the traces that its rows belong to.
//!
//! [`TracedSink`] stands between the relay and any sink, so that nothing in the relay knows of it; without traces it is not
//! there. A span is of the kind PRODUCER and named and described by the messaging conventions. It tells of no key and no
//! payload, and nothing in the records changes: what a row's headers say of its trace goes to the consumers as it is.
//!
//! [`Traces`] makes spans for such sinks, and [`Export`] sends them to a collector by OTLP over HTTP. An application that
//! embeds the relay and sends spans already gives a tracer of its own to [`TracedSink::new`].

mod collector;
mod export;
mod links;
mod queue;
mod sampling;
mod settings;
mod sink;
mod submission;
mod traces;

pub use export::Export;
pub use settings::{Settings, check_endpoint};
pub use sink::TracedSink;
pub use traces::Traces;
