//! A sink of one's own: publish to standard output instead of a broker.
//!
//! `DATABASE_URL=sqlite:shop.db cargo run --example custom_sink --no-default-features --features relay,sqlite`
//! relays what waits in the outbox, then stops.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::contract::{BoxFuture, DatabaseSettings, Mandate, Outcome, Receipt, Refusal, Sink, SinkError};
use outboxd::outbox::{Lane, Position, Progress, Record, Settle, Table, Term};
use outboxd::relay::{Relay, Settings};
use outboxd::secret::Secret;
use outboxd::sqlite;
use tokio_util::sync::CancellationToken;

/// Writes one line a record.
struct Lines {
    next: i64,
}

#[async_trait]
impl Sink for Lines {
    async fn open(&mut self, _term: Term, _mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        Ok(None)
    }

    async fn prepare(&mut self, _records: &[Record]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn examine(&mut self, _records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        Ok(Vec::new())
    }

    async fn submit(&mut self, records: &[Record], _after: Option<&Position>) -> Result<Receipt, SinkError> {
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
        Ok(Box::pin(std::future::ready(outcomes)))
    }

    fn fence(&self) -> Option<&str> {
        None
    }

    fn progress_stored(&mut self) {}

    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        Box::pin(std::future::ready(Ok(lanes)))
    }

    fn has_learnt(&mut self) -> bool {
        false
    }

    fn abort(&mut self) {}

    async fn close(&mut self, _deadline: Duration) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = Secret::new(std::env::var("DATABASE_URL")?);
    let store = sqlite::Store::new(DatabaseSettings::new(url, Table::default(), Settle::Mark))?;
    let relay = Relay::new(Arc::new(store), Box::new(Lines { next: 0 }), Settings::default());

    let mut status = relay.status();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone()));
    status.wait_for(|status| status.published > 0).await?;
    stop.cancel();
    println!("ended: {:?}", running.await??);
    Ok(())
}
