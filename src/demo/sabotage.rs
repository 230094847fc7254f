//! A relay broken on purpose, for the test that shows that the demo's check can fail. Reached by a hidden flag of
//! `outboxd demo` only; `outboxd run` knows nothing of it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::{BoxFuture, Mandate, Outcome, Receipt, Refusal, Sink, SinkError};
use crate::outbox::{Lane, Record, Term};

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
    pub fn spoil(self, sink: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(Spoilt { sink, how: self })
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
struct Spoilt {
    sink: Box<dyn Sink>,
    how: Sabotage,
}

impl Spoilt {
    async fn spoilt(&mut self, records: &[Record]) -> Result<Receipt, SinkError> {
        match (self.how, records) {
            (Sabotage::Lose, [others @ .., _lost]) => {
                let receipt = self.sink.submit(others).await?;
                Ok(Box::pin(async move {
                    let mut outcomes = receipt.await;
                    outcomes.push(Outcome::Delivered { partition: 0, offset: 0 });
                    outcomes
                }))
            }
            (Sabotage::Lose, []) => self.sink.submit(records).await,
            (Sabotage::Reorder, records) => {
                let reversed: Vec<Record> = records.iter().rev().cloned().collect();
                let receipt = self.sink.submit(&reversed).await?;
                Ok(Box::pin(async move {
                    let mut outcomes = receipt.await;
                    outcomes.reverse();
                    outcomes
                }))
            }
        }
    }
}

impl Sink for Spoilt {
    fn appoint(&mut self, mandate: Arc<dyn Mandate>) {
        self.sink.appoint(mandate);
    }

    fn open(&mut self, term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        self.sink.open(term)
    }

    fn examine<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Vec<Refusal>, SinkError>> {
        self.sink.examine(records)
    }

    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.spoilt(records))
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

    fn close(&mut self, deadline: Duration) -> BoxFuture<'_, ()> {
        self.sink.close(deadline)
    }
}
