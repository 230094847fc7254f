//! What becomes of spans.

use metrics::counter;

use super::SPANS_DROPPED;

/// Counts spans that no collector took.
pub fn count_spans_dropped(spans: u64) {
    counter!(SPANS_DROPPED).increment(spans);
}
