//! Sending spans to the collector, beside everything else.
//!
//! Nobody waits for it. A collector that is away is tried again for a while, then its spans are counted and forgotten; the log
//! says so once. In the end what is left is sent, for a moment.

use std::time::Duration;

use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::observe::outage::Outage;
use crate::observe::{chain, metrics};
use crate::otel::collector::Collector;

/// How long the same spans are tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long is waited before they are tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a process that ends waits for the collector.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// What sends spans. Nothing is sent before [`run`](Self::run).
pub struct Export {
    pub(crate) spans: mpsc::Receiver<SpanData>,
    pub(crate) collector: Collector,
    pub(crate) resource: ResourceAttributesWithSchema,
    /// How many spans are sent at once at most.
    pub(crate) most: usize,
    /// How long a span waits for others.
    pub(crate) delay: Duration,
    /// What is gathered to be sent.
    pub(crate) gathered: Vec<SpanData>,
    /// What is being sent.
    pub(crate) parcel: Option<Parcel>,
    pub(crate) outage: Outage,
}

/// Spans on their way.
pub(crate) struct Parcel {
    spans: u64,
    encoded: Bytes,
}

impl Export {
    /// Sends spans as they come until told to stop, and what is left for two seconds more.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.send_as_they_come() => stop.cancelled().await,
        }
        self.spans.close();
        let _out_of_time = timeout(LAST_MOMENT, self.send_the_rest()).await;
        self.forget();
    }

    /// Sends until nobody makes spans any more.
    async fn send_as_they_come(&mut self) {
        while self.gather().await {
            self.send().await;
        }
    }

    /// Waits for a span, and then a while for others. Says whether there is anything to send.
    async fn gather(&mut self) -> bool {
        if self.gathered.is_empty() && self.spans.recv_many(&mut self.gathered, self.most).await == 0 {
            return false;
        }
        let due = Instant::now() + self.delay;
        while self.gathered.len() < self.most {
            let room = self.most - self.gathered.len();
            tokio::select! {
                biased;
                more = self.spans.recv_many(&mut self.gathered, room) => if more == 0 { break },
                () = sleep_until(due) => break,
            }
        }
        true
    }

    /// Sends what is gathered, again and again while that may help.
    async fn send(&mut self) {
        self.pack();
        let (mut backoff, until) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), Instant::now() + PATIENCE);
        while let Some(pause) = self.try_to_send(backoff.next_wait()).await {
            if Instant::now() + pause > until {
                break;
            }
            sleep(pause).await;
        }
        self.drop_parcel();
    }

    /// Sends what is on its way. Says after which pause to try again, if that may help.
    async fn try_to_send(&mut self, pause: Duration) -> Option<Duration> {
        let parcel = self.parcel.as_ref()?;
        match self.collector.send(parcel.encoded.clone()).await {
            Ok(taken_out) => {
                self.parcel = None;
                self.taken(taken_out);
                None
            }
            Err(refusal) => {
                if self.outage.begins() {
                    tracing::warn!(
                        error = %chain(&refusal),
                        "traces are not taken by the collector; publishing goes on without"
                    );
                }
                refusal.is_transient.then(|| refusal.retry_after.map_or(pause, |asked| asked.max(pause)))
            }
        }
    }

    fn taken(&self, taken_out: u64) {
        if self.outage.ends() {
            tracing::info!("traces are taken by the collector again");
        }
        if taken_out > 0 {
            tracing::debug!(spans = taken_out, "the collector took some spans out");
            metrics::count_spans_dropped(taken_out);
        }
    }

    /// Sends what is left, each once.
    async fn send_the_rest(&mut self) {
        loop {
            if self.parcel.is_none() {
                while self.gathered.len() < self.most
                    && let Ok(span) = self.spans.try_recv()
                {
                    self.gathered.push(span);
                }
                if self.gathered.is_empty() {
                    return;
                }
                self.pack();
            }
            if self.try_to_send(Duration::ZERO).await.is_some() || self.parcel.is_some() {
                return;
            }
        }
    }

    /// Puts what is gathered on its way.
    fn pack(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        let spans = gathered.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(gathered, &self.resource);
        let encoded = ExportTraceServiceRequest { resource_spans }.encode_to_vec().into();
        self.parcel = Some(Parcel { spans, encoded });
    }

    fn drop_parcel(&mut self) {
        if let Some(parcel) = self.parcel.take() {
            metrics::count_spans_dropped(parcel.spans);
        }
    }

    /// Counts what is not sent any more.
    fn forget(&mut self) {
        self.drop_parcel();
        let mut left = self.gathered.len() as u64;
        while self.spans.try_recv().is_ok() {
            left += 1;
        }
        if left > 0 {
            metrics::count_spans_dropped(left);
        }
    }
}
