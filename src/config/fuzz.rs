//! Documents and variables of any text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::document::flatten;
use super::raw::{DEFAULTS, Raw, Sources};
use super::{Config, Needs, secrets, show};
use crate::fuzz::{damaged_text, feed};

/// The password of a URL; what stands before an `@` is never shown.
const PASSWORD: &str = "hunter2@";

/// A secret of Kafka's.
const SECRET: &str = "swordfish";

const WORDS: &[&[u8]] = &[
    b"=",
    b"\n",
    b"[",
    b"]",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b".",
    b",",
    b"\"",
    b"'",
    b"\"\"\"",
    b"'''",
    b"\\",
    b"#",
    b"\0",
    b"\xff",
    b"_file",
    b"\\u0000",
    b"\\ud800",
    b"0x7fffffffffffffff",
    b"1e400",
    b"nan",
    b"1979-05-27",
    b"a.",
    b"relay.reject.",
    b"://",
    b"@",
    b"/",
    b"?",
    b"[[relay.reject]]\n",
    b"[kafka]\n",
];

const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "-9223372036854775808",
    "9223372036854775807",
    "99999999999999999999",
    "1e400",
    "nan",
    "1.5",
    "0x10",
    "1_000",
    "true",
    "[]",
    "[\"a\"]",
    "[\"*\"]",
    "[[], {}]",
    "[{}]",
    "{}",
    "{a = 1}",
    "1979-05-27",
    "\"\"",
    "\" \"",
    "\"1\"",
    "\"1ms\"",
    "\"5s\"",
    "\"584942417355 years\"",
    "\"99999999999999999999s\"",
    "\"1GiB\"",
    "\"99999999999999999999GiB\"",
    "\"17179869183GiB\"",
    "\"*\"",
    "\"orders.*\"",
    "\"{topic}.dlq\"",
    "\"{topic}{topic}\"",
    "\"{\"",
    "\"outboxd-progress\"",
    "\"delete\"",
    "\"always\"",
    "\"exactly-once\"",
    "\"create\"",
    "\"halt\"",
    "\"json\"",
    "\"a=debug,[{x=\\\"(\\\"}]=info\"",
    "\"127.0.0.1:0\"",
    "\"[::1]:99999\"",
    "\"schema.table\"",
    "\"\\u0000\"",
    "\"é\"",
];

/// Lines that the defaults have none of, with secrets among them.
const MORE: &[&str] = &[
    "database.url = \"postgres://app:hunter2@db:5432/shop?sslmode=require\"",
    "database.url = \"postgres://app:hun/ter2hunter2@db\"",
    "database.\"url\" = 'postgres:app:hunter2@db'",
    "kafka.sasl.password = \"swordfish\"",
    "kafka.\"ssl.key.password\" = \"swordfish\"",
    "kafka.ssl.key.pem = \"\"\"\n-----BEGIN\nswordfish\n\"\"\"",
    "kafka.ssl = { keystore.password = \"swordfish\" }",
    "kafka.bootstrap.servers = [\"localhost:1\", \"localhost:2\"]",
    "kafka.linger.ms = 5",
    "kafka.acks = 1",
    "kafka.lingr.ms = 5",
    "outbox.retentoin = \"7d\"",
    "database.url_file = \"/nowhere/url\"",
    "kafka.sasl.password_file = \"/nowhere/password\"",
    "relay.reject = [{ topic = \"payments.*\", on_reject = \"block-key\" }, { topic = \"a\" }]",
];

/// A line of a document.
fn line() -> impl Strategy<Value = String> {
    let defaults = flatten(DEFAULTS).expect("the defaults are a document");
    let keys: Vec<String> = defaults.into_iter().map(|entry| entry.key).collect();
    let setting = (select(keys), select(VALUES)).prop_map(|(key, value)| format!("{key} = {value}"));
    prop_oneof![3 => select(MORE).prop_map(str::to_owned), 4 => setting]
}

/// Lines, or the defaults.
fn document() -> impl Strategy<Value = String> {
    prop_oneof![8 => vec(line(), 0..8).prop_map(|lines| lines.join("\n")), 1 => Just(DEFAULTS.to_owned())]
}

/// Variables, some of them with secrets.
fn variables() -> impl Strategy<Value = Vec<(String, String)>> {
    let url = Just(("OUTBOXD_DATABASE__URL".to_owned(), "postgres://app:hunter2@db/shop".to_owned()));
    let secret = Just(("OUTBOXD_KAFKA__SASL_PASSWORD".to_owned(), SECRET.to_owned()));
    let names =
        &["OUTBOXD_RELAY__BATCH__RECORDS", "OUTBOXD_KAFKA__LINGER_MS", "OUTBOXD_HTTP_LISTEN", "OUTBOXD_HTTP__LISTEN"];
    let name = damaged_text(select(&names[..]).prop_map(str::to_owned), &[b"_", b"__", b"_FILE", b".", b"\0"]);
    let other = (name, prop_oneof![select(VALUES).prop_map(str::to_owned), ".{0,9}"]);
    vec(prop_oneof![1 => url, 1 => secret, 4 => other], 0..3)
}

/// Whether a text tells a secret.
fn tells(text: &str) -> bool {
    text.contains(PASSWORD) || text.contains(SECRET)
}

/// Whether secrets stand only where they are known to be ones.
fn is_discreet(document: &str) -> bool {
    let entries = flatten(document).unwrap_or_default();
    entries.iter().all(|entry| !tells(&entry.key) && (!tells(&entry.value.text) || secrets::is_secret(&entry.key)))
}

#[test]
fn any_document_is_a_configuration_or_complained_of_and_no_secret_is_told() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("outboxd.toml");
    let needs = select(&[Needs::Everything, Needs::Database, Needs::Nothing][..]);
    feed(&(damaged_text(document(), WORDS), variables(), needs), 300, |(document, environment, needs)| {
        if let Err(malformed) = flatten(&document) {
            prop_assert!(!tells(&malformed.problem), "{:?}", malformed);
        }
        std::fs::write(&file, &document).expect("a file can be written");
        let raw = Raw::gather(&Sources { file: Some(file.clone()), environment, flags: Vec::new() });
        let judged = Config::judge(&raw, needs);
        if is_discreet(&document) {
            let told = match &judged {
                Ok(config) => format!("{config:?}"),
                Err(complaints) => format!("{complaints} {complaints:?}"),
            };
            prop_assert!(!tells(&told), "{}", told);
            prop_assert!(!tells(&show(&raw)), "{}", show(&raw));
        }
        match judged {
            Ok(config) => {
                let relay = config.relay;
                prop_assert!(relay.batch.records > 0 && relay.batch.records <= relay.in_flight.records);
                prop_assert!(relay.batch.bytes <= relay.in_flight.bytes);
                prop_assert!(!config.outbox.topics.is_empty() && !relay.lease_ttl.is_zero());
                prop_assert!(needs == Needs::Nothing || !config.outbox.database.url.expose().is_empty());
                prop_assert!(needs != Needs::Everything || config.kafka.properties.contains_key("bootstrap.servers"));
            }
            Err(complaints) => prop_assert!(!complaints.0.is_empty()),
        }
        Ok(())
    });
}
