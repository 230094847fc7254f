//! The span of one submission: from its being handed to the sink until it is known what became of its records.

use std::sync::Arc;

use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, Tracer};
use opentelemetry::{Context, KeyValue};

use crate::contract::{Outcome, SinkError};
use crate::otel::links::links;
use crate::outbox::Record;

// Names of the messaging conventions, which OpenTelemetry's own crate would bring with hundreds of others.
const SYSTEM: &str = "messaging.system";
const OPERATION_NAME: &str = "messaging.operation.name";
const OPERATION_TYPE: &str = "messaging.operation.type";
const DESTINATION: &str = "messaging.destination.name";
const PARTITION: &str = "messaging.destination.partition.id";
const MESSAGE_COUNT: &str = "messaging.batch.message_count";
const MESSAGE_ID: &str = "messaging.message.id";
const ERROR_TYPE: &str = "error.type";

/// What every submission does, and what its span's name begins with.
const SEND: &str = "send";

/// A span that is ended by what becomes of the submission. One that is dropped before tells that nobody waited for that.
pub(crate) struct Submission<S: Span> {
    span: S,
    has_one_topic: bool,
    is_over: bool,
}

impl<S: Span> Submission<S> {
    /// Begins the span of these records, in a trace of its own, linked to theirs. `system` names what they are sent to.
    pub(crate) fn begin<T: Tracer<Span = S>>(tracer: &T, system: &'static str, records: &[Record]) -> Self {
        let topic = only_topic(records);
        let mut attributes = vec![
            KeyValue::new(SYSTEM, system),
            KeyValue::new(OPERATION_NAME, SEND),
            KeyValue::new(OPERATION_TYPE, SEND),
            KeyValue::new(MESSAGE_COUNT, i64::try_from(records.len()).unwrap_or(i64::MAX)),
        ];
        if let Some(record) = topic {
            attributes.push(KeyValue::new(DESTINATION, Arc::clone(&record.topic)));
        }
        if let [record] = records {
            attributes.push(KeyValue::new(MESSAGE_ID, record.event_id.to_string()));
        }
        let name = topic.map_or_else(|| SEND.to_owned(), |record| format!("{SEND} {}", record.topic));
        let span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes)
            .with_links(links(records))
            .start_with_context(tracer, &Context::new());
        Self { span, has_one_topic: topic.is_some(), is_over: false }
    }

    /// Whether anybody wants to know of it. One that nobody wants to know of need not be ended.
    pub(crate) fn is_wanted(&self) -> bool {
        self.span.is_recording()
    }

    /// Ends the span: this became of the records.
    pub(crate) fn end(mut self, outcomes: &[Outcome]) {
        if self.has_one_topic
            && let Some(partition) = only_partition(outcomes)
        {
            self.span.set_attribute(KeyValue::new(PARTITION, partition.to_string()));
        }
        match Trouble::of(outcomes) {
            Some(trouble) => self.close(trouble.kind, trouble.to_string()),
            None => {
                self.is_over = true;
                self.span.end();
            }
        }
    }

    /// Ends the span: the sink did not take the records.
    pub(crate) fn fail(mut self, error: &SinkError) {
        let kind = match error {
            SinkError::Unavailable { .. } => "unavailable",
            SinkError::Unusable { .. } => "unusable",
            SinkError::TermOver => "term_over",
        };
        self.close(kind, error.to_string());
    }

    fn close(&mut self, kind: &'static str, description: String) {
        self.is_over = true;
        self.span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
        self.span.set_status(Status::error(description));
        self.span.end();
    }
}

impl<S: Span> Drop for Submission<S> {
    fn drop(&mut self) {
        if !self.is_over {
            self.close("cut_off", "cut off before it was known what became of the records".to_owned());
        }
    }
}

/// How many records were not delivered, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trouble {
    /// The kind of it that weighs most: few values.
    kind: &'static str,
    rejected: usize,
    held: usize,
    unknown: usize,
    all: usize,
}

impl Trouble {
    /// What was in the way of these, if anything was.
    fn of(outcomes: &[Outcome]) -> Option<Self> {
        let mut trouble = Self { kind: "", rejected: 0, held: 0, unknown: 0, all: outcomes.len() };
        let mut code = None;
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered { .. } => {}
                Outcome::Held(_) => trouble.held += 1,
                Outcome::Rejected(rejection) => {
                    trouble.rejected += 1;
                    code.get_or_insert(rejection.code);
                }
                Outcome::Unknown => trouble.unknown += 1,
            }
        }
        let unknown = (trouble.unknown > 0).then_some("unknown");
        let held = (trouble.held > 0).then_some("held");
        trouble.kind = code.or(unknown).or(held)?;
        Some(trouble)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rejected, held, unknown, all, .. } = self;
        write!(f, "of {all} records {rejected} rejected, {held} held, {unknown} unknown")
    }
}

/// The first record, if all are of its topic.
fn only_topic(records: &[Record]) -> Option<&Record> {
    let (first, others) = records.split_first()?;
    others.iter().all(|record| record.topic == first.topic).then_some(first)
}

/// The partition to which all went.
fn only_partition(outcomes: &[Outcome]) -> Option<i32> {
    let mut partitions = outcomes.iter().map(|outcome| match outcome {
        Outcome::Delivered { partition, .. } => Some(*partition),
        _ => None,
    });
    let first = partitions.next()??;
    partitions.all(|partition| partition == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::contract::Rejection;
    use crate::outbox::HoldCause;

    fn delivered(partition: i32) -> Outcome {
        Outcome::Delivered { partition, offset: 7 }
    }

    #[test]
    fn what_was_in_the_way_is_told_by_what_weighs_most_and_counted() {
        let rejection = Rejection { code: "message_too_large", message: "too large".to_owned() };
        let held = Outcome::Held(HoldCause::Paused);
        let all = [delivered(1), held.clone(), Outcome::Unknown, Outcome::Rejected(Box::new(rejection)), held.clone()];
        let trouble = Trouble::of(&all).expect("there was some");
        assert_eq!(trouble.kind, "message_too_large");
        assert_eq!(trouble.to_string(), "of 5 records 1 rejected, 2 held, 1 unknown");
        assert_eq!(Trouble::of(&all[..3]).map(|trouble| trouble.kind), Some("unknown"));
        assert_eq!(Trouble::of(&all[..2]).map(|trouble| trouble.kind), Some("held"));
        assert_eq!(Trouble::of(&all[..1]), None);
    }

    #[test]
    fn a_partition_is_told_only_if_all_records_went_there() {
        assert_eq!(only_partition(&[delivered(3), delivered(3)]), Some(3));
        assert_eq!(only_partition(&[delivered(3), delivered(4)]), None);
        assert_eq!(only_partition(&[delivered(3), Outcome::Unknown]), None);
        assert_eq!(only_partition(&[]), None);
    }
}
