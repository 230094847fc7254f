//! What the server's own statistics show of the relay's statements.

use chrono::Utc;
use outboxd::outbox::{Held, HoldCause, Lane, Limit};
use sqlx::{Connection, PgConnection};

use super::server::{Outbox, drain, execute};
use crate::support::throwaway::Postgres;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_many_pages_is_few_statements_to_the_servers_statistics_and_none_shows_a_key() {
    const PAGES: i64 = 50;
    let postgres = Postgres::start();
    let url = postgres.server().url().to_owned();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    execute(&mut conn, "alter system set shared_preload_libraries = 'pg_stat_statements'").await;
    postgres.restart();
    let outbox = Outbox::new(&url, "statistics").await;
    let mut conn = outbox.connect().await;
    execute(&mut conn, "create extension pg_stat_statements").await;
    let insert = "insert into outbox (topic, key) select 't', 'k' || i % 100 from generate_series(1, 5000) i";
    outbox.run(&mut conn, insert).await;

    let mut reader = outbox.open().await;
    let lane = Lane::from_columns("t", Some("k77"), None);
    reader.hold(Held { lane, from_id: 1, after: None, cause: HoldCause::MissingTopic, since: Utc::now() });
    let read = drain(&mut *reader, Limit { records: 5_000 / PAGES as usize, bytes: 1 << 20 }).await;
    assert_eq!(read.len(), 4950);

    let copies = "from pg_stat_statements where query ilike '%copy (select%'";
    assert!(outbox.number(&format!("select sum(calls)::bigint {copies}")).await >= PAGES - 2);
    assert!(outbox.number(&format!("select count(*) {copies}")).await <= 2);
    assert_eq!(outbox.number("select count(*) from pg_stat_statements where query like '%k77%'").await, 0);
}
