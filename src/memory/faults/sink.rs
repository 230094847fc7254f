//! A sink whose calls follow a script.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::contract::{BoxFuture, Mandate, Outcome, Receipt, Refusal, SinkError};
use crate::memory::faults::{Call, Fault, Script};
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// Any sink, with a script between it and the relay.
pub struct Sink {
    inner: Box<dyn crate::contract::Sink>,
    script: Script,
    /// Ticks when receipts that the script keeps back must resolve: after an abort, or after an error.
    ended: watch::Sender<()>,
    /// Whether a receipt has failed since the sink was opened: then none that follows may tell of deliveries.
    has_failed: bool,
}

impl Sink {
    /// Puts the script in front of the sink.
    pub fn new(inner: Box<dyn crate::contract::Sink>, script: Script) -> Self {
        Self { inner, script, ended: watch::Sender::new(()), has_failed: false }
    }

    /// The receipt as the script has it. Its fault is settled now, so that scripts follow the order of submissions.
    fn tell(&mut self, receipt: Receipt, records: usize) -> Receipt {
        let (script, fault) = (self.script.clone(), self.script.begin(Call::Receipt));
        self.has_failed |= matches!(fault, Some(Fault::Refuse | Fault::Forbid | Fault::LoseReply));
        let has_failed = self.has_failed;
        let mut ended = self.ended.subscribe();
        Box::pin(async move {
            let is_told = tokio::select! {
                biased;
                is_told = keep_back(fault) => is_told,
                _ = ended.changed() => false,
            };
            let outcomes = if is_told && !has_failed { receipt.await } else { vec![Outcome::Unknown; records] };
            script.end(Call::Receipt, outcomes.len());
            outcomes
        })
    }
}

/// Waits as the fault has it. Returns whether the outcomes are told after all.
async fn keep_back(fault: Option<Fault>) -> bool {
    match fault {
        None => true,
        Some(Fault::Refuse | Fault::Forbid | Fault::LoseReply) => false,
        Some(Fault::Hold(gate) | Fault::HoldReply(gate)) => {
            gate.pass().await;
            true
        }
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            true
        }
    }
}

#[async_trait]
impl crate::contract::Sink for Sink {
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        self.has_failed = false;
        self.script.play(Call::SinkOpen, self.inner.open(term, mandate), |_| 0).await
    }

    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.inner.prepare(records).await
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.script.play(Call::Examine, self.inner.examine(records), |_| records.len()).await
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        let submitted = self.inner.submit(records, after);
        let submitted = self.script.play(Call::Submit, submitted, |_| records.len()).await;
        match submitted {
            Ok(receipt) => Ok(self.tell(receipt, records.len())),
            Err(error) => {
                self.ended.send_replace(());
                Err(error)
            }
        }
    }

    fn fence(&self) -> Option<&str> {
        self.inner.fence()
    }

    fn progress_stored(&mut self) {
        self.inner.progress_stored();
    }

    fn accepts(&self, lanes: Vec<Lane>) -> BoxFuture<'static, Result<Vec<Lane>, SinkError>> {
        let (script, answer) = (self.script.clone(), self.inner.accepts(lanes));
        Box::pin(async move { script.play(Call::Accepts, answer, |_| 0).await })
    }

    fn has_learnt(&mut self) -> bool {
        self.inner.has_learnt()
    }

    fn abort(&mut self) {
        self.ended.send_replace(());
        self.inner.abort();
    }

    async fn close(&mut self, deadline: Duration) {
        self.inner.close(deadline).await;
        self.ended.send_replace(());
    }
}
