//! Layers, complaints and secrets of the configuration.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use outboxd::config::complaint::Complaints;
use outboxd::config::raw::{DEFAULTS, Flag, Raw, Sources};
use outboxd::config::{Config, Needs, show};
use outboxd::outbox::{Delivery, OnReject, Settle, Table};
use outboxd::relay;
use tempfile::NamedTempFile;

use crate::daemon::{outboxd, ran, stderr, stdout};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(text.as_bytes()).expect("a temporary file can be written");
    file
}

fn gathered(text: &str, environment: &[(&str, &str)], flags: &[(&'static str, &str, &str)]) -> Raw {
    let file = file(text);
    Raw::gather(&Sources {
        file: Some(file.path().to_owned()),
        environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        flags: flags
            .iter()
            .map(|(name, key, value)| Flag { name, key: key.to_string(), value: value.to_string() })
            .collect(),
    })
}

fn judged(text: &str, environment: &[(&str, &str)]) -> Result<Config, Complaints> {
    Config::judge(&gathered(text, environment, &[]), Needs::Nothing)
}

fn complaints(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let complaints = judged(text, environment).expect_err("there is something to complain of");
    complaints.0.iter().map(|complaint| format!("{}: {}", complaint.subject, complaint.problem)).collect()
}

#[test]
fn the_defaults_file_says_what_the_rooms_take_by_default() {
    let config = Config::judge(&Raw::gather(&Sources::default()), Needs::Nothing).expect("the defaults are in order");
    let rooms = relay::Settings { holder: config.relay.holder.clone(), ..relay::Settings::default() };
    assert_eq!(format!("{:?}", config.relay), format!("{rooms:?}"));
    assert_eq!(config.outbox.database.table, Table::default());
    assert_eq!(config.outbox.database.settle, Settle::default());
    assert_eq!(config.outbox.source, None);
    let chores = outboxd::housekeeping::Settings::default();
    assert_eq!(config.outbox.retention, chores.retention);
    assert_eq!(config.http.listen.as_deref(), Some("127.0.0.1:9187"));
    assert_eq!(config.canary, None);
}

#[test]
fn every_setting_of_the_defaults_file_is_explained() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        let setting = line.contains(" = ") && !line.starts_with('#');
        let second_of_a_pair = line.contains(".replication") || line.contains(".bytes");
        assert!(!setting || explained || second_of_a_pair, "no comment above {line:?}");
        explained = line.starts_with('#');
    }
}

#[test]
fn later_layers_win_and_the_origin_of_each_value_is_shown() {
    let text = "[outbox]\nsettle = \"delete\"\nretention = \"1d\"\ntable = \"a\"\n";
    let environment = [("OUTBOXD_OUTBOX__RETENTION", "2d"), ("OUTBOXD_OUTBOX__TABLE", "b")];
    let raw = gathered(text, &environment, &[("--table", "outbox.table", "c")]);
    let config = Config::judge(&raw, Needs::Nothing).expect("in order");
    assert_eq!(config.outbox.database.settle, Settle::Delete);
    assert_eq!(config.outbox.retention, Duration::from_secs(2 * 24 * 3600));
    assert_eq!(config.outbox.database.table, "c".parse().expect("a table"));
    let shown = show(&raw);
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).expect("it is shown").to_owned();
    assert!(line("settle").ends_with(":2"), "{}", line("settle"));
    assert!(line("retention").ends_with("# from environment OUTBOXD_OUTBOX__RETENTION"));
    assert!(line("table").ends_with("# from flag --table"));
    assert!(line("notify").ends_with("# from default"));
}

#[test]
fn a_property_of_kafka_may_be_spelt_in_every_way() {
    let text = "[kafka]\nlinger.ms = 5\n\"batch.size\" = 1000\nbootstrap.servers = [\"a:1\", \"b:2\"]\n\
                [kafka.ssl]\nca.location = \"/ca\"\n";
    let config = judged(text, &[("OUTBOXD_KAFKA__COMPRESSION_TYPE", "zstd")]).expect("in order");
    let properties: Vec<(&str, &str)> =
        config.kafka.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        properties,
        [
            ("batch.size", "1000"),
            ("bootstrap.servers", "a:1,b:2"),
            ("compression.type", "zstd"),
            ("linger.ms", "5"),
            ("ssl.ca.location", "/ca")
        ]
    );
}

