//! What arrives is what was written, byte for byte.

use rdkafka::message::{Headers, Message, OwnedMessage};

use crate::support::kafka::{header, text};
use crate::support::machine;
use crate::support::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn key_payload_headers_partition_and_timestamp_arrive_as_written() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let insert = "insert into outbox (topic, key, payload, headers, partition) \
        values ($1, 'schlüssel \u{1f511}', $2, '{\"traceparent\": \"00-ab-cd-01\", \"umlaut\": \"ä\", \"empty\": \"\"}', 4)";
    let insert = sqlx::query(insert).bind(scene.topic.name()).bind(&every_byte);
    insert.execute(scene.database.pool()).await.expect("a row is inserted");
    let _relay = scene.relay().start().await;
    let record = only(&scene).await;

    assert_eq!(record.key(), Some("schlüssel \u{1f511}".as_bytes()));
    assert_eq!(record.payload(), Some(&*every_byte));
    assert_eq!(record.partition(), 4);
    let created = "select (extract(epoch from created_at) * 1000000)::bigint / 1000 from outbox";
    assert_eq!(record.timestamp().to_millis(), Some(scene.database.number(created).await));
    assert_eq!(header(&record, "traceparent"), Some("00-ab-cd-01"));
    assert_eq!((header(&record, "umlaut"), header(&record, "empty")), (Some("ä"), Some("")));
    let (id, event_id): (i64, String) =
        sqlx::query_as("select id, event_id::text from outbox").fetch_one(scene.database.pool()).await.expect("a row");
    assert_eq!(header(&record, "id"), Some(&*event_id));
    assert_eq!(header(&record, "outbox-id"), Some(&*id.to_string()));
    let source = format!("{}.public.outbox", scene.database.name());
    assert_eq!(header(&record, "outbox-source"), Some(&*source));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_a_row_that_are_called_like_the_relays_own_are_left_out_counted_and_told_once() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let insert = "insert into outbox (topic, key, payload, headers) select $1, 'k', 'x', \
        '{\"id\": \"forged\", \"outbox-id\": \"0\", \"outbox-source\": \"forged\", \"outbox-created-at\": \"0\", \"kept\": \"x\"}' \
        from generate_series(1, 2)";
    let inserted = sqlx::query(insert).bind(scene.topic.name()).execute(scene.database.pool()).await;
    inserted.expect("rows are inserted");
    let relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();
    for record in tail.records(2).await {
        let headers = record.headers().expect("headers");
        let mut names: Vec<&str> = headers.iter().map(|header| header.key).collect();
        names.sort_unstable();
        assert_eq!(names, ["id", "kept", "outbox-id", "outbox-source"]);
        assert!(["id", "outbox-source"].iter().all(|name| header(record, name) != Some("forged")), "{headers:?}");
        assert_ne!(header(record, "outbox-id"), Some("0"));
    }
    relay.reaches("outboxd_reserved_headers_dropped_total", 8.0).await;
    let told = relay.log().matches("a row has a header of a name that the relay writes itself").count();
    assert_eq!(told, 4, "once for each name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_payload_is_a_tombstone_an_empty_one_is_empty_and_a_null_key_is_none() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().with("outbox.source", "shop").start().await;
    let mut tail = scene.topic.follow();
    let rows: [(Option<&str>, Option<&[u8]>); 4] =
        [(Some("k"), None), (Some("k"), Some(b"")), (None, Some(b"x")), (None, None)];
    for (count, (key, payload)) in (1..).zip(rows) {
        let insert = sqlx::query("insert into outbox (topic, key, payload) values ($1, $2, $3)");
        let insert = insert.bind(scene.topic.name()).bind(key).bind(payload).execute(scene.database.pool()).await;
        insert.expect("a row is inserted");
        let record = tail.records(count).await.last().expect("a record");
        assert_eq!((record.key(), record.payload()), (key.map(str::as_bytes), payload));
        assert_eq!(header(record, "outbox-source"), Some("shop"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_function_enqueues_json_text_and_bytes_without_changing_them() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().start().await;
    let mut tail = scene.topic.follow();
    // Backslashes would be read as escapes by a plain cast from text to bytea.
    let calls = [
        (r#"'{"path": "C:\\temp\\x", "total": 12}'::jsonb"#, r#"{"path": "C:\\temp\\x", "total": 12}"#),
        (r#"'{"b":"\\u00e4",   "a":"\\"}'::text"#, r#"{"b":"\\u00e4",   "a":"\\"}"#),
        (r"'\x5c00ff5c'::bytea", "\\\0\u{fffd}\\"),
    ];
    for (count, (payload, expected)) in (1..).zip(calls) {
        let call = format!(
            "select outbox_enqueue('{}', 'order-17', {payload}, '{{\"traceparent\": \"00-ab\"}}')",
            scene.topic.name()
        );
        scene.database.run(&call).await;
        let record = tail.records(count).await.last().expect("a record");
        assert_eq!(text(record), expected);
        assert_eq!(record.key(), Some(&b"order-17"[..]));
        assert_eq!(header(record, "traceparent"), Some("00-ab"));
    }
    scene.database.run(&format!("select outbox_enqueue('{}', null, '[]'::jsonb)", scene.topic.name())).await;
    let record = tail.records(4).await.last().expect("a record");
    assert_eq!((record.key(), text(record)), (None, "[]".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_where_java_clients_put_it() {
    let _machine = machine::shared().await;
    let scene = Scene::set().await;
    let _relay = scene.relay().start().await;
    // murmur2 of the key, its sign bit cleared, modulo 6 partitions; from org.apache.kafka.common.utils.Utils.
    let expected = [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)];
    for (key, _) in expected {
        scene.insert(key, key).await;
    }
    let mut tail = scene.topic.follow();
    for record in tail.records(3).await {
        let (_, hash) = expected.iter().find(|(key, _)| *key == text(record)).expect("a row that was written");
        assert_eq!(record.partition(), (hash & 0x7fff_ffff) % 6, "key {}", text(record));
    }
}

/// The only record of the topic.
async fn only(scene: &Scene) -> OwnedMessage {
    let mut tail = scene.topic.follow();
    tail.records(1).await.last().expect("a record").clone()
}
