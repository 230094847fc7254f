//! The pure parts of the hot path, without database and broker: `cargo bench --bench micro --features microbench`.

use std::sync::Arc;

use chrono::Utc;
use divan::Bencher;
use divan::counter::ItemsCount;
use outboxd::kafka::microbench as kafka;
use outboxd::outbox::{Held, HoldCause, Lane, Record, headers_from_json};
use outboxd::relay::microbench::{Delivered, HeldLanes, fold};
use uuid::Uuid;

/// Records of a batch, as the relay reads them by default.
const BATCH: usize = 5_000;

fn main() {
    divan::main();
}

fn records(number: usize) -> Vec<Record> {
    let topic: Arc<str> = "orders.order.created".into();
    let record = |id: usize| Record {
        id: id as i64,
        event_id: Uuid::from_u128(id as u128),
        topic: Arc::clone(&topic),
        key: Some(format!("key-{}", id % 10_000)),
        payload: Some(vec![b'x'; 300]),
        headers: vec![(
            "traceparent".to_owned(),
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        )],
        partition: None,
        created_at: Utc::now(),
    };
    (1..=number).map(record).collect()
}

/// Takes the records of held lanes out of a batch, with so many lanes held.
#[divan::bench(args = [0, 1, 100, 10_000])]
fn lanes_keep_back(bencher: Bencher<'_, '_>, lanes: usize) {
    let topic: Arc<str> = "orders.order.created".into();
    let lane = |key: usize| Lane::from_columns(&topic, Some(&format!("other-{key}")), None);
    let held = |key| Held { lane: lane(key), from_id: 1, after: None, cause: HoldCause::Rejected, since: Utc::now() };
    let held: Vec<Held> = (0..lanes).map(held).collect();
    bencher.counter(ItemsCount::new(BATCH)).with_inputs(|| (HeldLanes::of(&held), records(BATCH))).bench_local_values(
        |(mut lanes, mut records)| {
            lanes.keep_back(&mut records);
            records
        },
    );
}

/// Decodes the headers of a row, as the database sends them.
#[divan::bench(args = ["{}", r#"{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#])]
fn decode_headers(json: &str) -> usize {
    headers_from_json(divan::black_box(json.as_bytes())).expect("an object").len()
}

/// Puts a batch into the terms of Kafka's client.
#[divan::bench]
fn encode_batch(bencher: Bencher<'_, '_>) {
    let records = records(BATCH);
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| records.iter().map(|record| kafka::encode(record, 12)).sum::<usize>());
}

/// Computes what the records of a batch take on the wire.
#[divan::bench]
fn size_batch(bencher: Bencher<'_, '_>) {
    let records = records(BATCH);
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| records.iter().map(kafka::batch_size).sum::<usize>());
}

/// Folds two delivered batches into a settlement, and finds the runs of its ids.
#[divan::bench]
fn fold_settlement(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(2 * BATCH))
        .with_inputs(|| vec![Delivered::of(records(BATCH)), Delivered::of(records(BATCH))])
        .bench_local_values(|batches| fold(batches).runs().len());
}