#[test]
fn every_mistake_is_told_at_once_with_what_would_do() {
    let text = "[outbox]\nretentoin = \"1d\"\nretention = 7\nsettle = \"keep\"\ntable = \"a b\"\n\
                [relay]\nbatch.records = \"5\"\nbatch.bytes = \"lots\"\nin_flight.records = 0\n\
                [colour]\nred = 1\n";
    let environment = [("OUTBOXD_LEASE__TTL", "1ms"), ("OUTBOXD_LOG__FORMAT", "xml"), ("OUTBOXD_HTTP_LISTEN", "x:1")];
    let complaints = complaints(text, &environment);
    for expected in [
        "outbox.retentoin: is no setting; did you mean outbox.retention?",
        "colour.red: is no setting; deploy/outboxd.toml lists all there are",
        "OUTBOXD_HTTP_LISTEN: section and key are joined by two underscores; use OUTBOXD_HTTP__LISTEN",
        "outbox.retention: 7 is no duration; write a number and a unit",
        "outbox.settle: \"keep\" is no way to settle: use mark, delete or checkpoint",
        "outbox.table: \"a b\" cannot name an outbox table",
        "relay.batch.records: \"5\" is no whole number; write it in digits, without quotes",
        "relay.batch.bytes: \"lots\" is no size",
        "relay.in_flight.records: 0 is out of bounds; use one between 1 and",
        "lease.ttl: 1ms is out of bounds; use one between 250ms and",
        "log.format: \"xml\" is not one of its words; use \"text\" or \"json\"",
    ] {
        assert!(
            complaints.iter().any(|complaint| complaint.starts_with(expected)),
            "{expected} is missing: {complaints:#?}"
        );
    }
    assert!(complaints.len() >= 11 && complaints.iter().all(|complaint| !complaint.contains('\n')), "{complaints:#?}");
}

#[test]
fn every_way_to_deliver_is_taken_by_its_word() {
    for delivery in Delivery::ALL {
        let text = format!("[relay]\ndelivery = \"{delivery}\"\n");
        assert_eq!(judged(&text, &[]).expect("a good configuration").relay.delivery, delivery);
    }
    let wrong = complaints("[relay]\ndelivery = \"at-most-once\"\n", &[]);
    assert!(wrong[0].starts_with("relay.delivery: \"at-most-once\" is no way to deliver"), "{wrong:?}");
    let large = complaints("[relay]\ndelivery = \"exactly-once\"\nbatch.records = 20000\n", &[]);
    assert!(large[0].starts_with("relay.batch.records: is more than 10000"), "{large:?}");
}

#[test]
fn what_becomes_of_rejected_records_is_said_topic_by_topic() {
    let text = "[relay]\non_reject = \"halt\"\n[dead_letter]\ntopic = \"{topic}.dlq\"\n\
        [[relay.reject]]\ntopic = \"payments.*\"\non_reject = \"block-key\"\n\
        [[relay.reject]]\ntopic = \"*\"\non_reject = \"dead-letter\"\n";
    let relay = judged(text, &[]).expect("a good configuration").relay;
    assert_eq!(relay.on_reject.otherwise, OnReject::Halt);
    assert_eq!(relay.on_reject.of("payments.card"), OnReject::BlockKey);
    assert_eq!(relay.on_reject.of("orders"), OnReject::DeadLetter);
    assert_eq!(relay.dead_letter_topic.and_then(|topic| topic.of("orders")).as_deref(), Some("orders.dlq"));

    let wrong = "[relay]\non_reject = \"drop\"\n[dead_letter]\ntopic = \"a b\"\n\
        [[relay.reject]]\ntopic = \"a b\"\non_reject = \"halt\"\n\
        [[relay.reject]]\ntopic = \"a\"\n\
        [[relay.reject]]\ntopics = \"a\"\n";
    let complaints = complaints(wrong, &[]);
    for expected in [
        "relay.on_reject: \"drop\" is nothing to do",
        "dead_letter.topic: \"a b\" names no topic",
        "relay.reject.1.topic: \"a b\" is no pattern",
        "relay.reject.2.on_reject: is not set",
        "relay.reject.3.topics: is no setting",
    ] {
        assert!(complaints.iter().any(|complaint| complaint.starts_with(expected)), "{expected}: {complaints:#?}");
    }
}

#[test]
fn a_file_that_cannot_be_read_or_is_no_toml_is_one_complaint_among_the_others() {
    let sources = Sources { file: Some("/nowhere/outboxd.toml".into()), ..Sources::default() };
    let complaints =
        Config::judge(&Raw::gather(&sources), Needs::Everything).expect_err("nothing is given").to_string();
    assert!(complaints.contains("/nowhere/outboxd.toml (flag --config): cannot be read"), "{complaints}");
    assert!(complaints.contains("database.url: is not set"), "{complaints}");
    let broken = judged("[outbox]\nsettle = delete\n", &[]).expect_err("no TOML").to_string();
    assert!(broken.contains(":2: is not TOML"), "{broken}");
}

