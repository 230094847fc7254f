//! Looking for the records of one message in Kafka: in each partition of its topic, from the time on at which it was written.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::kafka::{Consumed, Consumer, ConsumerError, IsolationLevel, ReadRange, Start, WatermarkSource};
use crate::observe::grouped;

/// How long one look for a record takes at most.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a partition may say nothing before it is given up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

/// Which message's records are looked for, and where.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How to reach the brokers.
    pub properties: BTreeMap<String, String>,
    /// What the header `outbox-source` says of records of this outbox.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The only partition to look in, if the message names one.
    pub partition: Option<i32>,
    /// The event, which is told in the header `id`.
    pub event_id: Uuid,
    /// When it was written: no record of it is older. Without it partitions are read from their beginning.
    pub written: Option<DateTime<Utc>>,
    /// How many records are looked at in each partition, at most.
    pub most: u64,
}

/// A record of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedRecord {
    /// The partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The record's timestamp.
    pub at: Option<DateTime<Utc>>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The records, by partition and offset; consumers with `read_committed` see them.
    pub records: Vec<TracedRecord>,
    /// How many records were looked at.
    pub looked_at: u64,
    /// Partitions of which not all was looked at that could hold one.
    pub cut: Vec<i32>,
}

impl Trace {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for TracedRecord { partition, offset, at } in &self.records {
            let at = at.map_or_else(String::new, |at| format!(", {}", at.to_rfc3339_opts(SecondsFormat::Millis, true)));
            writeln!(text, "{:<14}partition {partition}, offset {offset}{at}", "record").expect("a string takes it");
        }
        let looked_at = grouped(self.looked_at);
        if self.records.is_empty() {
            writeln!(text, "{:<14}none among the {looked_at} records that were looked at", "record")
                .expect("a string takes it");
        }
        if !self.cut.is_empty() {
            let cut = self.cut.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
            writeln!(text, "{:<14}partitions {cut} have more records; --records N looks at more", "not seen")
                .expect("a string takes it");
        }
        text
    }

    /// As JSON.
    pub fn described(&self) -> Value {
        let record = |TracedRecord { partition, offset, at }: &TracedRecord| {
            let at = at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
            json!({ "partition": partition, "offset": offset.to_string(), "timestamp": at })
        };
        json!({
            "records": self.records.iter().map(record).collect::<Vec<_>>(),
            "records_looked_at": self.looked_at,
            "partitions_not_seen_whole": self.cut,
        })
    }
}

/// Looks for a message's records.
///
/// # Errors
/// When the brokers do not answer, or the topic may not be read.
pub async fn trace(wanted: Wanted) -> Result<Trace, ConsumerError> {
    tokio::task::spawn_blocking(move || wanted.look()).await?
}

impl Wanted {
    fn look(&self) -> Result<Trace, ConsumerError> {
        let reach = WatermarkSource::new(&self.properties)?;
        let mut consumer = Consumer::new(&self.properties, IsolationLevel::ReadCommitted)?;
        let mut trace = Trace::default();
        let mut partitions = reach.partitions(&self.topic)?;
        partitions.retain(|partition| self.partition.is_none_or(|named| named == *partition));
        partitions.sort_unstable();
        for partition in partitions {
            let watermarks = reach.of(&self.topic, partition)?;
            if watermarks.low < watermarks.last_stable {
                self.look_in(&mut consumer, partition, watermarks.last_stable, &mut trace)?;
            }
        }
        Ok(trace)
    }

    fn look_in(
        &self,
        consumer: &mut Consumer,
        partition: i32,
        end: i64,
        trace: &mut Trace,
    ) -> Result<(), ConsumerError> {
        let start = self.written.map_or(Start::Beginning, |written| Start::Time(written.timestamp_millis()));
        consumer.turn_to(&self.topic, partition, ReadRange { start, end })?;
        let (mut looked_at, mut heard) = (0, Instant::now());
        while !consumer.is_at_end() {
            if looked_at >= self.most || heard.elapsed() > SILENCE_TIMEOUT {
                trace.cut.push(partition);
                break;
            }
            let Some(record) = consumer.next(POLL_TIMEOUT)? else { continue };
            heard = Instant::now();
            looked_at += 1;
            if self.is_of(&record) {
                let at = record.timestamp.and_then(DateTime::from_timestamp_millis);
                trace.records.push(TracedRecord { partition, offset: record.offset, at });
            }
        }
        trace.looked_at += looked_at;
        Ok(())
    }

    fn is_of(&self, record: &Consumed) -> bool {
        let event_id = record.header("id").and_then(|id| Uuid::try_parse(id).ok());
        event_id == Some(self.event_id) && record.header("outbox-source") == Some(self.source.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_at_is_said() {
        let record =
            TracedRecord { partition: 3, offset: 9_007_199_254_740_993, at: DateTime::from_timestamp_millis(0) };
        let trace = Trace { records: vec![record], looked_at: 1_234, cut: vec![] };
        assert_eq!(trace.to_text(), "record        partition 3, offset 9007199254740993, 1970-01-01T00:00:00.000Z\n");
        assert_eq!(trace.described()["records"][0]["offset"], "9007199254740993");
        let trace = Trace { looked_at: 100_000, cut: vec![0, 2], ..Trace::default() };
        assert_eq!(
            trace.to_text(),
            "record        none among the 100,000 records that were looked at\n\
             not seen      partitions 0, 2 have more records; --records N looks at more\n"
        );
    }
}
