//! What the client says, in our log: each thing once, and again only after a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use crate::observe::metrics;
use crate::observe::outage::Outage;

/// How long the client's lines of one kind are kept back after one was written.
const REPEATED_LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Whether Kafka answers, said once at each change.
///
/// That all connections are closed is no outage yet: brokers close idle ones. That one cannot be opened is none
/// either, while another broker answers. Both together are.
#[derive(Debug, Default)]
pub(crate) struct Connectivity {
    all_closed: AtomicBool,
    refused: AtomicBool,
    /// While it does not answer.
    outage: Outage,
    /// Whether it was shown that it does.
    is_up: AtomicBool,
    /// What was said when it stopped answering.
    said: Mutex<String>,
}

impl Connectivity {
    /// Notes that no connection is open.
    fn closed(&self, reason: &str) {
        self.all_closed.store(true, Ordering::Relaxed);
        if self.refused.load(Ordering::Relaxed) {
            self.unanswered(&reason);
        }
    }

    /// Notes that a connection could not be opened, or broke.
    fn refused(&self, reason: &str) {
        self.refused.store(true, Ordering::Relaxed);
        if self.all_closed.load(Ordering::Relaxed) {
            self.unanswered(&reason);
        }
    }

    /// Notes that a question has no answer.
    pub(crate) fn unanswered(&self, error: &dyn std::fmt::Display) {
        self.is_up.store(false, Ordering::Relaxed);
        if self.outage.begins() {
            *self.said.lock() = error.to_string();
            metrics::set_kafka_up(false);
            tracing::warn!(error = %error, "Kafka does not answer; publishing waits until it does");
        }
    }

    /// Notes that a broker answered.
    pub(crate) fn answered(&self) {
        // Read first: this is called for every record.
        for flag in [&self.all_closed, &self.refused] {
            if flag.load(Ordering::Relaxed) {
                flag.store(false, Ordering::Relaxed);
            }
        }
        if self.is_up.load(Ordering::Relaxed) || self.is_up.swap(true, Ordering::Relaxed) {
            return;
        }
        metrics::set_kafka_up(true);
        if self.outage.ends() {
            tracing::info!("Kafka answers again");
        }
    }

    /// Whether Kafka answers, as far as that is known, and else what was said of it.
    pub(crate) fn known(&self) -> Option<Result<(), String>> {
        if self.is_away() {
            return Some(Err(self.said.lock().clone()));
        }
        self.is_up.load(Ordering::Relaxed).then_some(Ok(()))
    }

    /// Whether Kafka does not answer, as far as that is known.
    pub(crate) fn is_away(&self) -> bool {
        self.outage.is_on()
    }
}

/// Writes the client's lines to our log. They name brokers, topics and partitions, never keys or payloads.
#[derive(Debug, Default)]
pub(crate) struct ClientLog {
    /// By their kinds.
    lines: Mutex<HashMap<String, Repeated>>,
    /// Where to note that brokers are out of reach.
    pub(crate) connectivity: Arc<Connectivity>,
}

/// Lines of one kind.
#[derive(Debug)]
struct Repeated {
    /// When one was last written.
    written: Instant,
    /// How many were kept back since.
    kept_back: u64,
}

impl ClientLog {
    /// A log that notes outages in `connectivity`.
    pub(crate) fn new(connectivity: Arc<Connectivity>) -> Self {
        Self { lines: Mutex::default(), connectivity }
    }

    /// How many lines of this kind were kept back, if one is due.
    fn due(&self, kind: &str) -> Option<u64> {
        let mut lines = self.lines.lock();
        let now = Instant::now();
        if let Some(repeated) = lines.get_mut(kind)
            && now.duration_since(repeated.written) < REPEATED_LINE_INTERVAL
        {
            repeated.kept_back += 1;
            return None;
        }
        let before = lines.insert(kind.to_owned(), Repeated { written: now, kept_back: 0 });
        Some(before.map_or(0, |before| before.kept_back))
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        use RDKafkaLogLevel as Level;
        let is_bad = matches!(level, Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning);
        match kind {
            // Said by what handles them: `Connectivity`, and the sink, which builds the client anew.
            "FAIL" | "FATAL" | "TXNERR" | "GETPID" => {
                if kind == "FAIL" && matches!(level, Level::Error) {
                    self.connectivity.refused(line);
                }
                tracing::debug!(kind, "Kafka client: {line}");
            }
            // Of properties that the relay itself sets, at every start.
            "CONFWARN" if ["enable.gapless.guarantee", "queuing.strategy"].iter().any(|own| line.contains(own)) => {
                tracing::debug!(kind, "Kafka client: {line}");
            }
            _ if is_bad => {
                if let Some(kept_back) = self.due(kind) {
                    tracing::warn!(kind, kept_back, "Kafka client: {line}");
                }
            }
            _ => tracing::debug!(kind, "Kafka client: {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        match crate::kafka::errors::code(&error) {
            Some(Code::AllBrokersDown) => self.connectivity.closed(reason),
            Some(code @ (Code::Authentication | Code::SSL | Code::Resolve)) => {
                if let Some(kept_back) = self.due(&format!("{code:?}")) {
                    tracing::warn!(error = reason, kept_back, "Kafka refuses the connection");
                }
            }
            _ => tracing::debug!(error = reason, "Kafka client"),
        }
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for ClientLog {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_that_are_closed_are_no_outage_and_one_that_cannot_be_opened_then_is() {
        let connectivity = Connectivity::default();
        connectivity.closed("idle");
        assert!(!connectivity.is_away());
        connectivity.answered();
        connectivity.refused("one of several");
        assert!(!connectivity.is_away());
        connectivity.closed("the others too");
        assert!(connectivity.is_away());
        connectivity.answered();
        assert!(!connectivity.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn lines_of_one_kind_are_written_once_a_minute_with_a_count_of_the_rest() {
        let log = ClientLog::default();
        assert_eq!(log.due("A"), Some(0));
        assert_eq!((log.due("A"), log.due("A"), log.due("B")), (None, None, Some(0)));
        tokio::time::advance(REPEATED_LINE_INTERVAL).await;
        assert_eq!(log.due("A"), Some(2));
        assert_eq!(log.due("A"), None);
    }
}