#[test]
fn one_setting_spelt_twice_in_a_file_is_a_slip() {
    let complaints = complaints("[kafka]\nlinger.ms = 5\n\"linger.ms\" = 6\n", &[]);
    assert_eq!(complaints, ["kafka.linger.ms: is set a second time, first in line 2; keep one of them"]);
}

#[test]
fn a_secret_is_read_from_its_file_and_the_later_layer_wins() {
    let secret = file("postgres://app:hunter2@db/shop\n");
    let path = secret.path().to_str().expect("UTF-8");
    let text = format!("[database]\nurl_file = {path:?}\n[kafka]\nsasl.password_file = {path:?}\n");
    let config = judged(&text, &[]).expect("in order");
    assert_eq!(config.outbox.database.url.expose(), "postgres://app:hunter2@db/shop");
    assert_eq!(config.kafka.properties["sasl.password"], "postgres://app:hunter2@db/shop");
    assert!(!config.kafka.properties.contains_key("sasl.password_file"));

    let config = judged(&text, &[("OUTBOXD_DATABASE__URL", "sqlite:a")]).expect("in order");
    assert_eq!(config.outbox.database.url.expose(), "sqlite:a");

    let both = [("OUTBOXD_DATABASE__URL", "sqlite:a"), ("OUTBOXD_DATABASE__URL_FILE", path)];
    assert_eq!(complaints("", &both), ["database.url_file: and database.url are both set; keep one of them"]);
    let missing = complaints("", &[("OUTBOXD_KAFKA__SASL_PASSWORD_FILE", "/nowhere/secret")]);
    assert!(missing[0].starts_with("kafka.sasl.password_file: /nowhere/secret cannot be read"), "{missing:?}");
}

#[test]
fn secrets_are_never_printed_whatever_is_wrong_with_them() {
    let url = "postgres://app:hunter2@db/shop?password=hunter2";
    let arguments =
        ["config", "--database-url", url, "-X", "sasl.password=hunter2", "-X", "acks=hunter3", "--http", "x"];
    let output = ran(&arguments);
    assert_eq!(output.status.code(), Some(2));
    let said = stdout(&output) + &stderr(&output);
    assert!(!said.contains("hunter2"), "{said}");
    assert!(said.contains("postgres://***@db/shop?***"), "{said}");
    for url in [
        "oracle://app:hunter2@db/shop",
        "mysql://app:hunter2@db/shop?ssl_mode=x",
        "hunter2",
        "postgres://app:hun%ZZter2@db:x/y",
    ] {
        let output = ran(&["config", "--check", "--database-url", url, "--brokers", "localhost:1"]);
        let said = stdout(&output) + &stderr(&output);
        assert!(!said.contains("ter2"), "{said}");
        assert_eq!(output.status.code(), Some(2), "{url}: {said}");
    }
}

#[test]
fn what_is_missing_is_told_with_the_ways_to_give_it() {
    let complaints = stderr(&ran(&["config", "--check"]));
    assert!(complaints.contains("database.url: is not set; give --database-url URL"), "{complaints}");
    assert!(complaints.contains("kafka.bootstrap.servers: is not set; give --brokers HOST:PORT"), "{complaints}");
}

#[test]
fn a_configuration_in_order_is_judged_without_a_word() {
    let output = outboxd(&["config", "--check", "--database-url", "sqlite:x.db"])
        .env("OUTBOXD_KAFKA__BOOTSTRAP_SERVERS", "localhost:1")
        .output()
        .expect("the binary starts");
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), String::new(), String::new()));
}

