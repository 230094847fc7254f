//! Writing, from Rust and in plain SQL.

use chrono::{DateTime, Utc};
use outboxd::Message;
use outboxd::sqlite::{self, EnqueueError};
use sqlx::Connection;

use crate::sqlite::File;

#[tokio::test]
async fn a_message_is_written_if_and_only_if_the_callers_transaction_commits() {
    let file = File::migrated().await;
    let mut connection = file.connect().await;
    let message = Message::to("orders").key(1).text("{}").expect("a valid message");
    for commits in [false, true] {
        let mut tx = connection.begin_with("begin immediate").await.expect("begun");
        sqlite::enqueue(&mut tx, &message).await.expect("enqueued");
        if commits { tx.commit().await } else { tx.rollback().await }.expect("ended");
        assert_eq!(file.read().await.len(), usize::from(commits));
    }
}

#[tokio::test]
async fn many_messages_keep_their_order_and_their_ids() {
    let file = File::migrated().await;
    let mut connection = file.connect().await;
    let messages: Vec<Message> =
        (0..12_000).map(|n| Message::to("orders").key(n).text(n.to_string()).expect("a valid message")).collect();
    let first = sqlite::enqueue(&mut connection, &messages[0]).await.expect("enqueued");
    let ids = sqlite::enqueue_many(&mut connection, &messages).await.expect("enqueued");
    assert_eq!(ids, (first + 1..=first + 12_000).collect::<Vec<i64>>());
    assert!(sqlite::enqueue_many(&mut connection, &[]).await.expect("nothing to do").is_empty());
    let wrong: i64 = sqlx::query_scalar("select count(*) from outbox where id > ? and cast(payload as text) <> id - ?")
        .bind(first)
        .bind(first + 1)
        .fetch_one(&mut connection)
        .await
        .expect("a count");
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn plain_inserts_are_read_as_they_were_meant() {
    let file = File::migrated().await;
    file.run(
        "insert into outbox (topic, key, payload) values ('orders', 17, '{\"total\": \"é\"}');
         insert into outbox (topic, payload, headers) values ('orders', x'00ff', '{\"a\": 1, \"b\": null, \"c\": \"x\"}');
         insert into outbox (topic, event_id) values ('orders', 'ABCDEF00-0000-4000-8000-00000000000A');
         insert into outbox (topic, created_at) values ('orders', '2024-05-06 07:08:09');
         insert into outbox (topic, created_at) values ('orders', '2024-05-06T07:08:09.123+02:00');",
    )
    .await;
    let records = file.read().await;
    assert_eq!(records[0].key.as_deref(), Some("17"));
    assert_eq!(records[0].payload.as_deref(), Some("{\"total\": \"é\"}".as_bytes()));
    assert_eq!(records[0].event_id.get_version_num(), 4);
    assert!((Utc::now() - records[0].created_at).num_seconds().abs() < 60);
    assert_eq!((&records[1].key, records[1].payload.as_deref()), (&None, Some(&[0, 255][..])));
    let header = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let mut headers = records[1].headers.clone();
    headers.sort();
    assert_eq!(headers, [header("a", Some("1")), header("b", None), header("c", Some("x"))]);
    assert_eq!(records[2].payload, None);
    assert_eq!(records[3].created_at, time("2024-05-06T07:08:09Z"));
    assert_eq!(records[4].created_at, time("2024-05-06T05:08:09.123Z"));
}

/// A row whose event id is written in capitals is settled like any other.
#[tokio::test]
async fn what_plain_inserts_wrote_is_settled() {
    use outboxd::contract::OutboxStore;
    let file = File::migrated().await;
    file.run("insert into outbox (topic, event_id) values ('orders', 'ABCDEF00-0000-4000-8000-00000000000A')").await;
    let mut settlement = outboxd::outbox::Settlement::default();
    file.read().await.iter().for_each(|record| settlement.push(record));
    file.store().settle(&settlement).await.expect("settled");
    assert_eq!(file.read().await, []);
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

#[tokio::test]
async fn what_could_never_be_published_is_refused_when_it_is_inserted() {
    let file = File::migrated().await;
    let mut connection = file.connect().await;
    for (columns, values) in [
        ("topic", "'two words'"),
        ("topic", "'..'"),
        ("topic", "''"),
        ("topic, key", "'orders', x'00'"),
        ("topic, payload", "'orders', 17"),
        ("topic, headers", "'orders', '[]'"),
        ("topic, headers", "'orders', 'no json'"),
        ("topic, partition", "'orders', -1"),
        ("topic, partition", "'orders', 'x'"),
        ("topic, event_id", "'orders', 'no uuid'"),
        ("topic, event_id", "'orders', '0000000000-000-4000-8000-00000000000a'"),
        ("topic, event_id", "'orders', x'00112233445566778899aabbccddeeff'"),
        ("topic, created_at", "'orders', 'soon'"),
    ] {
        let sql = sqlx::AssertSqlSafe(format!("insert into outbox ({columns}) values ({values})"));
        let refused = sqlx::raw_sql(sql).execute(&mut connection).await.expect_err(values);
        assert!(refused.to_string().contains("CHECK constraint failed"), "{refused}");
    }
}

#[tokio::test]
async fn a_missing_table_is_named_with_the_command_that_makes_it() {
    let file = File::new();
    let message = Message::to("orders").text("{}").expect("a valid message");
    let error = sqlite::enqueue(&mut file.connect().await, &message).await.expect_err("there is no table");
    assert!(matches!(error, EnqueueError::NoTable { .. }), "{error}");
    assert!(error.to_string().contains("outboxd migrate --table outbox"), "{error}");
}
