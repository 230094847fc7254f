//! `outboxd verify`: what committed against what Kafka holds.
//!
//! First the rows that are recorded as published, then the topics up to the ends they have after that: so nothing
//! that is on its way is called lost. Every record is explained by a row that there is, or else was rolled back; rows
//! that housekeeping may have removed by now explain nothing and do not accuse the relay.

mod judge;
mod origin;
mod read;
mod report;
mod settings;
mod trace;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use roaring::RoaringTreemap;
use tokio::time::{Instant, sleep};

use crate::contract::{Audit, KnownRow};
use crate::kafka::{ConsumerError, IsolationLevel, ReadRange, Start, WatermarkSource, Watermarks};
use crate::outbox::Settle;
use crate::verify::judge::{Everything, Part, Pass, Seen};
use crate::verify::origin::{Origin, lane_of, origins};
use crate::verify::read::{Chunk, ROWS_PER_LOOKUP, Reader, Record};
use crate::verify::report::{Finding, Where};

pub use report::{Findings, Report};
pub use settings::Settings;
pub use trace::{Trace, TracedRecord, Wanted, trace};

/// How long open transactions are waited for, all in all: as long as a commit may take to become visible.
const OPEN_TRANSACTION_PATIENCE: Duration = Duration::from_secs(10);

/// How often they are looked at.
const OPEN_TRANSACTION_POLL: Duration = Duration::from_millis(20);

/// Audits an outbox.
///
/// # Errors
/// When the database or the brokers do not answer, or there is nothing that says which topics to read.
pub async fn run(audit: Box<dyn Audit>, settings: Settings) -> anyhow::Result<Report> {
    let watermark_source = Arc::new(WatermarkSource::new(&settings.properties)?);
    let visible = Reader::new(&settings, settings.isolation)?;
    let all = Reader::new(&settings, IsolationLevel::ReadUncommitted)?;
    let (report, everything) = (Report::default(), Everything::default());
    let mut auditor = Auditor { audit, watermark_source, visible, all, settings, report, everything };
    let expected = auditor.read_rows().await?;
    let places = auditor.places().await?;
    let deadline = Instant::now() + OPEN_TRANSACTION_PATIENCE;
    for PartitionRange { at, watermarks } in places {
        auditor.read_partition(&at, watermarks, deadline).await?;
    }
    auditor.conclude(expected).await
}

struct Auditor {
    audit: Box<dyn Audit>,
    watermark_source: Arc<WatermarkSource>,
    /// Reads what consumers see.
    visible: Reader,
    /// Reads what is hidden from them too.
    all: Reader,
    settings: Settings,
    report: Report,
    everything: Everything,
}

impl Auditor {
    /// Reads what committed; returns the rows that Kafka must hold.
    async fn read_rows(&mut self) -> anyhow::Result<RoaringTreemap> {
        let mut expected = RoaringTreemap::new();
        let mut topics = BTreeSet::new();
        let mut after = i64::MIN;
        loop {
            let rows = self.audit.rows(after, ROWS_PER_LOOKUP).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let wanted = |topic: &str| {
                self.settings.topics.is_empty() || self.settings.topics.iter().any(|wanted| wanted == topic)
            };
            for row in rows.iter().filter(|row| wanted(&row.topic)) {
                self.report.rows += 1;
                if !topics.contains(&*row.topic) {
                    topics.insert(row.topic.to_string());
                }
                if row.is_published {
                    expected.insert(row.id.unsigned_abs());
                } else {
                    self.report.not_published_yet += 1;
                }
            }
        }
        self.choose(topics)?;
        Ok(expected)
    }