#[test]
fn a_property_that_would_break_the_promise_is_refused_with_the_reason() {
    let arguments = ["config", "--check", "--database-url", "sqlite:x.db", "--brokers", "localhost:1"];
    for property in ["acks=1", "enable.idempotence=false", "message.timeout.ms=1000", "partitioner=random"] {
        let output = ran(&[&arguments[..], &["-X", property]].concat());
        assert_eq!(output.status.code(), Some(2), "{property}");
        let name = property.split('=').next().expect("a name");
        assert!(stderr(&output).contains(name), "{property}: {}", stderr(&output));
    }
    let output = ran(&[&arguments[..], &["-X", "lingre.ms=5"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("lingre.ms"), "{}", stderr(&output));
}

#[test]
fn all_words_of_the_settings_that_scripts_rely_on_are_there() {
    let raw = Raw::gather(&Sources::default());
    let keys: BTreeSet<&str> = raw.values().keys().map(String::as_str).collect();
    for key in [
        "database.url",
        "outbox.table",
        "outbox.source",
        "outbox.topics",
        "outbox.settle",
        "outbox.retention",
        "outbox.notify",
        "relay.delivery",
        "relay.on_reject",
        "relay.on_missing_topic",
        "lease.ttl",
        "http.listen",
    ] {
        assert!(keys.contains(key), "{key}");
    }
}

#[test]
fn positions_of_records_are_recorded_only_in_rows_that_are_marked() {
    let records = |text: &str| judged(text, &[]).expect("in order").relay.record_position;
    assert!(!records(""));
    assert!(records("[outbox]\nrecord_position = true\n"));
    assert!(!records("[outbox]\nrecord_position = false\nsettle = \"delete\"\n"));
    for settle in ["delete", "checkpoint"] {
        let said = complaints(&format!("[outbox]\nrecord_position = true\nsettle = \"{settle}\"\n"), &[]);
        assert!(said.iter().any(|said| said.contains("outbox.settle = \"mark\"")), "{said:?}");
    }
    let said = complaints("[outbox]\nrecord_position = \"yes\"\n", &[]);
    assert!(said.iter().any(|said| said.contains("neither true nor false")), "{said:?}");
}

#[test]
fn the_topics_of_an_outbox_are_a_list_and_that_of_the_progress_takes_no_dead_letters() {
    let topics = |text: &str, environment: &[(&str, &str)]| {
        let config = judged(text, environment).expect("in order");
        ["orders.paid", "users"].map(|topic| config.outbox.topics.iter().any(|allowed| allowed.matches(topic)))
    };
    assert_eq!(topics("", &[]), [true, true]);
    assert_eq!(topics("[outbox]\ntopics = [\"orders.*\", \"x\"]\n", &[]), [true, false]);
    assert_eq!(topics("", &[("OUTBOXD_OUTBOX__TOPICS", "x, users")]), [false, true]);
    for (text, key, problem) in [
        ("[outbox]\ntopics = []\n", "outbox.topics", "names nothing"),
        ("[outbox]\ntopics = \"orders\"\n", "outbox.topics", "is no list"),
        ("[outbox]\ntopics = [\"a b\"]\n", "outbox.topics", "no pattern"),
        ("[dead_letter]\ntopic = \"outboxd-progress\"\n", "dead_letter.topic", "relay.progress_topic"),
    ] {
        let said = complaints(text, &[]);
        assert!(said.iter().any(|said| said.starts_with(key) && said.contains(problem)), "{text}: {said:?}");
    }
    let raw = gathered("[outbox]\ntopics = [\"a\", \"b\"]\n", &[], &[]);
    assert!(show(&raw).contains("topics = [\"a\", \"b\"]"), "{}", show(&raw));
}

#[test]
fn a_canary_is_off_by_default_and_one_that_cannot_do_its_work_is_refused() {
    assert!(judged("", &[]).expect("in order").canary.is_none());
    let canary = |text: &str| format!("[outbox]\ntopics = [\"orders.*\", \"outboxd-*\"]\n[canary]\n{text}");
    let config = judged(&canary("every = \"10s\"\n"), &[]).expect("in order");
    let settings = config.canary.expect("it is on");
    assert_eq!((settings.every, settings.lost_after), (Duration::from_secs(10), Duration::from_secs(60)));
    assert_eq!((settings.topic.as_str(), settings.sender), ("outboxd-canary", config.relay.holder));
    for (text, problem) in [
        ("every = \"10ms\"\n", "canary.every: is less than 100ms"),
        ("every = \"10s\"\nlost_after = \"2s\"\n", "canary.lost_after: is less than lease.ttl"),
        ("every = \"100ms\"\nlost_after = \"2m\"\n", "canary.lost_after: is more than 1000 times canary.every"),
        ("every = \"10s\"\ntopic = \"canary\"\n", "canary.topic: is \"canary\", which outbox.topics does not allow"),
        ("every = \"10s\"\ntopic = \"outboxd-progress\"\n", "canary.topic: is no topic for rows"),
        ("every = \"10s\"\ntopic = \"__consumer_offsets\"\n", "canary.topic: is no topic for rows"),
        ("topic = \"a b\"\n", "canary.topic: \"a b\" cannot name a topic"),
        ("every = \"2d\"\n", "canary.every: 2d is out of bounds"),
    ] {
        let said = complaints(&canary(text), &[]);
        assert!(said.len() == 1 && said[0].starts_with(problem), "{text}: {said:?}");
    }
    // What is off need not fit.
    assert!(judged(&canary("topic = \"canary\"\nlost_after = \"1s\"\n"), &[]).is_ok());
}
