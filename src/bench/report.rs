//! What is printed.

use std::fmt::Write as _;

use serde_json::json;

use crate::bench::latency::Latency;
use crate::bench::settings::Settings;
use crate::bench::stages::Stages;
use crate::observe::grouped;
use crate::outbox::{Delivery, Settle};

/// The writers kept the pace if they wrote at least this part of what they should have.
const IN_PACE: f64 = 0.98;

/// How long a row may wait at the end for the load to count as held, in seconds' worth of rows.
const HELD_RATE: f64 = 1.0;

/// What was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// How strong the delivery was.
    pub delivery: Delivery,
    /// How published rows were recorded.
    pub settle: Settle,
    /// What was measured.
    pub settings: Settings,
    /// Each stage alone, in rows a second.
    pub stages: Stages,
    /// The relay as a whole with a backlog, in rows a second.
    pub together: f64,
    /// The relay as a whole at a steady rate.
    pub latency: Latency,
}

impl Report {
    /// Whether the rate that was asked for was written, and relayed as fast as it was written.
    pub fn holds(&self) -> bool {
        self.writes_in_pace() && (self.latency.behind as f64) < self.settings.rate as f64 * HELD_RATE
    }

    fn writes_in_pace(&self) -> bool {
        self.latency.written >= self.settings.rate as f64 * IN_PACE
    }

    /// As people read it.
    pub fn to_text(&self) -> String {
        let Self { stages, latency, settings, .. } = self;
        let mut text = format!(
            "{} rows of {} bytes, {} keys, {} partitions; relay.delivery = \"{}\", outbox.settle = \"{}\"\n\n",
            settings.rows, settings.payload_bytes, settings.keys, settings.partitions, self.delivery, self.settle
        );
        let settled = stages.settle.map_or_else(|| "nothing to do".to_owned(), per_second);
        let rows = [
            ("writing, 1,000 rows a transaction", per_second(stages.write)),
            ("reading alone", per_second(stages.read)),
            ("publishing alone", per_second(stages.publish)),
            ("settling alone", settled),
            ("the relay, draining a backlog", per_second(self.together)),
        ];
        for (what, rate) in rows {
            writeln!(text, "  {what:<36}{rate:>14}").expect("text can be written to");
        }
        let Latency { p50, p95, p99, max, .. } = latency;
        let (rate, seconds) = (settings.rate, settings.lasting.as_secs_f64());
        write!(
            text,
            "\nat {rate} rows a second for {seconds} s, from the beginning of the transaction to the consumer:\n  p50 {p50:.1} ms   p95 {p95:.1} ms   p99 {p99:.1} ms   max {max:.1} ms\n\n{}\n",
            self.verdict()
        )
        .expect("text can be written to");
        let (stage, alone) = stages.limiting();
        writeln!(text, "The slowest stage alone is {stage}, {}. To try:", per_second(alone))
            .expect("text can be written to");
        stages.advice.iter().for_each(|word| text.push_str(&format!("  {word}\n")));
        text
    }

    fn verdict(&self) -> String {
        let Self { latency, settings, .. } = self;
        let rate = settings.rate;
        if !self.writes_in_pace() {
            let wrote = latency.written;
            return format!(
                "It is not known whether it holds {rate} rows a second: the database took {wrote:.0} a second from these writers."
            );
        }
        if self.holds() {
            return format!(
                "It holds {rate} rows a second here; a backlog drains {:.0} times as fast.",
                self.together / rate as f64
            );
        }
        format!("It does not hold {rate} rows a second here: {} rows were behind at the end.", latency.behind)
    }

    /// One JSON object. Rates are in rows a second, times in milliseconds.
    pub fn to_json(&self) -> String {
        let Self { stages, latency, settings, .. } = self;
        let (limiting, _) = stages.limiting();
        let report = json!({
            "delivery": self.delivery.as_str(),
            "settle": self.settle.as_str(),
            "rows": settings.rows,
            "payload_bytes": settings.payload_bytes,
            "keys": settings.keys,
            "partitions": settings.partitions,
            "write": stages.write.round(),
            "read": stages.read.round(),
            "publish": stages.publish.round(),
            "settle_alone": stages.settle.map(f64::round),
            "drain": self.together.round(),
            "limiting": limiting.as_str(),
            "rate": settings.rate,
            "holds": self.holds(),
            "behind": latency.behind,
            "latency_ms": { "p50": latency.p50, "p95": latency.p95, "p99": latency.p99, "max": latency.max },
            "try": stages.advice,
        });
        format!("{report}\n")
    }
}

/// A rate with commas between its thousands.
fn per_second(rate: f64) -> String {
    grouped(rate.round() as u64) + "/s"
}
