//! A sink that makes a span of each submission.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::{Span, Tracer};

use crate::contract::{BoxFuture, Mandate, Receipt, Refusal, Sink, SinkError};
use crate::otel::submission::Submission;
use crate::outbox::{Lane, Position, Progress, Record, Term};

/// Any sink, with a span around each submission: from its being handed over until its receipt is there. Everything else is
/// handed on as it is.
pub struct TracedSink<T> {
    inner: Box<dyn Sink>,
    tracer: T,
    system: &'static str,
}

impl<T> TracedSink<T>
where
    T: Tracer + Send + Sync,
    T::Span: Span + Send + 'static,
{
    /// Makes spans of what this sink is given, by the tracer. `system` is what the spans call `messaging.system`: `"kafka"`.
    pub fn new(inner: Box<dyn Sink>, tracer: T, system: &'static str) -> Self {
        Self { inner, tracer, system }
    }
}

#[async_trait]
impl<T> Sink for TracedSink<T>
where
    T: Tracer + Send + Sync,
    T::Span: Span + Send + 'static,
{
    async fn open(&mut self, term: Term, mandate: Option<Arc<dyn Mandate>>) -> Result<Option<Progress>, SinkError> {
        self.inner.open(term, mandate).await
    }

    async fn prepare(&mut self, records: &[Record]) -> Result<(), SinkError> {
        self.inner.prepare(records).await
    }

    async fn examine(&mut self, records: &[Record]) -> Result<Vec<Refusal>, SinkError> {
        self.inner.examine(records).await
    }

    async fn submit(&mut self, records: &[Record], after: Option<&Position>) -> Result<Receipt, SinkError> {
        if records.is_empty() {
            return self.inner.submit(records, after).await;
        }
        let submission = Submission::begin(&self.tracer, self.system, records);
        if !submission.is_wanted() {
            return self.inner.submit(records, after).await;
        }
        match self.inner.submit(records, after).await {
            Ok(receipt) => Ok(Box::pin(async move {
                let outcomes = receipt.await;
                submission.end(&outcomes);
                outcomes
            })),
            Err(error) => {
                submission.fail(&error);
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
        self.inner.accepts(lanes)
    }

    fn has_learnt(&mut self) -> bool {
        self.inner.has_learnt()
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    async fn close(&mut self, deadline: Duration) {
        self.inner.close(deadline).await;
    }
}
