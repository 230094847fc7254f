//! The brokers, and the relay's Kafka client.

use crate::admin::checks::check::{Check, CheckName, CheckStatus};
use crate::contract::SinkError;
use crate::observe::{chain, grouped};

/// A client that was built anew more often than this within ten minutes fails again and again.
const REBUILDS_TOLERATED: u64 = 3;

/// Whether brokers answer, by a question from outside.
pub fn brokers(answered: Result<usize, &SinkError>) -> Check {
    match answered {
        Ok(1) => Check::ok(CheckName::Brokers, "1 broker answers"),
        Ok(many) => Check::ok(CheckName::Brokers, format!("{} brokers answer", grouped(many as u64))),
        Err(error) => away(&chain(error)),
    }
}

/// Whether brokers answer, as the relay's client knows; `None` where it has not asked.
pub fn brokers_by(answers: Option<Result<(), String>>) -> Check {
    match answers {
        Some(Ok(())) => Check::ok(CheckName::Brokers, "Kafka answers"),
        Some(Err(said)) => away(&format!("Kafka does not answer: {said}")),
        None => Check::unknown(CheckName::Brokers, "this relay has nothing to ask Kafka while it does not lead"),
    }
}

fn away(evidence: &str) -> Check {
    let failed = Check::new(CheckName::Brokers, CheckStatus::Failed, evidence);
    failed
        .because("messages wait, and none is lost")
        .command("outboxd config, for kafka.bootstrap.servers and credentials")
}

/// Whether the relay's client works: how often was it built anew within ten minutes?
pub fn producer(rebuilds: u64) -> Check {
    let name = CheckName::Producer;
    match rebuilds {
        0 => Check::ok(name, "the Kafka client was not built anew within 10 minutes"),
        few @ ..=REBUILDS_TOLERATED => {
            Check::ok(name, format!("the Kafka client was built anew {few} times within 10 minutes"))
        }
        many => {
            let seen = format!("the Kafka client was built anew {} times within 10 minutes", grouped(many));
            let again = Check::new(name, CheckStatus::Warning, seen);
            again.because("brokers refuse something, or cut connections: the log says what").command("read its log")
        }
    }
}

/// What is known of the client from where it is not; `page` is where the relay serves what it knows.
pub fn producer_unseen(page: Option<&str>) -> Check {
    Check::unseen(CheckName::Producer, "the relay alone knows its Kafka client", page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_that_nobody_asked_are_unknown() {
        assert_eq!(brokers_by(None).status, CheckStatus::Unknown);
        assert_eq!(brokers_by(Some(Ok(()))).status, CheckStatus::Ok);
        let away = brokers_by(Some(Err("refused".to_owned())));
        assert_eq!((away.status, away.evidence.as_str()), (CheckStatus::Failed, "Kafka does not answer: refused"));
        let error = SinkError::Unavailable { doing: "asking", source: "timed out".into() };
        assert!(brokers(Err(&error)).evidence.ends_with("asking: timed out"));
        assert_eq!(brokers(Ok(3)).evidence, "3 brokers answer");
    }

    #[test]
    fn a_client_that_is_built_anew_again_and_again_is_worth_a_look() {
        assert_eq!(
            [0, 3, 4].map(|rebuilds| producer(rebuilds).status),
            [CheckStatus::Ok, CheckStatus::Ok, CheckStatus::Warning]
        );
        assert_eq!(producer_unseen(Some("h:1")).command.as_deref(), Some("curl -s http://h:1/status"));
    }
}
