//! What the canary counts.

use std::time::Duration;

use metrics::{counter, histogram};

use super::{CANARY_LOST, CANARY_ROUND_TRIP, CANARY_SENT};

/// Records how long a row took from its writing until it came back.
pub fn record_canary_round_trip(took: Duration) {
    histogram!(CANARY_ROUND_TRIP).record(took);
}

/// Counts a row that was written.
pub fn count_canary_sent() {
    counter!(CANARY_SENT).increment(1);
}

/// Counts rows that did not come back in time.
pub fn count_canary_lost(rows: u64) {
    counter!(CANARY_LOST).increment(rows);
}
