//! Logs: to stderr, as text for people or JSON for machines.
//!
//! Never a payload, a key or a secret: who logs keeps that rule, there is no filter behind it.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::{self, Handle};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 2] = [Format::Text, Format::Json];

    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
        }
    }
}

/// How and what is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How lines look.
    pub format: Format,
    /// A level, or levels by module: `info,outboxd::relay=debug`.
    pub level: String,
}

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LevelSwitch(Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl fmt::Debug for LevelSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LevelSwitch")
    }
}

impl LevelSwitch {
    fn of<S: 'static>(handle: Handle<EnvFilter, S>) -> Self {
        Self(Arc::new(move |filter| handle.reload(filter)))
    }

    /// Logs by this level, or these levels by module, from now on.
    ///
    /// # Errors
    /// What is wrong with it; nothing changes then.
    pub fn set(&self, level: &str) -> Result<(), String> {
        check_level(level)?;
        let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
        (self.0)(filter).map_err(|error| error.to_string())
    }
}

/// Begins logging, for the rest of the process's life. Does nothing if logging has begun already.
pub fn start(settings: &Settings) -> LevelSwitch {
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let (begun, switch) = match settings.format {
        Format::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal()).with_target(false).with_filter_reloading();
            let switch = LevelSwitch::of(lines.reload_handle());
            (lines.try_init(), switch)
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let switch = LevelSwitch::of(lines.reload_handle());
            (lines.try_init(), switch)
        }
    };
    drop(begun);
    switch
}

/// Checks a level, or levels by module.
///
/// # Errors
/// What is wrong with it, and what would do.
pub fn check_level(level: &str) -> Result<(), String> {
    let wrong = |part: &str| {
        format!(
            "{part:?} is no level; use error, warn, info, debug or trace, or by module \"info,outboxd::relay=debug\""
        )
    };
    for part in level.split(',').map(str::trim) {
        let (module, word) = part.rsplit_once('=').unwrap_or(("outboxd", part));
        let known = ["error", "warn", "info", "debug", "trace", "off"].contains(&word.to_ascii_lowercase().as_str());
        if module.is_empty() || !known {
            return Err(wrong(part));
        }
    }
    EnvFilter::try_new(level).map(drop).map_err(|_| wrong(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_words_by_module() {
        for good in ["info", "DEBUG", "warn,outboxd::relay=trace", "info,rdkafka=off"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["", "loud", "outboxd::relay=loud", "=info"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }
}
