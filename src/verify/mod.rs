//! `outboxd verify`: what committed against what Kafka holds.
//!
//! First the rows that are recorded as published, then the topics up to the ends they have after that: so nothing
//! that is on its way is called lost. Every record is explained by a row that there is, or else was rolled back; rows
//! that housekeeping may have removed by now explain nothing and accuse nobody.

mod judge;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use roaring::RoaringTreemap;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::contract::{Audit, KnownRow};
use crate::kafka::{Consumed, Consumer, ConsumerError, Isolation, partitions_of};
use crate::outbox::Settle;
use crate::verify::judge::{Everything, Part, Pass, Seen};
use crate::verify::report::{Finding, Where};

pub use report::{Findings, Report};

/// Rows and records that are handled at once.
const CHUNK: usize = 5_000;

/// How long one look for a record takes at most.
const LOOK: Duration = Duration::from_millis(500);

/// How long a partition may say nothing before it counts as silent.
const SILENCE: Duration = Duration::from_secs(60);

/// What is audited, and how.
#[derive(Clone)]
pub struct Settings {
    /// Properties of librdkafka.
    pub properties: BTreeMap<String, String>,
    /// What the header `outbox-source` says on this outbox's records.
    pub source: String,
    /// Topics to read; none: those that rows name.
    pub topics: Vec<String>,
    /// Only what was written since then.
    pub since: Option<DateTime<Utc>>,
    /// Which records of transactions are seen.
    pub isolation: Isolation,
    /// How the relay records what was published.
    pub settle: Settle,
    /// How long published rows are kept.
    pub retention: Duration,
}

/// Audits an outbox.
///
/// # Errors
/// When the database or the brokers do not answer, or there is nothing that says which topics to read.
pub async fn run(audit: Box<dyn Audit>, settings: Settings) -> anyhow::Result<Report> {
    let began = Utc::now();
    let mut auditor = Auditor {
        audit,
        purged_before: began - settings.retention,
        settings,
        report: Report::default(),
        everything: Everything::default(),
    };
    let expected = auditor.read_rows().await?;
    for topic in auditor.report.topics.clone() {
        auditor.read_topic(&topic).await?;
    }
    auditor.conclude(&expected).await
}

struct Auditor {
    audit: Box<dyn Audit>,
    settings: Settings,
    /// Rows written before may have been removed after their retention.
    purged_before: DateTime<Utc>,
    report: Report,
    everything: Everything,
}

/// What is kept of a record.
struct Record {
    id: i64,
    event_id: Uuid,
    key: Option<Vec<u8>>,
    offset: i64,
    written: i64,
}

