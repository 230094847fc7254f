//! Which traces a batch belongs to: the W3C trace contexts in the headers of its rows.

use std::collections::HashSet;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::outbox::{Headers, Record};

/// The most links of one span: as many as OpenTelemetry allows by default.
const MOST_LINKS: usize = 128;

/// A longer `tracestate` is left out of a link. Everybody is to pass on so many characters, and rows must not decide how
/// much memory spans take.
const LONGEST_STATE: usize = 512;

const TRACE_PARENT: &str = "traceparent";
const TRACE_STATE: &str = "tracestate";

/// Links to the contexts that these records bear: each once, those that are sampled first, and no more than
/// [`MOST_LINKS`]. A context that is not valid is none.
pub(crate) fn links(records: &[Record]) -> Vec<Link> {
    let propagator = TraceContextPropagator::new();
    let (mut sampled, mut others) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for context in records.iter().filter_map(|record| context(&propagator, &record.headers)) {
        let links = if context.is_sampled() { &mut sampled } else { &mut others };
        if links.len() < MOST_LINKS && seen.insert((context.trace_id(), context.span_id())) {
            links.push(Link::with_context(context));
        }
        if sampled.len() == MOST_LINKS {
            break;
        }
    }
    sampled.append(&mut others);
    sampled.truncate(MOST_LINKS);
    sampled
}

/// The context that these headers tell of.
fn context(propagator: &TraceContextPropagator, headers: &Headers) -> Option<SpanContext> {
    let carrier = Carrier(headers);
    carrier.get(TRACE_PARENT)?;
    let context = propagator.extract_with_context(&Context::new(), &carrier);
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// A row's headers, as the propagator asks for them.
struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name == key)?;
        value.as_deref().filter(|value| key != TRACE_STATE || value.len() <= LONGEST_STATE)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    use chrono::Utc;
    use uuid::Uuid;

    /// A record with these headers.
    pub(super) fn record(headers: &[(&str, Option<&str>)]) -> Record {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect();
        Record {
            id: 1,
            event_id: Uuid::nil(),
            topic: "orders".into(),
            key: None,
            payload: None,
            headers,
            partition: None,
            created_at: Utc::now(),
        }
    }

    fn traced(trace: u128, flags: &str) -> Record {
        record(&[(TRACE_PARENT, Some(&format!("00-{trace:032x}-00000000000000aa-{flags}")))])
    }

    fn traces(links: &[Link]) -> Vec<u128> {
        links.iter().map(|link| u128::from_be_bytes(link.span_context.trace_id().to_bytes())).collect()
    }

    #[test]
    fn each_context_is_linked_once_and_those_that_are_sampled_come_first() {
        let records = [traced(1, "00"), traced(2, "01"), traced(1, "00"), record(&[]), traced(3, "01")];
        let links = links(&records);
        assert_eq!(traces(&links), [2, 3, 1]);
        assert!(links.iter().all(|link| link.span_context.is_remote()));
    }

    #[test]
    fn links_are_bounded_and_sampled_contexts_are_not_crowded_out() {
        let unsampled = (1..=300).map(|trace| traced(trace, "00"));
        let sampled = (1_001..=1_100).map(|trace| traced(trace, "01"));
        let records: Vec<Record> = unsampled.chain(sampled).collect();
        let traces = traces(&links(&records));
        assert_eq!(traces.len(), MOST_LINKS);
        assert!((1_001..=1_100).all(|trace| traces.contains(&trace)));
        let records: Vec<Record> = (1..=300).map(|trace| traced(trace, "01")).collect();
        assert_eq!(links(&records).len(), MOST_LINKS);
    }

    #[test]
    fn a_context_that_is_not_valid_is_none() {
        let zero = format!("00-{:032x}-00000000000000aa-01", 0);
        for parent in ["", "00-ab", &zero, "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            assert!(links(&[record(&[(TRACE_PARENT, Some(parent))])]).is_empty(), "{parent:?}");
        }
        assert!(links(&[record(&[(TRACE_PARENT, None), (TRACE_STATE, Some("a=1"))])]).is_empty());
    }

    #[test]
    fn the_state_of_a_trace_comes_along_unless_it_is_too_long() {
        let parent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let state = |state: &str| {
            let links = links(&[record(&[(TRACE_PARENT, parent), (TRACE_STATE, Some(state))])]);
            links.first().expect("a link").span_context.trace_state().header()
        };
        assert_eq!(state("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        assert_eq!(state(&format!("a={}", "x".repeat(LONGEST_STATE))), "");
    }
}
