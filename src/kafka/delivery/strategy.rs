//! What a way of delivering does for the sink.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::contract::{Mandate, Receipt, SinkError};
use crate::kafka::delivery::common::Common;
use crate::kafka::delivery::plan::Plan;
use crate::kafka::producer::sending::RecordOutcome;
use crate::kafka::producer::setup::ProducerLimits;
use crate::outbox::{Position, Progress, Record, Term};

/// A way of delivering. All of it works on what is [common](Common) to both.
#[async_trait]
pub(crate) trait Strategy: Send + Sync {
    /// Makes ready for a session of this term, with the producer at hand if that can go on. Returns what was published
    /// before, where the broker remembers it.
    async fn open(
        &mut self,
        common: &mut Common,
        term: Term,
        mandate: Option<Arc<dyn Mandate>>,
    ) -> Result<Option<Progress>, SinkError>;

    /// Waits until another submission may begin, or the producer is found to be no good. May be cancelled.
    async fn slot(&self, common: &Common) -> Result<(), SinkError>;

    /// Makes ready for another submission.
    async fn begin(&mut self, common: &mut Common) -> Result<(), SinkError>;

    /// Hands records over as planned, the suspects after the others. `after` is as for [`Sink`](crate::contract::Sink).
    async fn submit(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        after: Option<&Position>,
    ) -> Result<Receipt, SinkError>;

    /// Publishes the suspects of a plan ahead of its submission, once what was handed over before has arrived, and waits
    /// for what becomes of them. Holds those for which there is no time left.
    async fn judge(
        &mut self,
        common: &mut Common,
        records: &[Record],
        plan: Plan,
        until: Instant,
    ) -> Result<Vec<RecordOutcome>, SinkError>;

    /// Goes on with another producer, of these limits. Nothing is under way.
    async fn replace(&mut self, common: &mut Common, limits: ProducerLimits) -> Result<(), SinkError>;

    /// The rows that were named one by one are known to the database by now.
    fn progress_stored(&mut self);

    /// Puts an end to the producers, and remembers what they have learnt the hard way.
    fn end(&mut self, common: &mut Common);
}
