//! Which setting an environment variable stands for.
//!
//! `OUTBOXD_RELAY__BATCH__RECORDS` is `relay.batch.records`: two underscores stand for a dot. Inside `[kafka]` a
//! single one does, too: `OUTBOXD_KAFKA__LINGER_MS` is `kafka.linger.ms`. Variables that begin with `OUTBOXD_`
//! and hold no two underscores are left alone (Kubernetes makes some for a service of that name), unless they
//! spell a setting with one underscore too few.

use crate::config::secrets;

const PREFIX: &str = "OUTBOXD_";

/// What a variable stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// A setting, known or not.
    Setting(String),
    /// A known setting, spelt with single underscores.
    Misspelt(String),
    /// Nothing of ours.
    NotOurs,
}

/// Reads a variable's name.
pub(crate) fn read(variable: &str, known: &[String]) -> Reading {
    let Some(rest) = variable.strip_prefix(PREFIX) else { return Reading::NotOurs };
    let rest = rest.to_ascii_lowercase();
    let Some((section, key)) = rest.split_once("__") else {
        let misspelt = known.iter().find(|known| known.replace('.', "_") == rest);
        return misspelt.map_or(Reading::NotOurs, |key| Reading::Misspelt(key.clone()));
    };
    if section != "kafka" {
        return Reading::Setting(format!("{section}.{}", key.replace("__", ".")));
    }
    let dotted = |name: &str| format!("kafka.{}", name.replace("__", ".").replace('_', "."));
    if let Some(secret) = key.strip_suffix("_file") {
        let file = format!("{}_file", dotted(secret));
        if secrets::of_file(&file).is_some() {
            return Reading::Setting(file);
        }
    }
    Reading::Setting(dotted(key))
}

/// The variable that stands for a setting.
pub(crate) fn name(key: &str) -> String {
    let (section, key) = key.split_once('.').unwrap_or((key, ""));
    let separator = if section == "kafka" { "_" } else { "__" };
    format!("{PREFIX}{section}__{}", key.replace('.', separator)).to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str) -> Reading {
        Reading::Setting(key.to_owned())
    }

    #[test]
    fn two_underscores_are_a_dot_and_in_kafka_a_single_one_is_too() {
        assert_eq!(read("OUTBOXD_OUTBOX__SETTLE", &[]), setting("outbox.settle"));
        assert_eq!(read("OUTBOXD_RELAY__ON_REJECT", &[]), setting("relay.on_reject"));
        assert_eq!(read("OUTBOXD_RELAY__BATCH__RECORDS", &[]), setting("relay.batch.records"));
        assert_eq!(read("OUTBOXD_KAFKA__LINGER_MS", &[]), setting("kafka.linger.ms"));
        assert_eq!(read("OUTBOXD_KAFKA__SSL__CA__LOCATION", &[]), setting("kafka.ssl.ca.location"));
    }

    #[test]
    fn a_secret_of_kafka_may_come_from_a_file() {
        assert_eq!(read("OUTBOXD_KAFKA__SASL_PASSWORD_FILE", &[]), setting("kafka.sasl.password_file"));
        let property = "kafka.sasl.oauthbearer.assertion.private.key.file";
        assert_eq!(read("OUTBOXD_KAFKA__SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE", &[]), setting(property));
    }

    #[test]
    fn variables_that_others_make_are_left_alone_and_near_misses_are_told() {
        let known = ["http.listen".to_owned()];
        assert_eq!(read("OUTBOXD_SERVICE_HOST", &known), Reading::NotOurs);
        assert_eq!(read("PATH", &known), Reading::NotOurs);
        assert_eq!(read("OUTBOXD_HTTP_LISTEN", &known), Reading::Misspelt("http.listen".to_owned()));
        assert_eq!(name("http.listen"), "OUTBOXD_HTTP__LISTEN");
        assert_eq!(name("kafka.linger.ms"), "OUTBOXD_KAFKA__LINGER_MS");
    }
}
