//! Which batches are traced: as OpenTelemetry's variables say, with the rows' contexts in the place of a parent.

use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

/// Decides about spans that have links instead of a parent.
#[derive(Debug, Clone)]
pub(crate) struct LinkedSampler {
    /// Whether what was decided about the rows' traces decides: a batch is traced if one of them is.
    follows_rows: bool,
    /// Decides about the others.
    root: Sampler,
}

impl LinkedSampler {
    /// The sampler that `OTEL_TRACES_SAMPLER` names, with its argument; the one that is the default, where none is named.
    /// `None`: there is none of this name, or the argument is no ratio.
    pub(crate) fn named(name: Option<&str>, argument: Option<&str>) -> Option<Self> {
        let name = name.unwrap_or("parentbased_always_on");
        let ratio = || match argument.map(str::parse::<f64>) {
            None => Some(1.0),
            Some(ratio) => ratio.ok().filter(|ratio| (0.0..=1.0).contains(ratio)),
        };
        let (follows_rows, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(ratio()?),
            _ => return None,
        };
        Some(Self { follows_rows, root })
    }
}

impl Default for LinkedSampler {
    fn default() -> Self {
        Self { follows_rows: true, root: Sampler::AlwaysOn }
    }
}

impl ShouldSample for LinkedSampler {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let sampler = match links {
            _ if !self.follows_rows => &self.root,
            [] => &self.root,
            links if links.iter().any(|link| link.span_context.is_sampled()) => &Sampler::AlwaysOn,
            _ => &Sampler::AlwaysOff,
        };
        sampler.should_sample(parent_context, trace_id, name, span_kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    fn link(flags: TraceFlags) -> Link {
        Link::with_context(SpanContext::new(TraceId::from(1), SpanId::from(1), flags, true, TraceState::default()))
    }

    fn is_traced(sampler: &LinkedSampler, links: &[Link]) -> bool {
        let result = sampler.should_sample(None, TraceId::from(u128::MAX), "send", &SpanKind::Producer, &[], links);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn a_batch_is_traced_if_a_trace_of_its_rows_is_and_the_root_decides_where_they_have_none() {
        let (sampled, other) = (link(TraceFlags::SAMPLED), link(TraceFlags::default()));
        let named = |name, argument| LinkedSampler::named(name, argument).expect("there is such a sampler");
        for (name, argument, without, of_sampled, of_others) in [
            (None, None, true, true, false),
            (Some("parentbased_always_on"), None, true, true, false),
            (Some("parentbased_always_off"), None, false, true, false),
            (Some("parentbased_traceidratio"), Some("0"), false, true, false),
            (Some("always_on"), None, true, true, true),
            (Some("always_off"), None, false, false, false),
            (Some("traceidratio"), Some("0.5"), false, false, false),
            (Some("traceidratio"), None, true, true, true),
        ] {
            let sampler = named(name, argument);
            let decided = [
                is_traced(&sampler, &[]),
                is_traced(&sampler, &[other.clone(), sampled.clone()]),
                is_traced(&sampler, std::slice::from_ref(&other)),
            ];
            assert_eq!(decided, [without, of_sampled, of_others], "{name:?} {argument:?}");
        }
    }

    #[test]
    fn a_sampler_that_there_is_not_is_told() {
        for (name, argument) in
            [("xray", None), ("traceidratio", Some("2")), ("parentbased_traceidratio", Some("half"))]
        {
            assert!(LinkedSampler::named(Some(name), argument).is_none(), "{name}");
        }
    }
}
