//! Handing a submission over to the client, in order.

use std::sync::Arc;

use rdkafka::producer::BaseRecord;
use tokio::task::yield_now;

use crate::contract::SinkError;
use crate::kafka::config::Stamp;
use crate::kafka::errors::not_taken;
use crate::kafka::producer::encode;
use crate::kafka::producer::ledger::Failure;
use crate::kafka::producer::ledger::submission::Submission;
use crate::kafka::producer::lifecycle::Producer;
use crate::kafka::producer::sending::Sending;
use crate::kafka::topics::table::{TopicState, Topics, Warmth};
use crate::outbox::Record;

/// So many records are handed over before others get a turn: a relay that has lost its lease meanwhile stops there, after
/// a few milliseconds. The client makes larger requests of records that come in a rush.
const YIELD_EVERY: usize = 2_500;

/// Writes one submission.
pub(crate) struct Writer<'a> {
    pub(crate) producer: &'a mut Producer,
    pub(crate) submission: Submission,
    pub(crate) stamp: Stamp<'a>,
    pub(crate) records: &'a [Record],
}

impl Writer<'_> {
    /// Hands records over, in order; the place of one in `sendings` is its place in the submission if the submission
    /// is of these records alone. Of a cold partition one record goes first and alone; the others of that partition
    /// follow, in order, once it is acknowledged.
    pub(crate) async fn write(
        &mut self,
        topics: &mut Topics,
        sendings: impl Iterator<Item = (usize, Sending)>,
    ) -> Result<(), SinkError> {
        let mut deferred: Vec<(usize, Sending)> = Vec::new();
        let mut is_warming = false;
        let turn = self.producer.turn();
        for (count, (place, sending)) in sendings.enumerate() {
            if count % YIELD_EVERY == YIELD_EVERY - 1 {
                yield_now().await;
            }
            let TopicState::Known(known) = &mut topics.get(sending.topic).state else { continue };
            match &mut known.warmth[sending.partition as usize][turn] {
                Warmth::Warm => self.send(place, sending).await?,
                Warmth::Warming => deferred.push((place, sending)),
                cold @ Warmth::Cold => {
                    *cold = Warmth::Warming;
                    is_warming = true;
                    let ticket = self.submission.first_ticket(place);
                    self.send_with(place, sending, ticket).await?;
                }
            }
        }
        if is_warming || !deferred.is_empty() {
            self.submission.tell_destinations();
            self.warmed().await?;
            topics.warmed();
        }
        for (place, sending) in deferred {
            self.send(place, sending).await?;
        }
        Ok(())
    }

    /// Hands one record over.
    pub(crate) async fn send(&mut self, place: usize, sending: Sending) -> Result<(), SinkError> {
        let ticket = self.submission.ticket(place);
        self.send_with(place, sending, ticket).await
    }

    async fn send_with(&mut self, place: usize, sending: Sending, ticket: usize) -> Result<(), SinkError> {
        let record = encode::encode(&self.records[sending.index], sending, self.stamp, ticket);
        self.put(record).await?;
        self.submission.went_to(place, sending.destination());
        Ok(())
    }

    /// Hands over what is in the client's terms already.
    pub(crate) async fn put(&mut self, record: BaseRecord<'_, str, [u8], usize>) -> Result<(), SinkError> {
        let topic = record.topic;
        if let Err(error) = self.producer.send(record).await {
            let reason = format!("the client does not take a record of topic {topic}: {error}");
            self.producer.ledger.fail(Failure::because(reason));
            return Err(not_taken(error));
        }
        self.submission.sent();
        Ok(())
    }

    /// Waits until the first records of cold partitions are acknowledged.
    async fn warmed(&self) -> Result<(), SinkError> {
        let ledger = Arc::clone(&self.producer.ledger);
        ledger.warmed().await;
        ledger.check("waiting for the first acknowledgement of a partition")
    }
}
