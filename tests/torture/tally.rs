//! What many rounds gave, in a file in which runs add up.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::torture::ROUNDS;
use crate::torture::round::Outcome;
use crate::torture::script::{DEEDS, KINDS, Kind, Script};

/// Totals.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    rounds: u64,
    failed: u64,
    seconds: f64,
    rows: u64,
    records: u64,
    duplicates: u64,
    /// Duplicates by delivery: none where each is to be seen once, some where not, or the faults were not felt.
    duplicates_by_delivery: BTreeMap<String, u64>,
    /// Faults of relays that hit the leader.
    leaders_hit: u64,
    dead_letters: u64,
    /// Records of rows that a database forgot when it was taken back.
    #[serde(default)]
    forgotten: u64,
    /// Outboxes whose relays refused to go on with such a database, and were helped.
    #[serde(default)]
    repaired: u64,
    /// Rounds by mode.
    modes: BTreeMap<String, u64>,
    /// Faults that were felt, by kind.
    faults: BTreeMap<String, u64>,
    /// Takeovers while nothing else was broken, by what happened to the leader.
    takeovers: BTreeMap<String, Takeovers>,
    runs: Vec<Run>,
}

/// How long takeovers took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Takeovers {
    count: u64,
    mean_ms: f64,
    max_ms: u64,
}

/// One run: all its rounds follow from the first one's seed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Run {
    first_seed: u64,
    rounds: u64,
    /// Seeds of rounds that failed.
    failed: Vec<u64>,
}

impl Tally {
    /// Nothing yet, in a run that begins with this seed.
    pub(crate) fn new(first_seed: u64) -> Self {
        Self { runs: vec![Run { first_seed, ..Run::default() }], ..Self::default() }
    }

    /// Adds a round.
    pub(crate) fn add(&mut self, script: &Script, outcome: &Outcome) {
        self.rounds += 1;
        self.seconds += outcome.took.as_secs_f64();
        self.rows += outcome.rows;
        self.records += outcome.records;
        self.duplicates += outcome.duplicates;
        self.leaders_hit += outcome.leaders_hit;
        *self.duplicates_by_delivery.entry(script.mode.delivery.to_owned()).or_default() += outcome.duplicates;
        self.dead_letters += outcome.given_up;
        self.forgotten += outcome.forgotten;
        self.repaired += outcome.repaired as u64;
        *self.modes.entry(script.mode.to_string()).or_default() += 1;
        for (kind, _) in &outcome.faults {
            *self.faults.entry(format!("{kind:?}")).or_default() += 1;
        }
        for (kind, took) in &outcome.takeovers {
            self.takeovers.entry(format!("{kind:?}")).or_default().add(*took);
        }
        let run = self.runs.last_mut().expect("begun with one");
        run.rounds += 1;
        if outcome.failure.is_some() {
            self.failed += 1;
            run.failed.push(script.seed);
        }
    }

    /// A kind of fault, or of an operator's deed, that was never felt, where there were rounds enough for each to have its turn.
    pub(crate) fn never_felt(&self, rounds: u64) -> Option<Kind> {
        let is_missing = |kind: &Kind| !self.faults.contains_key(&format!("{kind:?}"));
        KINDS.iter().chain(DEEDS).copied().find(|kind| rounds >= ROUNDS && is_missing(kind))
    }

    /// Adds this run, as far as it has come, to what a file said before it. A run that saves again adds only news.
    pub(crate) fn save(&self, file: &str) {
        let own = self.runs.last().expect("begun with one");
        let before = fs::read_to_string(file).ok();
        let mut all: Vec<Tally> = before.map_or(Vec::new(), |text| {
            let kept: Saved = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
            kept.parts
        });
        all.retain(|part| part.runs.last().is_none_or(|run| run.first_seed != own.first_seed));
        all.push(self.clone());
        let saved = Saved { total: all.iter().fold(Tally::default(), Tally::with), parts: all };
        let text = serde_json::to_string_pretty(&saved).expect("plain figures");
        fs::write(file, text + "\n").unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    fn with(mut self, other: &Tally) -> Self {
        self.rounds += other.rounds;
        self.failed += other.failed;
        self.seconds += other.seconds;
        self.rows += other.rows;
        self.records += other.records;
        self.duplicates += other.duplicates;
        self.leaders_hit += other.leaders_hit;
        self.dead_letters += other.dead_letters;
        self.forgotten += other.forgotten;
        self.repaired += other.repaired;
        let by_delivery = (&mut self.duplicates_by_delivery, &other.duplicates_by_delivery);
        for (counts, others) in [(&mut self.modes, &other.modes), (&mut self.faults, &other.faults), by_delivery] {
            for (name, count) in others {
                *counts.entry(name.clone()).or_default() += count;
            }
        }
        for (kind, takeovers) in &other.takeovers {
            self.takeovers.entry(kind.clone()).or_default().merge(takeovers);
        }
        self
    }
}

/// The file: the sum, and the runs that it is made of.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    total: Tally,
    parts: Vec<Tally>,
}

impl Takeovers {
    fn add(&mut self, took: Duration) {
        let took = took.as_millis() as u64;
        self.merge(&Takeovers { count: 1, mean_ms: took as f64, max_ms: took });
    }

    fn merge(&mut self, other: &Takeovers) {
        let count = self.count + other.count;
        let sum = self.mean_ms * self.count as f64 + other.mean_ms * other.count as f64;
        *self =
            Takeovers { count, mean_ms: (sum / count.max(1) as f64).round(), max_ms: self.max_ms.max(other.max_ms) };
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, seconds, rows, records, duplicates, dead_letters, .. } = self;
        writeln!(
            f,
            "{rounds} rounds in {seconds:.0} s: {rows} rows, {records} records, {duplicates} duplicates, {dead_letters} dead letters"
        )?;
        writeln!(f, "leaders hit: {}", self.leaders_hit)?;
        writeln!(f, "forgotten by databases: {}, outboxes repaired after that: {}", self.forgotten, self.repaired)?;
        let by_delivery = ("duplicates", &self.duplicates_by_delivery);
        for (what, counts) in [("modes", &self.modes), ("faults", &self.faults), by_delivery] {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            writeln!(f, "{what}: {}", counts.join(" | "))?;
        }
        for (kind, Takeovers { count, mean_ms, max_ms }) in &self.takeovers {
            writeln!(f, "takeovers after {kind}: {count}, mean {mean_ms:.0} ms, at most {max_ms} ms")?;
        }
        Ok(())
    }
}
