//! A sink of one's own: publish to standard output instead of a broker.
//!
//! `DATABASE_URL=sqlite:shop.db cargo run --example custom_sink --no-default-features --features relay,sqlite`
//! relays what waits in the outbox, then stops.

use std::io::Write;
use std::sync::Arc;

use outboxd::contract::{BoxFuture, Outcome, Receipt, Sink, SinkError};
use outboxd::outbox::{Record, Settle, Table};
use outboxd::relay::{Relay, Settings};
use outboxd::sqlite;
use tokio_util::sync::CancellationToken;

/// Writes one line a record.
struct Lines {
    next: i64,
}

impl Sink for Lines {
    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(async move {
            let mut out = std::io::stdout().lock();
            let mut outcomes = Vec::with_capacity(records.len());
            for record in records {
                let payload = String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default());
                let failed =
                    |source: std::io::Error| SinkError::Unavailable { doing: "writing a line", source: source.into() };
                writeln!(out, "{} {}", record.topic, payload).map_err(failed)?;
                outcomes.push(Outcome::Delivered { partition: 0, offset: self.next });
                self.next += 1;
            }
            let receipt: Receipt = Box::pin(async move { outcomes });
            Ok(receipt)
        })
    }

    fn abort(&mut self) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("DATABASE_URL")?;
    let store = sqlite::Store::new(sqlite::Settings { url, table: Table::default(), settle: Settle::Mark })?;
    let relay = Relay::new(Arc::new(store), Box::new(Lines { next: 0 }), Settings::default());

    let mut status = relay.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));
    status.wait_for(|status| status.published > 0).await?;
    stop.cancel();
    println!("ended: {:?}", running.await??);
    Ok(())
}
