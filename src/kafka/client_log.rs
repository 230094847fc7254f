//! What the client says, in our log: each thing once, and again only after a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

/// How long the client's lines of one kind are kept back after one was written.
const QUIET: Duration = Duration::from_secs(60);

/// Whether the brokers can be reached, said once at each change.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    away: AtomicBool,
}

impl Reach {
    /// Notes that no broker can be reached.
    pub(crate) fn lost(&self, error: &dyn std::fmt::Display) {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %error, "no Kafka broker can be reached; publishing waits until one is back");
        }
    }

    /// Notes that a broker answered.
    pub(crate) fn found(&self) {
        if self.away.load(Ordering::Relaxed) && self.away.swap(false, Ordering::Relaxed) {
            tracing::info!("Kafka can be reached again");
        }
    }
}

/// Writes the client's lines to our log. They name brokers, topics and partitions, never keys or payloads.
#[derive(Debug, Default)]
pub(crate) struct ClientLog {
    /// When a kind of line was last written, and how many were kept back since.
    kinds: Mutex<HashMap<String, (Instant, u64)>>,
    /// Where to note that brokers are out of reach.
    pub(crate) reach: Arc<Reach>,
}

impl ClientLog {
    /// A log that notes outages in `reach`.
    pub(crate) fn new(reach: Arc<Reach>) -> Self {
        Self { kinds: Mutex::default(), reach }
    }

    /// How many lines of this kind were kept back, if one is due.
    fn due(&self, kind: &str) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match kinds.get_mut(kind) {
            Some((last, kept_back)) if now.duration_since(*last) < QUIET => {
                *kept_back += 1;
                None
            }
            Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
            None => {
                kinds.insert(kind.to_owned(), (now, 0));
                Some(0)
            }
        }
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        use RDKafkaLogLevel as Level;
        match level {
            // Connections that fail are said once by `Reach`; what else is wrong is worth a warning.
            Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning if kind != "FAIL" => {
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
            Some(Code::AllBrokersDown) => self.reach.lost(&reason),
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

    #[tokio::test(start_paused = true)]
    async fn lines_of_one_kind_are_written_once_a_minute_with_a_count_of_the_rest() {
        let log = ClientLog::default();
        assert_eq!(log.due("A"), Some(0));
        assert_eq!((log.due("A"), log.due("A"), log.due("B")), (None, None, Some(0)));
        tokio::time::advance(QUIET).await;
        assert_eq!(log.due("A"), Some(2));
        assert_eq!(log.due("A"), None);
    }
}
