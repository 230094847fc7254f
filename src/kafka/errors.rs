//! What every error of the broker and its client means for the relay, and how that is told. Nothing else classifies.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::contract::{BoxError, SinkError};
use crate::outbox::HoldCause;

/// The code of what is refused for its size.
pub(crate) const MESSAGE_TOO_LARGE: &str = "message_too_large";

/// The code of what is refused for its timestamp.
pub(crate) const INVALID_TIMESTAMP: &str = "invalid_timestamp";

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// It passes: the same record, sent again, can be delivered.
    Wait,
    /// The record's topic waits for something that an operator or its owner does.
    Hold(HoldCause),
    /// This record can never be published as it is, provided that it failed alone. The word names the cause.
    Reject(&'static str),
    /// The client can no longer keep its promises and is to be built anew.
    Fatal,
}

/// Says what one error code means.
pub(crate) fn classify(code: RDKafkaErrorCode) -> ErrorClass {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => ErrorClass::Hold(HoldCause::MissingTopic),
        Code::TopicAuthorizationFailed => ErrorClass::Hold(HoldCause::NotAuthorised),

        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => ErrorClass::Reject(MESSAGE_TOO_LARGE),
        Code::InvalidTimestamp => ErrorClass::Reject(INVALID_TIMESTAMP),
        Code::InvalidRecord => ErrorClass::Reject("invalid_record"),
        Code::InvalidTopic => ErrorClass::Reject("invalid_topic"),
        Code::PolicyViolation => ErrorClass::Reject("policy_violation"),
        Code::UnsupportedForMessageFormat => ErrorClass::Reject("unsupported_for_message_format"),

        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Fenced
        | Code::Inconsistent
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::ProducerFenced
        | Code::ClusterAuthorizationFailed => ErrorClass::Fatal,

        // Outages, elections, timeouts, purges, authentication that an operator may still mend, and codes
        // that newer versions bring: trying again loses nothing, and giving up would.
        _ => ErrorClass::Wait,
    }
}

/// The code inside an error, where it has one.
pub(crate) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Whether the broker still ends an earlier transaction.
pub(crate) fn is_concurrent(error: &KafkaError) -> bool {
    code(error) == Some(RDKafkaErrorCode::ConcurrentTransactions)
}

/// Whether the client goes on trying what a call of its asked for: the call had only so much time.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    let is_retriable = matches!(error, KafkaError::Transaction(error) if error.is_retriable());
    is_retriable || code(error) == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// Whether a broker said this of the topic that it was asked for, so that it answers.
pub(crate) fn is_of_the_topic(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    // The client's own codes are negative: timeouts, connections, its end.
    let is_of_the_broker = code(error).is_some_and(|code| code as i32 > 0);
    is_of_the_broker && !matches!(code(error), Some(Code::NetworkException | Code::RequestTimedOut))
}

/// The broker, or its client, cannot go on as it is.
pub(crate) fn unavailable(doing: &'static str, source: impl Into<BoxError>) -> SinkError {
    SinkError::Unavailable { doing, source: source.into() }
}

/// The producer is not what was opened, or nothing was.
pub(crate) fn not_open() -> SinkError {
    unavailable("publishing", "the sink is not open")
}

/// The client does not take a record, and never will.
pub(crate) fn not_taken(error: KafkaError) -> SinkError {
    unavailable("handing a record to the client", error)
}

/// The broker did not let a producer in, whose transactions may be open for so long.
pub(crate) fn not_let_in(error: KafkaError, transaction_timeout: Duration) -> SinkError {
    if code(&error) == Some(RDKafkaErrorCode::InvalidTransactionTimeout) {
        let problem = format!("the broker does not allow transactions of {transaction_timeout:?}");
        let repair = "set transaction.timeout.ms of [kafka] to no more than the broker's transaction.max.timeout.ms";
        return refused(problem, repair, error);
    }
    unavailable("asking to be let in as the only producer of this outbox", error)
}

/// The sink can never work as it is set up. An operator has to change that: `repair` says how.
pub(crate) fn unusable(problem: impl Into<String>, repair: impl Into<String>) -> SinkError {
    SinkError::Unusable { problem: problem.into(), repair: repair.into(), source: None }
}

/// As [`unusable`], with what the client or the broker said.
pub(crate) fn refused(problem: impl Into<String>, repair: impl Into<String>, said: KafkaError) -> SinkError {
    SinkError::Unusable { problem: problem.into(), repair: repair.into(), source: Some(Box::new(said)) }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    fn all_codes() -> Vec<RDKafkaErrorCode> {
        (-200..200).filter_map(|code| RDKafkaRespErr::try_from(code).ok()).map(RDKafkaErrorCode::from).collect()
    }

    fn judged(wanted: impl Fn(ErrorClass) -> bool) -> Vec<String> {
        let mut names: Vec<_> =
            all_codes().into_iter().filter(|code| wanted(classify(*code))).map(|code| format!("{code:?}")).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn every_code_is_judged_and_only_these_are_more_than_an_outage() {
        assert!(all_codes().len() > 150, "the client's list of codes was not found");
        assert_eq!(
            judged(|class| class == ErrorClass::Hold(HoldCause::MissingTopic)),
            ["UnknownTopic", "UnknownTopicOrPartition"]
        );
        assert_eq!(judged(|class| class == ErrorClass::Hold(HoldCause::NotAuthorised)), ["TopicAuthorizationFailed"]);
        assert_eq!(
            judged(|class| matches!(class, ErrorClass::Reject(_))),
            [
                "InvalidRecord",
                "InvalidTimestamp",
                "InvalidTopic",
                "MessageBatchTooLarge",
                "MessageSizeTooLarge",
                "PolicyViolation",
                "UnsupportedForMessageFormat"
            ]
        );
        assert_eq!(
            judged(|class| class == ErrorClass::Fatal),
            [
                "ClusterAuthorizationFailed",
                "DuplicateSequenceNumber",
                "Fatal",
                "Fenced",
                "GaplessGuarantee",
                "Inconsistent",
                "InvalidProducerEpoch",
                "OutOfOrderSequenceNumber",
                "ProducerFenced",
                "UnknownProducerId"
            ]
        );
    }

    #[test]
    fn a_purged_record_and_one_beside_an_invalid_one_are_not_rejected() {
        use RDKafkaErrorCode as Code;
        for code in [Code::PurgeQueue, Code::PurgeInflight, Code::InvalidDifferentRecord, Code::MessageTimedOut] {
            assert_eq!(classify(code), ErrorClass::Wait, "{code:?}");
        }
    }
}
