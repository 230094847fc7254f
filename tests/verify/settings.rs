//! What an audit is told, and what it says when it cannot do what it is asked.

use std::process::Command;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{publish, sent_rows, source, verify};
use crate::support::scene::Scene;
use crate::support::{machine, wait};

#[tokio::test(flavor = "multi_thread")]
async fn since_leaves_older_records_out_as_it_does_rows() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 3).await;
    let source = source(&scene).await;
    // A swap, with the times of rows that were written two hours ago.
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", &scene.brokers).create().expect("a producer can be set up");
    let long_ago = (chrono::Utc::now() - chrono::TimeDelta::hours(2)).timestamp_millis();
    for (id, event_id) in [rows[1], rows[0]] {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "id", value: Some(&event_id.to_string()) })
            .insert(Header { key: "outbox-id", value: Some(&id.to_string()) })
            .insert(Header { key: "outbox-source", value: Some(&source) });
        let record = BaseRecord::to(scene.topic.name()).key("k").payload("x").partition(0);
        let sent = producer.send(record.timestamp(long_ago).headers(headers));
        sent.map_err(|(error, _)| error).expect("the client takes it");
    }
    producer.flush(wait::PATIENCE).expect("the broker takes them");
    let id = rows[2].0;
    scene.database.run(&format!("update outbox set created_at = now() - interval '2 hours' where id < {id}")).await;
    publish(&scene, &source, "k", &rows[2..]);
    assert_eq!(verify(&scene, "mark", &[]).damage(), [0, 1, 0, 0, 0]);
    assert_eq!(verify(&scene, "mark", &["--since", "3h"]).damage(), [0, 1, 0, 0, 0]);
    let verdict = verify(&scene, "mark", &["--since", "1h"]);
    assert_eq!((verdict.code, verdict.damage()), (Some(0), [0; 5]), "{}", verdict.report);
    assert_eq!((verdict.count("rows"), verdict.count("records")), (1, 1), "{}", verdict.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_audited_is_refused_instead_of_passed() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let refused = |arguments: &[&str], settle: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.args(["verify", "--json", "--database-url", scene.database.url(), "--brokers", &scene.brokers]);
        let output = command.args(arguments).env("OUTBOXD_OUTBOX__SETTLE", settle).output().expect("the binary starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = refused(&["--topic", "no.such.topic"], "mark");
    assert!(code == Some(1) && said.contains("no.such.topic"), "{code:?} {said}");
    let (code, said) = refused(&[], "delete");
    assert!(code == Some(1) && said.contains("--topic"), "{code:?} {said}");
    for since in ["tomorrow", "99999999999years", "300000years"] {
        let (code, said) = refused(&["--since", since], "mark");
        assert!(code == Some(2) && said.contains("--since"), "{since}: {code:?} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_has_dropped_its_beginning_is_named_beside_what_is_missing() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 3).await;
    publish(&scene, &source(&scene).await, "k", &rows);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(scene.topic.name(), 0, Offset::Offset(2)).expect("an offset that exists");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &scene.brokers).create().expect("an admin client can be set up");
    admin.delete_records(&list, &AdminOptions::new()).await.expect("the broker drops them");
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.code, verdict.damage()), (Some(1), [2, 0, 0, 0, 0]), "{}", verdict.report);
    let notes = verdict.report["notes"].to_string();
    assert!(notes.contains("--since") && notes.contains(scene.topic.name()), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_for_people_has_places_and_no_keys_or_payloads() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "very-secret-key", 3).await;
    publish(&scene, &source(&scene).await, "very-secret-key", &[rows[2], rows[0], rows[0]]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(["verify", "--database-url", scene.database.url(), "--brokers", &scene.brokers]);
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let place = format!("row {} at {}/0@1", rows[0].0, scene.topic.name());
    let lost = format!("row {}\n", rows[1].0);
    assert!(said.contains(&place) && said.contains(&lost), "{said}");
    assert!(!said.contains("very-secret-key"), "{said}");
}
