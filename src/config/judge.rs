//! From what was written to what is meant, complaining of everything that is wrong rather than of the first.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::complaint::{Complaint, Complaints};
use crate::config::raw::Raw;
use crate::config::written::{Scalar, Written};
use crate::config::{secrets, values};

/// Reads values by their keys. A value that is wrong is complained of, and something harmless stands in for it
/// until [`Judge::verdict`] refuses the whole.
pub(crate) struct Judge<'a> {
    raw: &'a Raw,
    complaints: Vec<Complaint>,
}

impl<'a> Judge<'a> {
    /// Begins with what the layers themselves complained of.
    pub(crate) fn new(raw: &'a Raw) -> Self {
        Self { raw, complaints: raw.complaints.clone() }
    }

    /// Gives out what was read, unless there was anything to complain of.
    pub(crate) fn verdict<T>(self, meant: T) -> Result<T, Complaints> {
        if self.complaints.is_empty() { Ok(meant) } else { Err(Complaints(self.complaints)) }
    }

    /// Complains of a setting, naming where its value came from.
    pub(crate) fn complain(&mut self, key: &str, problem: impl Into<String>) {
        let origin = self.raw.get(key).map(|written| written.origin.clone());
        self.complaints.push(Complaint { subject: key.to_owned(), origin, problem: problem.into() });
    }

    /// Complains of a setting that has to be given and is not.
    pub(crate) fn missing(&mut self, key: &str, would_do: &str) {
        self.complaints.push(Complaint {
            subject: key.to_owned(),
            origin: None,
            problem: format!("is not set; {would_do}"),
        });
    }

    /// A duration inside the bounds.
    pub(crate) fn duration(&mut self, key: &str, bounds: RangeInclusive<Duration>) -> Duration {
        let show = |bound: &Duration| humantime::format_duration(*bound).to_string();
        let range = format!("between {} and {}", show(bounds.start()), show(bounds.end()));
        self.bounded(key, values::duration, |duration| bounds.contains(duration), &range).unwrap_or_default()
    }

    /// A number of records inside the bounds.
    pub(crate) fn count(&mut self, key: &str, bounds: RangeInclusive<i64>) -> i64 {
        let range = format!("between {} and {}", bounds.start(), bounds.end());
        self.bounded(key, values::whole, |number| bounds.contains(number), &range).unwrap_or_default()
    }

    /// A size in bytes, at least `least`.
    pub(crate) fn size(&mut self, key: &str, least: usize) -> usize {
        self.bounded(key, values::size, |size| *size >= least, &format!("of at least {least} bytes"))
            .unwrap_or_default()
    }

    /// Whether something is on.
    pub(crate) fn switch(&mut self, key: &str) -> bool {
        self.bounded(key, values::switch, |_| true, "").unwrap_or_default()
    }

    /// One of a few words.
    pub(crate) fn word<T>(&mut self, key: &str, choices: Vec<(&str, T)>) -> Option<T> {
        let word = self.text(key);
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let found = choices.into_iter().find(|(choice, _)| *choice == word);
        if found.is_none() {
            self.complain(key, format!("{word:?} is not one of its words; use {}", words.join(" or ")));
        }
        found.map(|(_, meant)| meant)
    }

    /// Text that another type reads, and refuses with words that say what would do.
    pub(crate) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Option<T> {
        let text = self.text(key);
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.complain(key, error.to_string());
                None
            }
        }
    }

    /// A list of what another type reads, one at least.
    pub(crate) fn list<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, key: &str, would_do: &str) -> Vec<T> {
        let read = |value: &Scalar| values::list(value).map(|words| words.into_iter().map(str::to_owned).collect());
        let words: Vec<String> = self.bounded(key, read, |_| true, "").unwrap_or_default();
        if words.is_empty() {
            self.complain(key, format!("names nothing; {would_do}"));
        }
        let mut listed = Vec::with_capacity(words.len());
        for word in words {
            match word.parse::<T>() {
                Ok(parsed) => listed.push(parsed),
                Err(error) => self.complain(key, error.to_string()),
            }
        }
        listed
    }

    /// As [`parsed`](Self::parsed), of a setting that has no default.
    pub(crate) fn needed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        key: &str,
        would_do: &str,
    ) -> Option<T> {
        if self.raw.get(key).is_none() {
            self.missing(key, would_do);
            return None;
        }
        self.parsed(key)
    }

    /// The numbers of the rules about rejected records.
    pub(crate) fn rules(&self) -> BTreeSet<u32> {
        self.raw.rules()
    }

    /// Text, without the blanks around it.
    pub(crate) fn text(&mut self, key: &str) -> String {
        let read = |value: &Scalar| values::text(value).map(|text| text.trim().to_owned());
        self.bounded(key, read, |_| true, "").unwrap_or_default()
    }

    /// A secret, given as it is or in a file; the one from the later layer wins. Empty where neither is given.
    pub(crate) fn secret(&mut self, key: &str) -> String {
        let file_key = format!("{key}_file");
        let given = |key: &str| self.raw.get(key).filter(|written| !written.value.text.is_empty());
        match (given(key), given(&file_key)) {
            (None, None) => String::new(),
            (Some(value), None) => value.value.text.clone(),
            (Some(value), Some(file)) if value.origin.layer() > file.origin.layer() => value.value.text.clone(),
            (Some(value), Some(file)) if value.origin.layer() == file.origin.layer() => {
                self.complain(&file_key, format!("and {key} are both set; keep one of them"));
                String::new()
            }
            (_, Some(file)) => self.secret_file(&file_key, file),
        }
    }

    fn secret_file(&mut self, key: &str, file: &Written) -> String {
        match std::fs::read_to_string(&file.value.text) {
            Ok(content) => {
                let content = content.strip_suffix('\n').unwrap_or(&content);
                let content = content.strip_suffix('\r').unwrap_or(content).to_owned();
                if content.is_empty() {
                    self.complain(key, format!("{} is empty; it must hold the secret", file.value.text));
                }
                content
            }
            Err(error) => {
                let problem = format!("{} cannot be read: {error}; name a readable file", file.value.text);
                self.complain(key, problem);
                String::new()
            }
        }
    }

    fn bounded<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Scalar) -> Result<T, String>,
        within: impl Fn(&T) -> bool,
        range: &str,
    ) -> Option<T> {
        let written = self.raw.get(key).expect("every key that is asked for has a default: a test asks for all");
        let problem = match read(&written.value) {
            Ok(value) if within(&value) => return Some(value),
            Ok(_) => format!("{} is out of bounds; use one {range}", secrets::shown(key, &written.value.text)),
            Err(problem) => problem,
        };
        self.complain(key, problem);
        None
    }
}
