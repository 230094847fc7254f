//! A sink whose calls follow a script.

use std::sync::Arc;
use std::time::Duration;

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

    async fn take(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        let submitted = self.inner.submit_with_progress(records, after);
        let submitted = self.script.play(Call::Submit, submitted, |_| records.len()).await;
        match submitted {
            Ok(receipt) => Ok(self.tell(receipt, records.len())),
            Err(error) => {
                self.ended.send_replace(());
                Err(error)
            }
        }
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

impl crate::contract::Sink for Sink {
    fn appoint(&mut self, mandate: Arc<dyn Mandate>) {
        self.inner.appoint(mandate);
    }

    fn open(&mut self, term: Term) -> BoxFuture<'_, Result<(), SinkError>> {
        self.has_failed = false;
        Box::pin(self.script.play(Call::SinkOpen, self.inner.open(term), |()| 0))
    }

    fn prepare<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<(), SinkError>> {
        self.inner.prepare(records)
    }

    fn examine<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Vec<Refusal>, SinkError>> {
        Box::pin(self.script.play(Call::Examine, self.inner.examine(records), |_| records.len()))
    }

    fn submit<'a>(&'a mut self, records: &'a [Record]) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.take(records, None))
    }

    fn submit_with_progress<'a>(
        &'a mut self,
        records: &'a [Record],
        after: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<Receipt, SinkError>> {
        Box::pin(self.take(records, after))
    }

    fn fence(&self) -> Option<&str> {
        self.inner.fence()
    }

    fn progress(&mut self) -> Option<Progress> {
        self.inner.progress()
    }

    fn taken_over(&mut self) {
        self.inner.taken_over();
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

    fn close(&mut self, deadline: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.inner.close(deadline).await;
            self.ended.send_replace(());
        })
    }
}
