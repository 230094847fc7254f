//! Each stage alone: reading, publishing, settling. The slowest limits the whole, and settings that may help it are tried.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use crate::backends;
use crate::bench::load::Load;
use crate::bench::say::say;
use crate::bench::scratch_outbox::ScratchOutbox;
use crate::config::Config;
use crate::contract::{Outcome, Receipt, Store};
use crate::outbox::{Batch, Position, Record, Settle, Settlement, Term};

/// How much faster a stage must be with a setting for that to be worth a word.
const WORTHWHILE: f64 = 1.15;

/// The property that compresses batches, by both its names.
const COMPRESSION: [&str; 2] = ["compression.type", "compression.codec"];

/// A stage of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading rows.
    Read,
    /// Handing records to the brokers, until they are acknowledged.
    Publish,
    /// Recording in the database what was published.
    Settle,
}

impl Stage {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Read => "reading",
            Stage::Publish => "publishing",
            Stage::Settle => "settling",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Rows a second of each stage, with nothing beside it, and what may help the slowest.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Writing, as an application does that writes a thousand rows in a transaction.
    pub write: f64,
    /// Reading.
    pub read: f64,
    /// Publishing.
    pub publish: f64,
    /// Settling; `None` where rows are not settled one by one.
    pub settle: Option<f64>,
    /// Settings that were tried, or that are known to help.
    pub advice: Vec<String>,
}

impl Stages {
    /// The slowest of the relay's, and its rate.
    pub fn limiting(&self) -> (Stage, f64) {
        let stages = [
            (Stage::Read, self.read),
            (Stage::Publish, self.publish),
            (Stage::Settle, self.settle.unwrap_or(f64::INFINITY)),
        ];
        stages.into_iter().fold(stages[0], |slowest, stage| if stage.1 < slowest.1 { stage } else { slowest })
    }
}

/// What was read.
struct Read {
    /// Who read: the store settles fastest what it has read itself.
    store: Arc<dyn Store>,
    rate: f64,
    settlements: Vec<Settlement>,
    /// The first records, to be published again and again.
    first: Vec<Record>,
    end: Position,
}

impl Read {
    fn rows(&self) -> usize {
        self.settlements.iter().map(Settlement::len).sum()
    }
}

/// Measures every stage, and what may help the slowest.
pub(crate) async fn measure(place: &ScratchOutbox, load: &Load) -> anyhow::Result<Stages> {
    let config = place.config();
    say("writing alone");
    let write = load.refill(place).await?;
    say("reading alone");
    let read = read(config).await?;
    say("publishing alone");
    let publish = publish(place, config, &read).await?;
    let settle = match config.outbox.database.settle {
        Settle::Checkpoint => None,
        Settle::Mark | Settle::Delete => {
            say("settling alone");
            Some(settle(&read).await?)
        }
    };
    let mut stages = Stages { write, read: read.rate, publish, settle, advice: Vec::new() };
    stages.advice = advise(place, load, stages.limiting(), &read).await?;
    Ok(stages)
}

/// Reads all rows that are not settled.
async fn read(config: &Config) -> anyhow::Result<Read> {
    let store = backends::database(&config.outbox.database)?;
    let mut reader = store.open().await?;
    let mut read = Read { store, rate: 0.0, settlements: Vec::new(), first: Vec::new(), end: reader.position() };
    let began = Instant::now();
    loop {
        let Batch { records, end, more, token, .. } = reader.fetch(config.relay.batch).await?;
        let mut settlement = Settlement::with_capacity(records.len());
        settlement.add_token(token);
        records.iter().for_each(|record| settlement.push(record));
        if !records.is_empty() {
            read.settlements.push(settlement);
        }
        if read.first.is_empty() {
            (read.first, read.end) = (records, end);
        }
        if !more {
            break;
        }
    }
    read.rate = read.rows() as f64 / began.elapsed().as_secs_f64();
    Ok(read)
}

/// Publishes the first records again and again, as many as there are rows, with as much in flight as the relay has.
async fn publish(place: &ScratchOutbox, config: &Config, read: &Read) -> anyhow::Result<f64> {
    let rows = read.rows();
    let mut sink = backends::sink(config, place.source("publish"))?;
    sink.open(Term(1), None).await?;
    let submission = repeated(&read.first, config);
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    let mut published = 0;
    // The first submission opens connections.
    let warm_up = 1;
    let mut began = Instant::now();
    for number in 0..warm_up + rows.div_ceil(submission.len()) {
        while (receipts.len() + 1) * submission.len() > config.relay.in_flight.records.max(submission.len()) {
            published += delivered(receipts.pop_front()).await?;
        }
        sink.prepare(&submission).await?;
        receipts.push_back(sink.submit(&submission, Some(&read.end)).await?);
        if number + 1 == warm_up {
            delivered(receipts.pop_front()).await?;
            began = Instant::now();
        }
    }
    while !receipts.is_empty() {
        published += delivered(receipts.pop_front()).await?;
    }
    Ok(published as f64 / began.elapsed().as_secs_f64())
}