    /// Settles which topics are read: those that rows name, and those that were asked for.
    fn choose(&mut self, mut topics: BTreeSet<String>) -> anyhow::Result<()> {
        topics.extend(self.settings.topics.iter().cloned());
        if topics.is_empty() {
            let note = "no row names a topic; name the topics to read with --topic";
            if self.settings.settle == Settle::Delete {
                bail!("{note}: with outbox.settle = \"delete\" published rows are gone");
            }
            self.report.notes.push(note.to_owned());
        }
        if self.settings.settle == Settle::Delete {
            let note = "with outbox.settle = \"delete\" published rows are gone: order and duplicates are audited by the header outbox-id, and nothing can be called lost or unexpected";
            self.report.notes.push(note.to_owned());
        }
        self.report.topics = topics.into_iter().collect();
        Ok(())
    }

    /// The partitions of all topics, and how far each reaches by now.
    async fn places(&mut self) -> anyhow::Result<Vec<PartitionRange>> {
        let (watermark_source, topics) = (Arc::clone(&self.watermark_source), self.report.topics.clone());
        let found = tokio::task::spawn_blocking(move || reach(&watermark_source, &topics)).await??;
        let mut places = Vec::new();
        for (topic, partitions) in self.report.topics.iter().zip(found) {
            if partitions.is_empty() && self.settings.topics.contains(topic) && self.report.rows == 0 {
                bail!("topic {topic} does not exist, and no row names it; check --topic and the brokers");
            } else if partitions.is_empty() {
                self.report.notes.push(format!("topic {topic} does not exist"));
            }
            let expects = self.settings.since.is_none() && self.settings.settle != Settle::Delete;
            if expects && partitions.iter().any(|place| place.watermarks.low > 0) {
                self.report.notes.push(format!(
                    "topic {topic} has dropped its oldest records: rows from before then count as lost; leave them out with --since"
                ));
            }
            places.extend(partitions);
        }
        Ok(places)
    }

    async fn read_partition(&mut self, at: &Where, watermarks: Watermarks, deadline: Instant) -> anyhow::Result<()> {
        let visible = match self.settings.isolation {
            IsolationLevel::ReadCommitted => self.stable_until(at, watermarks, deadline).await?,
            IsolationLevel::ReadUncommitted => watermarks.high,
        };
        let mut parts = if watermarks.low < visible { vec![Part::ALL] } else { Vec::new() };
        while let Some(part) = parts.pop() {
            parts.extend(self.pass(at, part, visible).await?);
        }
        if visible < watermarks.high {
            self.look_behind(at, visible, watermarks.high).await?;
        }
        Ok(())
    }

    /// Waits until no transaction is open below the end, or the deadline is over; returns how far it is true by then.
    /// A relay's transaction may have committed, and be recorded, a moment before its records become visible.
    async fn stable_until(&self, at: &Where, watermarks: Watermarks, deadline: Instant) -> anyhow::Result<i64> {
        let mut stable = watermarks.last_stable;
        while stable < watermarks.high && Instant::now() < deadline {
            sleep(OPEN_TRANSACTION_POLL).await;
            let (watermark_source, place) = (Arc::clone(&self.watermark_source), at.clone());
            let now = tokio::task::spawn_blocking(move || watermark_source.of(&place.topic, place.partition)).await??;
            stable = now.last_stable;
        }
        Ok(stable.min(watermarks.high))
    }

    /// One pass through a partition; returns the parts of its lanes for which there was no room.
    async fn pass(&mut self, at: &Where, part: Part, end: i64) -> anyhow::Result<Vec<Part>> {
        let start = self.settings.since.map_or(Start::Beginning, |since| Start::Time(since.timestamp_millis()));
        let mut reading = self.visible.read(at, ReadRange { start, end });
        let mut pass = Pass::begin(part);
        while let Some(chunk) = reading.next().await {
            let origins = origins(&mut *self.audit, &self.settings, &chunk.records, at).await?;
            let explained = chunk.records.iter().zip(origins);
            if part == Part::ALL {
                self.count(&chunk, explained.clone(), at);
            }
            for (record, origin) in explained.filter(|(_, origin)| *origin != Origin::Unexpected) {
                pass.follow(Seen { id: record.id, lane: lane_of(record, origin, at), offset: record.offset });
            }
        }
        reading.end().await.with_context(|| format!("partition {} of topic {}", at.partition, at.topic))?;
        Ok(pass.end(at, &mut self.report))
    }

