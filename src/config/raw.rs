//! The configuration as written: every layer, each value with where it came from.
//!
//! Nothing here knows what a value means, only which keys there are: those of the embedded defaults, anything
//! under `kafka.`, and `KEY_file` for a secret. What is meant is decided in [`crate::config::Config::judge`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::config::complaint::{Complaint, Complaints};
use crate::config::written::{Kind, Origin, Scalar, Written};
use crate::config::{document, environment, nearest, secrets};

/// Every setting with its default, and what it does.
pub const DEFAULTS: &str = include_str!("../../deploy/outboxd.toml");

/// A setting given by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as typed.
    pub name: &'static str,
    /// The setting it stands for.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// What the layers above the defaults are made of.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if one was given.
    pub file: Option<PathBuf>,
    /// The environment: all of it, ours is picked out.
    pub environment: Vec<(String, String)>,
    /// The flags, in the order they were given.
    pub flags: Vec<Flag>,
}

/// The configuration as written, after all layers.
#[derive(Debug, Clone)]
pub struct Raw {
    values: BTreeMap<String, Written>,
    known: Vec<String>,
    pub(crate) complaints: Vec<Complaint>,
}

impl Raw {
    /// Puts the layers on top of each other. Never fails: what is wrong is complained of in
    /// [`crate::config::Config::judge`], together with everything else.
    pub fn gather(sources: &Sources) -> Self {
        let mut raw = Raw::defaults();
        if let Some(path) = &sources.file {
            raw.add_file(path);
        }
        for (variable, value) in &sources.environment {
            raw.add_variable(variable, value);
        }
        for Flag { name, key, value } in &sources.flags {
            raw.set(key, Scalar { text: value.clone(), kind: Kind::Loose }, Origin::Flag { name });
        }
        raw
    }

    /// All values by their keys.
    pub fn values(&self) -> &BTreeMap<String, Written> {
        &self.values
    }

    /// One complaint about one setting.
    pub fn complaint(&self, key: &str, problem: String) -> Complaints {
        let origin = self.get(key).map(|written| written.origin.clone());
        Complaints(vec![Complaint { subject: key.to_owned(), origin, problem }])
    }

    /// One value; `None` for a property of Kafka that is not set.
    pub(crate) fn get(&self, key: &str) -> Option<&Written> {
        self.values.get(key)
    }

    /// The keys that have a default, in the order of the defaults file.
    pub(crate) fn known(&self) -> &[String] {
        &self.known
    }

    fn defaults() -> Self {
        let entries = document::flatten(DEFAULTS).expect("the embedded defaults are TOML: a test parses them");
        let known = entries.iter().map(|entry| entry.key.clone()).collect();
        let written = |value| Written { value, origin: Origin::Default };
        let values = entries.into_iter().map(|entry| (entry.key, written(entry.value))).collect();
        Self { values, known, complaints: Vec::new() }
    }

    fn add_file(&mut self, path: &Path) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("cannot be read: {error}; give the path of a readable TOML file");
                return self.complain(path.display().to_string(), Some(Origin::Flag { name: "--config" }), problem);
            }
        };
        match document::flatten(&text) {
            Ok(entries) => {
                for entry in entries {
                    let origin = Origin::File { path: path.to_owned(), line: entry.line };
                    self.set_once(&entry.key, entry.value, origin);
                }
            }
            Err(malformed) => {
                let subject = format!("{}:{}", path.display(), malformed.line);
                self.complain(subject, None, format!("is not TOML: {}", malformed.problem));
            }
        }
    }

    /// Sets a value from a file, where two spellings of one name are a slip rather than a later layer.
    fn set_once(&mut self, key: &str, value: Scalar, origin: Origin) {
        if let (Some(Written { origin: Origin::File { line, .. }, .. }), Origin::File { .. }) = (self.get(key), &origin)
        {
            let problem = format!("is set a second time, first in line {line}; keep one of them");
            return self.complain(key.to_owned(), Some(origin), problem);
        }
        self.set(key, value, origin);
    }

    fn add_variable(&mut self, variable: &str, value: &str) {
        let origin = Origin::Environment { variable: variable.to_owned() };
        match environment::read(variable, &self.known) {
            environment::Reading::Setting(key) => {
                self.set(&key, Scalar { text: value.to_owned(), kind: Kind::Loose }, origin);
            }
            environment::Reading::Misspelt(key) => {
                let problem = format!("section and key are joined by two underscores; use {}", environment::name(&key));
                self.complain(variable.to_owned(), None, problem);
            }
            environment::Reading::NotOurs => {}
        }
    }

    fn set(&mut self, key: &str, value: Scalar, origin: Origin) {
        if self.is_known(key) {
            self.values.insert(key.to_owned(), Written { value, origin });
        } else {
            let problem = match nearest::of(key, &self.known) {
                Some(known) => format!("is no setting; did you mean {known}?"),
                None => "is no setting; deploy/outboxd.toml lists all there are".to_owned(),
            };
            self.complain(key.to_owned(), Some(origin), problem);
        }
    }

    fn is_known(&self, key: &str) -> bool {
        match key.strip_prefix("kafka.") {
            Some(property) => match property.strip_suffix("_file") {
                Some(_) => secrets::of_file(key).is_some(),
                None => !property.is_empty(),
            },
            None => self.known.iter().any(|known| known == key) || rule(key).is_some(),
        }
    }

    /// The numbers of the rules about rejected records, in order.
    pub(crate) fn rules(&self) -> BTreeSet<u32> {
        self.values.keys().filter_map(|key| rule(key)).collect()
    }

    fn complain(&mut self, subject: String, origin: Option<Origin>, problem: String) {
        self.complaints.push(Complaint { subject, origin, problem });
    }
}

/// Where the rules about rejected records are: one table of an array each.
pub(crate) const RULES: &str = "relay.reject";

/// The number of the rule that a key belongs to.
fn rule(key: &str) -> Option<u32> {
    let (number, setting) = key.strip_prefix(RULES)?.strip_prefix('.')?.split_once('.')?;
    matches!(setting, "topic" | "on_reject").then(|| number.parse().ok()).flatten()
}
