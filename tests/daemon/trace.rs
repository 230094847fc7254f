//! `outboxd trace`: a message followed from its row to its records.

use std::process::Output;

use serde_json::Value;

use crate::daemon::{ran, stderr, stdout};
use crate::support::machine;
use crate::support::scene::Scene;

fn trace(scene: &Scene, arguments: &[&str]) -> Output {
    let common = ["trace", "--database-url", scene.database.url(), "--brokers", &scene.brokers];
    ran(&[&common[..], arguments].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_in_its_partition_also_once_its_row_is_gone() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    for number in 0..20 {
        scene.insert(&format!("key-{}", number % 7), "{}").await;
    }
    let _relay = scene.relay().start().await;
    scene.all_settled().await;
    let found = trace(&scene, &["7", "--json"]);
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    let told: Value = serde_json::from_slice(&found.stdout).expect("JSON");
    let records = told["trace"]["records"].as_array().expect("records");
    assert_eq!((&told["id"], records.len()), (&"7".into(), 1), "{told}");
    let record = &records[0];
    let text = stdout(&trace(&scene, &["7"]));
    let place = format!("partition {}, offset {}", record["partition"], record["offset"].as_str().expect("an offset"));
    assert!(text.contains(&place), "{text}");

    let event_id = told["event_id"].as_str().expect("an event id").to_owned();
    scene.database.run("delete from outbox where id = 7").await;
    let gone = trace(&scene, &[&event_id]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("--topic"), "{}", stderr(&gone));
    let found = stdout(&trace(&scene, &[&event_id, "--topic", scene.topic.name()]));
    assert!(found.contains(&place), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_has_no_record_and_what_was_not_looked_at_is_said() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    scene.insert("k", "{}").await;
    let text = stdout(&trace(&scene, &["1"]));
    assert!(text.contains("none among the 0 records"), "{text}");
    let _relay = scene.relay().start().await;
    scene.insert("k", "{}").await;
    scene.insert("k", "{}").await;
    scene.all_settled().await;
    let text = stdout(&trace(&scene, &["1", "--records", "1"]));
    assert!(text.contains("partition ") && text.contains("--records N looks at more"), "{text}");
}
