//! A relay broken on purpose, for the test that shows that the demo's check can fail. Reached by a hidden flag of
//! `outboxd demo` only; `outboxd run` knows nothing of it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::contract::{BoxFuture, Mandate, Outcome, Receipt, Refusal, Sink, SinkError};
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// How the relay is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// The last record of every submission is reported as delivered, and is not sent.
    Lose,
    /// The records of a submission are sent last to first.
    Reorder,
}

impl Sabotage {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Sabotage::Lose => "lose",
            Sabotage::Reorder => "reorder",
        }
    }

    /// Breaks a sink.
    pub fn sabotage(self, sink: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(Sabotaged { sink, how: self })
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = [Sabotage::Lose, Sabotage::Reorder].into_iter().find(|how| how.as_str() == word);
        found.ok_or_else(|| format!("{word:?} is no way to break a relay: use lose or reorder"))
    }
}

/// A broken sink.
struct Sabotaged {
    sink: Box<dyn Sink>,
    how: Sabotage,
}

impl Sabotaged {
    async fn submit_broken(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        match (self.how, records) {
            (Sabotage::Lose, [others @ .., _lost]) => {
                let receipt = self.sink.submit(others, after).await?;
                Ok(Box::pin(async move {
                    let mut outcomes = receipt.await;
                    outcomes.push(Outcome::Delivered { partition: 0, offset: 0 });
                    outcomes
                }))
            }
            (Sabotage::Lose, []) => self.sink.submit(records, after).await,
            (Sabotage::Reorder, records) => {
                let reversed: Vec<Record> = records.iter().rev().cloned().collect();
                let receipt = self.sink.submit(&reversed, after).await?;
                Ok(Box::pin(async move {
                    let mut outcomes = receipt.await;
                    outcomes.reverse();
                    outcomes
                }))
            }
        }
    }
}

#[async_trait]
impl Sink for Sabotaged {
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        self.sink.open(term, mandate).await
    }

    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.sink.prepare(records).await
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.sink.examine(records).await
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        self.submit_broken(records, after).await
    }

    fn fence(&self) -> Option<&str> {
        self.sink.fence()
    }

    fn progress_stored(&mut self) {
        self.sink.progress_stored();
    }

    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        self.sink.accepts(lanes)
    }

    fn has_learnt(&mut self) -> bool {
        self.sink.has_learnt()
    }

    fn abort(&mut self) {
        self.sink.abort();
    }

    async fn close(&mut self, deadline: Duration) {
        self.sink.close(deadline).await;
    }
}