/// A submission as the relay makes it: a batch, or several in one transaction.
fn repeated(records: &[Record], config: &Config) -> Vec<Record> {
    let most = if config.relay.delivery.fences() { config.relay.transaction.records } else { records.len() };
    records.iter().cycle().take(most.max(records.len())).cloned().collect()
}

async fn delivered(receipt: Option<Receipt>) -> anyhow::Result<usize> {
    let Some(receipt) = receipt else { return Ok(0) };
    let outcomes = receipt.await;
    match outcomes.iter().find(|outcome| !matches!(outcome, Outcome::Delivered { .. })) {
        None => Ok(outcomes.len()),
        Some(Outcome::Held(cause)) => anyhow::bail!("the topic is held: {}", cause.as_str()),
        Some(Outcome::Rejected(rejection)) => anyhow::bail!("the brokers refuse the records: {rejection}"),
        Some(_) => anyhow::bail!("the brokers' client gave records up"),
    }
}

/// Settles what was read, as the relay would.
async fn settle(read: &Read) -> anyhow::Result<f64> {
    let began = Instant::now();
    for settlement in &read.settlements {
        read.store.settle(settlement).await?;
    }
    Ok(read.rows() as f64 / began.elapsed().as_secs_f64())
}

/// Tries what may help the slowest stage.
async fn advise(
    place: &ScratchOutbox,
    load: &Load,
    slowest: (Stage, f64),
    before: &Read,
) -> anyhow::Result<Vec<String>> {
    let (stage, rate) = slowest;
    let config = place.config();
    let mut words = Vec::new();
    let mut note = |setting: String, with_it: f64| {
        if with_it >= rate * WORTHWHILE {
            words.push(format!("{setting}: {:.1} × as fast at {stage} alone", with_it / rate));
        }
    };
    match stage {
        Stage::Read => {
            say("trying larger batches");
            let mut other = config.clone();
            other.relay.batch.records *= 2;
            other.relay.batch.bytes *= 2;
            load.refill(place).await?;
            note(format!("relay.batch.records = {}", other.relay.batch.records), read(&other).await?.rate);
        }
        Stage::Publish => {
            say("trying more in flight");
            let mut other = config.clone();
            other.relay.in_flight.records *= 2;
            let with_it = publish(place, &other, before).await?;
            note(format!("relay.in_flight.records = {}", other.relay.in_flight.records), with_it);
            if !COMPRESSION.iter().any(|name| config.kafka.properties.contains_key(*name)) {
                say("trying compression");
                let mut other = config.clone();
                other.kafka.properties.insert(COMPRESSION[0].to_owned(), "lz4".to_owned());
                note(format!("kafka.{} = \"lz4\"", COMPRESSION[0]), publish(place, &other, before).await?);
            }
        }
        Stage::Settle => {
            if config.outbox.database.settle == Settle::Mark {
                say("trying to delete instead of to mark");
                let mut other = config.clone();
                other.outbox.database.settle = Settle::Delete;
                load.refill(place).await?;
                let with_it = settle(&read(&other).await?).await?;
                note("outbox.settle = \"delete\" (published rows are gone at once)".to_owned(), with_it);
            }
            let word = "outbox.settle = \"checkpoint\": no row is settled by itself, only a position is stored";
            words.push(word.to_owned());
        }
    }
    if words.is_empty() {
        words.push(format!("no setting that was tried makes {stage} faster: it is at the limit of what is here"));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_stage_limits_and_one_that_is_not_there_does_not() {
        let stages = |read, publish, settle| Stages { write: 1.0, read, publish, settle, advice: Vec::new() };
        assert_eq!(stages(9.0, 3.0, Some(5.0)).limiting(), (Stage::Publish, 3.0));
        assert_eq!(stages(9.0, 3.0, Some(2.0)).limiting(), (Stage::Settle, 2.0));
        assert_eq!(stages(2.0, 3.0, None).limiting(), (Stage::Read, 2.0));
    }
}
