//! Nodes that both take writes: none knows what another has under way.

use std::time::Duration;

use futures_util::future::join_all;
use outboxd::contract::Database;
use outboxd::outbox::Settle;
use outboxd::{Message, mysql};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::relaying::{KEYS, Shop};
use crate::support::machine;
use crate::support::throwaway::Galera;

const TRANSACTIONS: u32 = 50;

/// Counts a key up and says so, in one transaction. Of two nodes that count the same key the later one is refused.
async fn count_up(
    connection: &mut MySqlConnection,
    topic: &str,
    key: &str,
    open_for: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut transaction = connection.begin().await?;
    let update = format!("update counter set n = n + 1 where name = '{key}'");
    sqlx::raw_sql(AssertSqlSafe(update)).execute(&mut *transaction).await?;
    let select = format!("select n from counter where name = '{key}'");
    let n: i64 = sqlx::query_scalar(AssertSqlSafe(select)).fetch_one(&mut *transaction).await?;
    let message = Message::to(topic).key(key).text(n.to_string())?;
    mysql::enqueue(&mut transaction, &message).await?;
    tokio::time::sleep(open_for).await;
    Ok(transaction.commit().await?)
}

async fn write(url: &str, topic: &str, writer: u32) {
    let mut connection = MySqlConnection::connect(url).await.unwrap();
    for round in 0..TRANSACTIONS {
        let key = format!("k{}", (writer + round) % KEYS);
        let open_for = Duration::from_millis(if round % 9 == writer { 50 } else { 0 });
        let mut tries = 0;
        while let Err(error) = count_up(&mut connection, topic, &key, open_for).await {
            tries += 1;
            assert!(tries < 100, "writer {writer} is refused again and again: {error}");
            tokio::time::sleep(Duration::from_millis(5 * u64::from(writer + 1))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_on_either_node_is_published_in_order() {
    let _machine = machine::loaded().await;
    let galera = Galera::start();
    let [first, second] = galera.nodes();
    let shop = Shop::open(first, Settle::Mark).await;
    let warnings = shop.outbox.store().preflight().await.unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("Galera")), "{warnings:?}");
    let mut relay = shop.relay().start().await;
    let urls = [first, second].map(|node| node.database(&shop.outbox.name));
    join_all((0..4).map(|writer| write(&urls[writer as usize % 2], shop.topic.name(), writer))).await;
    shop.topic.holds(shop.written().await).await;
    assert_eq!(relay.stop().await, Some(0));
    shop.came_in_order().await;
    assert!(shop.is_sound(&["--no-duplicates"]));
}
