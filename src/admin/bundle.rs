//! `outboxd support-bundle`: one archive of what was gathered, and of why some of it could not be.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::observe::chain;

/// Lines of a log that are taken.
const LOG_LINES: usize = 2_000;

/// Parts of an archive, each a file in it.
#[derive(Debug, Default)]
pub struct Bundle {
    parts: Vec<(String, String)>,
    missing: Vec<String>,
}

impl Bundle {
    /// Adds a part; the reason where it could not be had.
    pub fn add<E: std::error::Error + 'static>(&mut self, name: &str, part: Result<String, E>) {
        match part {
            Ok(text) => self.parts.push((name.to_owned(), text)),
            Err(error) => self.missing.push(format!("{name}: {}", chain(&error))),
        }
    }

    /// What could not be had, a line each.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Writes the archive, a compressed tar. All lies in one folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, output: impl Write, at: DateTime<Utc>) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(output, Compression::default()));
        let missing = (!self.missing.is_empty()).then(|| ("missing.txt".to_owned(), self.missing.join("\n") + "\n"));
        for (name, text) in self.parts.iter().chain(&missing) {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(at.timestamp().unsigned_abs());
            archive.append_data(&mut header, format!("outboxd-support/{name}"), text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}

/// The last lines of a log.
pub fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    last.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn what_is_missing_is_said_beside_what_is_there() {
        let mut bundle = Bundle::default();
        bundle.add::<io::Error>("status.json", Ok("{}\n".to_owned()));
        bundle.add("metrics.txt", Err(io::Error::other("nothing listens")));
        let mut written = Vec::new();
        bundle.write(&mut written, DateTime::UNIX_EPOCH).expect("memory takes it");
        let mut archive = tar::Archive::new(GzDecoder::new(written.as_slice()));
        let mut files = Vec::new();
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            files.push((name, text));
        }
        let file = |name: &str, text: &str| (format!("outboxd-support/{name}"), text.to_owned());
        assert_eq!(files, [file("status.json", "{}\n"), file("missing.txt", "metrics.txt: nothing listens\n")]);
    }

    #[test]
    fn of_a_log_the_end_is_taken() {
        let log: String = (0..3_000).map(|number| format!("line {number}\n")).collect();
        let taken = last_lines(&log);
        assert_eq!((taken.lines().count(), taken.lines().next()), (2_000, Some("line 1000")));
        assert_eq!(last_lines("a\nb"), "a\nb\n");
    }
}
