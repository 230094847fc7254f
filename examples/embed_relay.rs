//! Run the relay inside a process of one's own, from PostgreSQL to Kafka.
//!
//! `DATABASE_URL=postgres://… BROKERS=127.0.0.1:9092 cargo run --example embed_relay`

use std::collections::BTreeMap;
use std::sync::Arc;

use outboxd::contract::{Database, DatabaseSettings, Store};
use outboxd::outbox::{PreparedTransactions, Settle, Table};
use outboxd::relay::{Relay, Settings};
use outboxd::secret::Secret;
use outboxd::{kafka, postgres};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = Secret::new(std::env::var("DATABASE_URL")?);
    let table = Table::default();
    postgres::migrate(&url, &table).await?;
    let settings = DatabaseSettings::new(url, table, Settle::Delete);
    let prepared_transactions = PreparedTransactions::Never;
    let store = postgres::Store::new(DatabaseSettings { prepared_transactions, ..settings })?;
    for warning in store.preflight().await? {
        eprintln!("warning: {warning}");
    }

    let properties = BTreeMap::from([("bootstrap.servers".to_owned(), std::env::var("BROKERS")?)]);
    let source = store.source().await?;
    let sink = kafka::Sink::new(kafka::Settings::new(properties, source))?;

    let store: Arc<dyn Store> = Arc::new(store);
    let relay = Relay::new(store, Box::new(sink), Settings::default());
    let mut status = relay.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));

    // Your service goes here. This one stops once something was published.
    status.wait_for(|status| status.published > 0).await?;
    stop.cancel();
    println!("ended: {:?}", running.await??);
    Ok(())
}
