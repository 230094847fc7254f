//! What a producing client tells: what became of records, what failed, and which connections broke.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};

use crate::contract::Outcome;
use crate::kafka::client_log::ClientLog;
use crate::kafka::errors::{self, ErrorClass};
use crate::kafka::producer::encode;
use crate::kafka::producer::ledger::{Failure, HeldTopic, Ledger, Refused};
use crate::kafka::producer::setup::Role;
use crate::kafka::producer::statistics::Statistics;
use crate::outbox::HoldCause;

/// What the client says of a connection that it had and that broke, and not of one that it could not open. It tells that
/// in its log alone; idle connections that brokers close are not mentioned.
const ESTABLISHED: &str = "in state UP";

/// The topic that the broker does not let into a transaction, and what it waits for. The client tells that in its log
/// alone, and then undoes the transaction, whose records do not fail for any cause of their own.
fn kept_out(line: &str) -> Option<HeldTopic> {
    let (_, rest) = line.split_once("Failed to add partition \"")?;
    let (topic, rest) = rest.split_once("\" [")?;
    let (_, said) = rest.split_once("to transaction: ")?;
    let cause = match said {
        "Broker: Topic authorization failed" => HoldCause::NotAuthorised,
        "Broker: Unknown topic or partition" => HoldCause::MissingTopic,
        _ => return None,
    };
    Some(HeldTopic { topic: topic.to_owned(), cause })
}

/// Hears the client.
pub(crate) struct Context {
    pub(crate) ledger: Arc<Ledger>,
    log: ClientLog,
    role: Role,
    statistics: Statistics,
}

impl Context {
    /// Tells the ledger what the clients of a producer say, and the log the rest.
    pub(crate) fn new(ledger: &Arc<Ledger>, log: ClientLog, role: Role) -> Self {
        Self { ledger: Arc::clone(ledger), log, role, statistics: Statistics::begin() }
    }

    /// Whether reports may be heard a little later: nothing waits for them, neither consumers, as with transactions,
    /// nor the next record, as in quarantine.
    pub(crate) fn is_patient(&self) -> bool {
        self.role == Role::Main
    }

    /// Judges a record that was not delivered. Whatever the cause, nothing of the record's lane may follow it, so the
    /// producer takes no more; but in quarantine nothing of it is under way.
    fn failed(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>) -> Outcome {
        let topic = message.topic();
        let verdict = errors::classify(code);
        if verdict == ErrorClass::Wait && !self.ledger.is_healthy() {
            return Outcome::Unknown;
        }
        let mut failure = Failure::because(format!("a record of topic {topic} was not delivered: {code}"));
        let outcome = match verdict {
            ErrorClass::Hold(cause) => {
                failure.held.push(HeldTopic { topic: topic.to_owned(), cause });
                Outcome::Held(cause)
            }
            ErrorClass::Reject(word) => {
                let refusal = refusal(word, code, message);
                if self.role == Role::Quarantine {
                    return Outcome::Rejected(Box::new(refusal.rejection()));
                }
                failure.refused.push(refusal);
                Outcome::Unknown
            }
            ErrorClass::Wait | ErrorClass::Fatal => Outcome::Unknown,
        };
        self.ledger.fail(failure);
        outcome
    }
}

/// What is to be remembered of a record that the broker refused.
fn refusal(word: &'static str, error: RDKafkaErrorCode, message: &BorrowedMessage<'_>) -> Refused {
    Refused {
        id: encode::row_id(message.headers()),
        topic: message.topic().to_owned(),
        key: message.key().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
        partition: message.partition(),
        code: word,
        error,
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let outcome = match result {
            Ok(message) => {
                self.log.connectivity.answered();
                Outcome::Delivered { partition: message.partition(), offset: message.offset() }
            }
            Err((error, message)) => {
                let code = errors::code(error).unwrap_or(RDKafkaErrorCode::Fail);
                self.failed(code, message)
            }
        };
        self.ledger.report(ticket, outcome);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, line: &str) {
        if kind == "FAIL" && line.contains(ESTABLISHED) {
            self.ledger.disconnected();
        }
        if kind == "ADDPARTS"
            && let Some(held) = kept_out(line)
        {
            let reason = format!("topic {} cannot be part of a transaction", held.topic);
            self.ledger.fail(Failure { held: vec![held], ..Failure::because(reason) });
        }
        self.log.log(level, kind, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if errors::code(&error) == Some(RDKafkaErrorCode::Fatal) {
            self.ledger.fail(Failure::because(reason));
        } else {
            self.log.error(error, reason);
        }
    }

    fn stats_raw(&self, report: &[u8]) {
        self.statistics.hear(report);
    }
}
