//! What was measured, kept in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Fallible;
use crate::load::Load;
use crate::rig::Rig;

/// Figures of one measurement, by names that end in their units.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Figures(BTreeMap<String, f64>);

impl<const N: usize> From<[(&str, f64); N]> for Figures {
    fn from(figures: [(&str, f64); N]) -> Self {
        figures.into_iter().collect()
    }
}

impl<'a> FromIterator<(&'a str, f64)> for Figures {
    fn from_iter<T: IntoIterator<Item = (&'a str, f64)>>(figures: T) -> Self {
        Self(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", rounded(*value))?;
        }
        Ok(())
    }
}

/// Three digits that count.
pub(crate) fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One measurement.
#[derive(Serialize, Deserialize)]
struct Measurement {
    load: String,
    parameters: String,
    contestant: String,
    round: u32,
    at: String,
    figures: Figures,
}

/// A figure over all rounds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Summary {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some(Self { median, least, most })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, least, most } = *self;
        match least < most {
            true => write!(f, "{} ({}–{})", rounded(median), rounded(least), rounded(most)),
            false => f.write_str(&rounded(median)),
        }
    }
}

/// All measurements, and where they were made.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    #[serde(skip)]
    file: PathBuf,
    /// What it ran on, by what it is.
    pub(crate) machine: BTreeMap<String, String>,
    measurements: Vec<Measurement>,
}

impl Results {
    pub(crate) fn open(file: PathBuf, fresh: bool) -> Fallible<Self> {
        let kept = fs::read(&file).ok().filter(|_| !fresh);
        let results: Self = kept.map(|bytes| serde_json::from_slice(&bytes)).transpose()?.unwrap_or_default();
        Ok(Self { file, ..results })
    }

    pub(crate) async fn describe(&mut self, rig: &Rig) -> Fallible<()> {
        let said = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output().ok()?;
            String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
        };
        let of = |file: &str, name: &str| {
            let text = fs::read_to_string(file).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let facts = [
            ("processor", of("/proc/cpuinfo", "model name")),
            ("cores", std::thread::available_parallelism().ok().map(|cores| cores.to_string())),
            ("memory", of("/proc/meminfo", "MemTotal")),
            ("kernel", said("uname", "-r")),
            ("PostgreSQL", Some(rig.version().await?)),
            ("Java", said("java", "--version")),
            ("outboxd", said(env!("CARGO_BIN_EXE_outboxd"), "--version")),
        ];
        self.machine = facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), fact?))).collect();
        Ok(())
    }

    pub(crate) fn has(&self, load: &Load, contestant: &str, round: u32) -> bool {
        self.measurements.iter().any(|one| {
            one.load == load.name
                && one.parameters == load.parameters()
                && one.contestant == contestant
                && one.round == round
        })
    }

    pub(crate) fn add(&mut self, load: &Load, contestant: &str, round: u32, figures: Figures) -> Fallible<()> {
        self.measurements.push(Measurement {
            load: load.name.to_owned(),
            parameters: load.parameters(),
            contestant: contestant.to_owned(),
            round,
            at: chrono::Utc::now().to_rfc3339(),
            figures,
        });
        let part = self.file.with_extension("part");
        fs::create_dir_all(self.file.parent().ok_or("the file is in no folder")?)?;
        fs::write(&part, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(part, &self.file)?)
    }

    /// Loads that were measured, with what they were, in the order in which they were first.
    pub(crate) fn loads(&self) -> Vec<(&str, &str)> {
        let mut loads = Vec::new();
        for one in &self.measurements {
            let load = (one.load.as_str(), one.parameters.as_str());
            if !loads.contains(&load) {
                loads.push(load);
            }
        }
        loads
    }

    /// The load of this name that was measured first, with what it was.
    pub(crate) fn load(&self, name: &str) -> Option<(&str, &str)> {
        self.loads().into_iter().find(|(load, _)| *load == name)
    }

    /// Contestants that were measured under a load, sorted.
    pub(crate) fn contestants(&self, load: (&str, &str)) -> Vec<&str> {
        let mut names: Vec<&str> = self.of(load).map(|one| one.contestant.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Names of the figures that a load gives.
    pub(crate) fn figures(&self, load: (&str, &str)) -> Vec<&str> {
        let mut names: Vec<&str> = self.of(load).flat_map(|one| one.figures.0.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// One figure of one contestant, over its rounds.
    pub(crate) fn summary(&self, load: (&str, &str), contestant: &str, figure: &str) -> Option<Summary> {
        Summary::of(self.rounds(load, contestant, figure).into_values().collect())
    }

    /// The same as a multiple of what it is for a rival, or under another load, round by round: what is measured at once
    /// has the same noise.
    pub(crate) fn ratio(
        &self,
        (load, contestant): ((&str, &str), &str),
        (other, rival): ((&str, &str), &str),
        figure: &str,
    ) -> Option<Summary> {
        let rivals = self.rounds(other, rival, figure);
        let own = self.rounds(load, contestant, figure).into_iter();
        Summary::of(own.filter_map(|(round, value)| Some(value / rivals.get(&round)?)).collect())
    }

    /// One figure of one contestant in each round.
    fn rounds(&self, load: (&str, &str), contestant: &str, figure: &str) -> BTreeMap<u32, f64> {
        let own = self.of(load).filter(|one| one.contestant == contestant);
        own.filter_map(|one| Some((one.round, *one.figures.0.get(figure)?))).collect()
    }

    fn of(&self, (name, parameters): (&str, &str)) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().filter(move |one| one.load == name && one.parameters == parameters)
    }
}