impl Auditor {
    /// Reads what committed; returns the rows that Kafka must hold.
    async fn read_rows(&mut self) -> anyhow::Result<RoaringTreemap> {
        let mut expected = RoaringTreemap::new();
        let mut topics = BTreeSet::new();
        let mut after = i64::MIN;
        loop {
            let rows = self.audit.rows(after, CHUNK).await?;
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
        Ok(expected)
    }

    async fn read_topic(&mut self, topic: &str) -> anyhow::Result<()> {
        let (properties, name) = (self.settings.properties.clone(), topic.to_owned());
        let partitions = tokio::task::spawn_blocking(move || partitions_of(&properties, &name)).await??;
        if partitions.is_empty() {
            self.report.notes.push(format!("topic {topic} does not exist"));
        }
        for partition in partitions {
            let at = Where { topic: topic.to_owned(), partition };
            let mut parts = vec![Part::ALL];
            while let Some(part) = parts.pop() {
                let is_first = part == Part::ALL;
                parts.extend(self.read_partition(&at, part, is_first).await?);
            }
        }
        Ok(())
    }

    /// One pass through a partition; returns the parts of its lanes for which there was no room.
    async fn read_partition(&mut self, at: &Where, part: Part, is_first: bool) -> anyhow::Result<Vec<Part>> {
        let (chunks, mut read) = mpsc::channel(4);
        let (settings, place) = (self.settings.clone(), at.clone());
        let reading = tokio::task::spawn_blocking(move || pump(&settings, &place, &chunks));
        let mut pass = Pass::begin(part);
        while let Some(Chunk { records, foreign }) = read.recv().await {
            let known = self.explain(&records).await?;
            if is_first {
                self.report.foreign += foreign;
                self.count(&records, &known, at);
            }
            for record in &records {
                let lane = lane_of(record, known.as_ref(), at);
                pass.follow(Seen { id: record.id, lane, offset: record.offset }, at, &mut self.report);
            }
        }
        reading.await?.with_context(|| format!("partition {} of topic {}", at.partition, at.topic))?;
        Ok(pass.end(at, &mut self.report))
    }

    /// The rows behind records, where rows stay.
    async fn explain(&mut self, records: &[Record]) -> anyhow::Result<Option<HashMap<i64, KnownRow>>> {
        if self.settings.settle == Settle::Delete {
            return Ok(None);
        }
        let ids: Vec<i64> = records.iter().map(|record| record.id).collect();
        let known = self.audit.known(&ids).await?;
        Ok(Some(known.into_iter().map(|row| (row.id, row)).collect()))
    }

    fn count(&mut self, records: &[Record], known: &Option<HashMap<i64, KnownRow>>, at: &Where) {
        for record in records {
            self.report.records += 1;
            if !self.everything.note(record.id) {
                self.report.duplicates.add(|| Finding::at(at, record.offset, record.id));
                continue;
            }
            let Some(known) = known else { continue };
            let is_explained = known.get(&record.id).is_some_and(|row| row.event_id == record.event_id);
            let may_be_purged = record.written < self.purged_before.timestamp_millis();
            if !is_explained && !may_be_purged {
                self.report.unexpected.add(|| Finding::at(at, record.offset, record.id));
            }
        }
    }

    async fn conclude(mut self, expected: &RoaringTreemap) -> anyhow::Result<Report> {
        let lost: Vec<i64> = self.everything.lost(expected).collect();
        // Those that were removed or given up meanwhile were not lost.
        for chunk in lost.chunks(CHUNK) {
            let known = self.audit.known(chunk).await?;
            for row in known {
                self.report.lost.add(|| Finding::row(row.id));
            }
        }
        self.report.published = self.everything.len();
        let set_aside = self.audit.set_aside().await?;
        self.report.dead_letters = set_aside.dead_letters;
        self.report.held_lanes = set_aside.held_lanes;
        Ok(self.report)
    }
}

/// The lane of a record: its partition where its row names it, else its key.
fn lane_of(record: &Record, known: Option<&HashMap<i64, KnownRow>>, at: &Where) -> Option<u64> {
    let names_partition = known.and_then(|known| known.get(&record.id)).is_some_and(|row| row.names_partition);
    let mut hasher = DefaultHasher::new();
    at.topic.hash(&mut hasher);
    match (&record.key, names_partition) {
        (_, true) => at.partition.hash(&mut hasher),
        (Some(key), false) => key.hash(&mut hasher),
        (None, false) => return None,
    }
    Some(hasher.finish())
}

/// Records read together.
struct Chunk {
    records: Vec<Record>,
    foreign: u64,
}

/// Why a partition could not be read to its end.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    #[error("nothing came for {SILENCE:?} before the end was reached")]
    Silent,
}

/// Reads a partition to its end. Blocks.
fn pump(settings: &Settings, at: &Where, chunks: &mpsc::Sender<Chunk>) -> Result<(), Unread> {
    let since = settings.since.map(|since| since.timestamp_millis());
    let place = (at.topic.as_str(), at.partition);
    let mut consumer = Consumer::open_partition(&settings.properties, place, since, settings.isolation)?;
    let mut chunk = Chunk { records: Vec::with_capacity(CHUNK), foreign: 0 };
    let mut heard = tokio::time::Instant::now();
    while !consumer.is_at_end() {
        let Some(consumed) = consumer.next(LOOK)? else {
            if heard.elapsed() > SILENCE {
                return Err(Unread::Silent);
            }
            continue;
        };
        heard = tokio::time::Instant::now();
        match record(settings, consumed) {
            Some(record) if since.is_none_or(|since| record.written >= since) => chunk.records.push(record),
            Some(_earlier) => {}
            None => chunk.foreign += 1,
        }
        if chunk.records.len() >= CHUNK {
            let full = std::mem::replace(&mut chunk, Chunk { records: Vec::with_capacity(CHUNK), foreign: 0 });
            if chunks.blocking_send(full).is_err() {
                return Ok(());
            }
        }
    }
    // Nobody may be listening any more.
    let _ = chunks.blocking_send(chunk);
    Ok(())
}

/// The record, if it is one of this outbox.
fn record(settings: &Settings, consumed: Consumed) -> Option<Record> {
    if consumed.header("outbox-source") != Some(settings.source.as_str()) {
        return None;
    }
    let id = consumed.header("outbox-id")?.parse().ok()?;
    let event_id = Uuid::try_parse(consumed.header("id")?).ok()?;
    let written = consumed.timestamp.unwrap_or(i64::MAX);
    Some(Record { id, event_id, offset: consumed.offset, written, key: consumed.key })
}
