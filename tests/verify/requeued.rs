//! Records that an operator put back come after what was sent meanwhile, and in order: neither is damage.

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

use super::{publish, sent_rows, source, verify};
use crate::support::scene::Scene;
use crate::support::{machine, wait};

/// Publishes a row as one that was put back at that time.
fn publish_again(scene: &Scene, source: &str, at: &str, (id, event_id): (i64, Uuid)) {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", &scene.brokers).create().expect("a producer");
    let requeued = format!("{{\"id\": \"{id}\", \"code\": \"too_large\", \"at\": \"{at}\"}}");
    let headers = [
        ("outbox-requeued", requeued),
        ("id", event_id.to_string()),
        ("outbox-id", id.to_string()),
        ("outbox-source", source.to_owned()),
    ];
    let headers = headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let record = BaseRecord::to(scene.topic.name()).key("k").payload("x").partition(0).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("the client takes it");
    producer.flush(wait::PATIENCE).expect("the broker takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_back_together_is_held_to_its_own_order_and_to_no_other() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let rows = sent_rows(&scene, "k", 6).await;
    let source = source(&scene).await;
    publish(&scene, &source, "k", &[rows[0], rows[5]]);
    publish_again(&scene, &source, "2026-01-31T12:00:00Z", rows[3]);
    publish_again(&scene, &source, "2026-01-31T12:00:00Z", rows[4]);
    publish_again(&scene, &source, "2026-01-31T13:00:00Z", rows[1]);
    let verdict = verify(&scene, "mark", &["--no-duplicates"]);
    assert_eq!((verdict.damage(), verdict.count("requeued")), ([1, 0, 0, 0, 0], 3), "{}", verdict.report);
    publish_again(&scene, &source, "2026-01-31T12:00:00Z", rows[2]);
    let verdict = verify(&scene, "mark", &[]);
    assert_eq!((verdict.damage(), verdict.count("requeued")), ([0, 1, 0, 0, 1], 4), "{}", verdict.report);
    assert_eq!(verdict.report["examples"]["reordered"][0]["id"], rows[2].0);
}