    /// Notes what consumers do not see yet, so that it is not called lost.
    async fn look_behind(&mut self, at: &Where, start: i64, end: i64) -> anyhow::Result<()> {
        let mut reading = self.all.read(at, ReadRange { start: Start::Offset(start), end });
        while let Some(chunk) = reading.next().await {
            let origins = origins(&mut *self.audit, &self.settings, &chunk.records, at).await?;
            for (record, _) in chunk.records.iter().zip(origins).filter(|(_, origin)| *origin != Origin::Unexpected) {
                self.everything.note_hidden(record.id);
            }
        }
        reading.end().await.with_context(|| format!("partition {} of topic {}", at.partition, at.topic))
    }

    fn count<'a>(&mut self, chunk: &Chunk, records: impl Iterator<Item = (&'a Record, Origin)>, at: &Where) {
        self.report.foreign += chunk.foreign;
        self.report.replayed += chunk.replayed.len() as u64;
        chunk.replayed.iter().for_each(|id| self.everything.note_replayed(&at.topic, *id));
        self.report.records += (chunk.records.len() + chunk.illegible.len()) as u64;
        for offset in &chunk.illegible {
            self.report.unexpected.add(|| Finding::without_id(at, *offset));
        }
        for (record, origin) in records {
            let finding = || Finding::at(at, record.offset, record.id);
            self.report.requeued += u64::from(record.requeued.is_some());
            if origin == Origin::Unexpected {
                self.report.unexpected.add(finding);
            } else if !self.everything.note(record.id) {
                self.report.duplicates.add(finding);
            }
        }
    }

    async fn conclude(mut self, expected: RoaringTreemap) -> anyhow::Result<Report> {
        let (missing, hidden) = self.everything.missing(expected);
        let mut missing = missing.into_iter().map(u64::cast_signed);
        loop {
            let chunk: Vec<i64> = missing.by_ref().take(ROWS_PER_LOOKUP).collect();
            if chunk.is_empty() {
                break;
            }
            // Those that were removed or given up meanwhile were not lost, nor are those that were sent again.
            let known = self.audit.known(&chunk).await?;
            let is_lost = |row: &&KnownRow| !row.is_dead && !self.everything.is_replayed(&row.topic, row.id);
            let mut lost: Vec<i64> = known.iter().filter(is_lost).map(|row| row.id).collect();
            lost.sort_unstable();
            for id in lost {
                self.report.lost.add(|| Finding::row(id));
            }
        }
        self.report.hidden = hidden.len();
        if self.report.hidden > 0 {
            let note = "an open transaction of some producer hides records from consumers with read_committed: they are counted as hidden, and nothing else is said of them";
            self.report.notes.push(note.to_owned());
        }
        self.report.published = self.everything.len();
        let set_aside = self.audit.set_aside().await?;
        self.report.dead_letters = set_aside.dead_letters;
        self.report.held_lanes = set_aside.held_lanes;
        Ok(self.report)
    }
}

/// A partition, and how far it reached before anything was read.
struct PartitionRange {
    at: Where,
    watermarks: Watermarks,
}

/// The partitions of each of these topics, and how far they reach by now. Blocks.
fn reach(watermark_source: &WatermarkSource, topics: &[String]) -> Result<Vec<Vec<PartitionRange>>, ConsumerError> {
    let place = |topic: &str, partition| {
        let at = Where { topic: topic.to_owned(), partition };
        Ok(PartitionRange { at, watermarks: watermark_source.of(topic, partition)? })
    };
    let places =
        |topic: &String| watermark_source.partitions(topic)?.into_iter().map(|number| place(topic, number)).collect();
    topics.iter().map(places).collect()
}
