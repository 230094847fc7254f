//! What the project wants to reach, and whether it does.

use serde::Serialize;

use crate::results::{Results, Summary};

/// How a figure is held against an aim.
enum Aim {
    /// At least so many times the rival's figure of the same round.
    AtLeast(f64, &'static str),
    /// At most so many times the rival's figure of the same round.
    AtMost(f64, &'static str),
    /// At most so many times what it is under another load in the same round.
    Costs(f64, &'static str),
    /// At most this.
    Within(f64),
}

/// A load, a contestant, a figure, and what it is held against. Latencies and CPU at a steady rate are also held against
/// Debezium's of the same round, since a slow machine is slow for every contestant: where the aims were set, its
/// records took 2.7 ms (p99 7.5) at 62 % of a core.
const AIMS: &[(&str, &str, &str, Aim)] = &[
    ("drain", "outboxd/mark", "rows_per_second", Aim::AtLeast(1.0, "bare-loop/mark")),
    ("drain", "outboxd/delete", "rows_per_second", Aim::AtLeast(1.0, "bare-loop/delete")),
    ("drain", "outboxd/checkpoint", "rows_per_second", Aim::AtLeast(0.95, "bare-loop/produce")),
    ("drain", "outboxd/exactly-once", "rows_per_second", Aim::AtLeast(0.9, "outboxd/mark")),
    ("drain", "outboxd/mark", "rows_per_second", Aim::AtLeast(3.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "second_half_rows_per_second", Aim::AtLeast(2.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "cpu_seconds_per_million_rows", Aim::AtMost(1.0 / 6.0, "debezium/streaming")),
    ("drain", "outboxd/mark", "peak_mib", Aim::Within(100.0)),
    ("growth-10M", "outboxd/mark", "peak_mib", Aim::Within(100.0)),
    ("steady-1k", "outboxd/mark", "p50_ms", Aim::Within(1.5)),
    ("steady-1k", "outboxd/mark", "p99_ms", Aim::Within(5.0)),
    ("steady-1k", "outboxd/mark", "cpu_percent", Aim::Within(10.0)),
    ("steady-1k", "outboxd/mark", "p50_ms", Aim::AtMost(1.5 / 2.7, "debezium/polling-1ms")),
    ("steady-1k", "outboxd/mark", "p99_ms", Aim::AtMost(5.0 / 7.5, "debezium/polling-1ms")),
    ("steady-1k", "outboxd/mark", "cpu_percent", Aim::AtMost(10.0 / 62.0, "debezium/polling-1ms")),
    ("steady-1k", "outboxd/exactly-once", "p50_ms", Aim::Within(8.0)),
    ("steady-1k", "outboxd/exactly-once", "p99_ms", Aim::Within(20.0)),
    ("steady-1k", "outboxd/exactly-once", "p50_ms", Aim::AtMost(8.0 / 2.7, "debezium/polling-1ms")),
    ("steady-1k", "outboxd/exactly-once", "p99_ms", Aim::AtMost(20.0 / 7.5, "debezium/polling-1ms")),
    ("steady-10k", "outboxd/mark", "p99_ms", Aim::Within(15.0)),
    ("trickle-1", "outboxd/mark", "p50_ms", Aim::Within(2.5)),
    ("trickle-1", "outboxd/mark", "p99_ms", Aim::Within(8.0)),
    ("trickle-10", "outboxd/mark", "p50_ms", Aim::Within(2.5)),
    ("trickle-10", "outboxd/mark", "p99_ms", Aim::Within(8.0)),
    ("trickle-50", "outboxd/mark", "p50_ms", Aim::Within(2.5)),
    ("trickle-50", "outboxd/mark", "p99_ms", Aim::Within(8.0)),
    ("trickle-50", "outboxd/mark", "cpu_percent", Aim::Within(3.0)),
    ("trickle-200", "outboxd/mark", "p50_ms", Aim::Within(2.5)),
    ("trickle-200", "outboxd/mark", "p99_ms", Aim::Within(8.0)),
    ("held-snapshot", "outboxd/mark", "p50_ms", Aim::Costs(1.2, "steady-1k")),
    ("held-snapshot", "outboxd/mark", "p99_ms", Aim::Costs(1.2, "steady-1k")),
    ("big-table", "outboxd/mark", "p50_ms", Aim::Costs(1.1, "steady-1k")),
    ("big-table", "outboxd/mark", "cpu_percent", Aim::Costs(1.1, "steady-1k")),
    ("hour-5k", "outboxd/hour-deleting", "table_growth", Aim::Within(1.25)),
    ("hour-5k", "outboxd/hour-purging", "table_growth", Aim::Within(1.25)),
    ("idle", "outboxd/mark", "resident_mib", Aim::Within(20.0)),
    ("idle", "outboxd/mark", "cpu_percent", Aim::Within(0.1)),
    (
        "writers",
        "outboxd/writers-triggered",
        "transactions_per_second",
        Aim::AtLeast(0.9, "outboxd/writers-untriggered"),
    ),
];

/// A figure that was held against its aim.
#[derive(Serialize)]
pub(crate) struct Judged {
    pub(crate) load: &'static str,
    pub(crate) contestant: &'static str,
    pub(crate) figure: &'static str,
    /// The figure, or how many times another one it is.
    pub(crate) measured: Summary,
    /// The other one's contestant, or load.
    pub(crate) times: Option<&'static str>,
    pub(crate) aim: f64,
    /// Whether more is better.
    pub(crate) at_least: bool,
    pub(crate) is_reached: bool,
}

/// Holds what was measured against the aims.
pub(crate) fn judge(results: &Results) -> Vec<Judged> {
    AIMS.iter().filter_map(|one| judge_one(results, one)).collect()
}

fn judge_one(
    results: &Results,
    (load, contestant, figure, aim): &(&'static str, &'static str, &'static str, Aim),
) -> Option<Judged> {
    let against =
        |other, rival| results.ratio((results.load(load)?, contestant), (results.load(other)?, rival), figure);
    let (measured, times, aim, at_least) = match *aim {
        Aim::Within(limit) => (results.summary(results.load(load)?, contestant, figure)?, None, limit, false),
        Aim::Costs(limit, other) => (against(other, contestant)?, Some(other), limit, false),
        Aim::AtMost(limit, rival) => (against(load, rival)?, Some(rival), limit, false),
        Aim::AtLeast(limit, rival) => (against(load, rival)?, Some(rival), limit, true),
    };
    let is_reached = if at_least { measured.median >= aim } else { measured.median <= aim };
    Some(Judged { load, contestant, figure, measured, times, aim, at_least, is_reached })
}
