//! Certificates that the configuration names, and until when they are valid. Keys are never opened.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::certificate;
use crate::config::Config;
use crate::secret::Secret;

/// What certificates are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// They tell who the relay is: all of them are needed.
    Identity,
    /// They tell whom to trust: any of them may be the one that is needed.
    Authority,
}

/// Settings of Kafka that name a file of certificates, or a folder of them.
const FILES: [(&str, Purpose); 2] =
    [("kafka.ssl.certificate.location", Purpose::Identity), ("kafka.ssl.ca.location", Purpose::Authority)];

/// Settings of Kafka that hold certificates themselves.
const TEXTS: [(&str, Purpose); 2] =
    [("kafka.ssl.certificate.pem", Purpose::Identity), ("kafka.ssl.ca.pem", Purpose::Authority)];

/// Parameters of PostgreSQL's URLs that name a file, each by all its names.
const PARAMETERS: [(&str, &[&str], Purpose); 2] = [
    ("database.url sslcert", &["sslcert", "ssl-cert"], Purpose::Identity),
    ("database.url sslrootcert", &["sslrootcert", "ssl-root-cert", "ssl-ca"], Purpose::Authority),
];

/// The most of a file that is read.
const FILE_LIMIT: u64 = 16 << 20;

/// Files of a folder that are read at most.
const FOLDER_LIMIT: usize = 1_000;

/// A setting that names certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCertificates {
    /// The setting.
    pub setting: &'static str,
    purpose: Purpose,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Path(PathBuf),
    Here(String),
}

impl Config {
    /// The settings that name certificates.
    pub fn certificates(&self) -> Vec<NamedCertificates> {
        let value = |setting: &str| {
            let property = setting.strip_prefix("kafka.").unwrap_or(setting);
            self.kafka.properties.get(property).filter(|value| !value.is_empty() && *value != "probe").cloned()
        };
        let files = FILES.into_iter().filter_map(|(setting, purpose)| {
            Some(NamedCertificates { setting, purpose, place: Place::Path(value(setting)?.into()) })
        });
        let texts = TEXTS.into_iter().filter_map(|(setting, purpose)| {
            Some(NamedCertificates { setting, purpose, place: Place::Here(value(setting)?) })
        });
        files.chain(texts).chain(in_url(&self.outbox.database.url)).collect()
    }
}

impl NamedCertificates {
    /// Until when they serve their purpose: those that tell who the relay is until the first of them ends, those that tell
    /// whom to trust until the last one does. Blocks while files are read.
    ///
    /// # Errors
    /// When they cannot be read, with what and why.
    pub fn valid_until(&self) -> Result<DateTime<Utc>, String> {
        let ends = match &self.place {
            Place::Here(pem) => certificate::ends(pem.as_bytes()).map_err(|error| error.to_string())?,
            Place::Path(path) if path.is_dir() => in_folder(path)?,
            Place::Path(path) => in_file(path)?,
        };
        let end = match self.purpose {
            Purpose::Identity => ends.into_iter().min(),
            Purpose::Authority => ends.into_iter().max(),
        };
        end.ok_or_else(|| "there is none".to_owned())
    }
}

fn in_file(path: &Path) -> Result<Vec<DateTime<Utc>>, String> {
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut pem));
    read.map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    certificate::ends(&pem).map_err(|error| format!("{}: {error}", path.display()))
}

/// Folders hold other files, too, which are passed over.
fn in_folder(path: &Path) -> Result<Vec<DateTime<Utc>>, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let entries = fs::read_dir(path).map_err(unreadable)?.take(FOLDER_LIMIT);
    let files = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file());
    let ends: Vec<_> = files.filter_map(|file| in_file(&file).ok()).flatten().collect();
    if ends.is_empty() { Err(format!("{} holds no file with a certificate", path.display())) } else { Ok(ends) }
}

/// What a URL of PostgreSQL names; nothing else of it is looked at.
fn in_url(url: &Secret) -> Vec<NamedCertificates> {
    let Some((scheme, rest)) = url.expose().split_once(':') else { return Vec::new() };
    let Some((_, query)) = rest.split_once('?').filter(|_| scheme.starts_with("postgres")) else { return Vec::new() };
    let query = query.split('#').next().unwrap_or_default();
    let given: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let named = PARAMETERS.into_iter().filter_map(|(setting, names, purpose)| {
        let (_, path) = given.iter().rev().find(|(name, path)| names.contains(name) && !path.is_empty())?;
        Some(NamedCertificates { setting, purpose, place: Place::Path(decoded(path).into()) })
    });
    named.collect()
}

/// Text as it stands in a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(['%', '+']) {
        bytes.extend_from_slice(before.as_bytes());
        let is_blank = rest.as_bytes()[before.len()] == b'+';
        let code = after.get(..2).filter(|_| !is_blank).and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = match code {
            Some(byte) => {
                bytes.push(byte);
                &after[2..]
            }
            None => {
                bytes.push(if is_blank { b' ' } else { b'%' });
                after
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_files_under_each_of_their_names_and_nothing_else_is_taken_for_one() {
        let named = |url: &str| {
            let named = in_url(&Secret::new(url)).into_iter();
            named.map(|named| (named.setting, named.place)).collect::<Vec<_>>()
        };
        let path = |path: &str| Place::Path(path.into());
        assert_eq!(
            named("postgres://a:sslcert=b?c@h/d?sslmode=verify-full&sslrootcert=/a%20b/ca+1.pem&ssl-cert=c%2Fd"),
            [("database.url sslcert", path("c/d")), ("database.url sslrootcert", path("/a b/ca 1.pem"))]
        );
        assert_eq!(named("postgresql://h/d?ssl-ca=x%&ssl-ca=%zz"), [("database.url sslrootcert", path("%zz"))]);
        assert_eq!(named("sqlite:a.db?sslcert=b"), []);
        assert_eq!(named("postgres://h/d?sslcert="), []);
    }

    #[test]
    fn what_tells_who_the_relay_is_ends_with_the_first_and_what_tells_whom_to_trust_with_the_last() {
        let both = format!("{}{}", include_str!("../certificate/ended.pem"), certificate::UNTIL_2061);
        let until = |purpose| {
            let place = Place::Here(both.clone());
            NamedCertificates { setting: "kafka.ssl.ca.pem", purpose, place }.valid_until().expect("two of them")
        };
        assert_eq!(until(Purpose::Identity).to_rfc3339(), "2025-02-03T04:05:06+00:00");
        assert_eq!(until(Purpose::Authority).to_rfc3339(), "2061-02-03T04:05:06+00:00");
    }

    #[test]
    fn a_folder_is_read_and_what_cannot_be_read_is_told_with_its_path() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let at = |path: &Path| NamedCertificates {
            setting: "kafka.ssl.ca.location",
            purpose: Purpose::Authority,
            place: Place::Path(path.into()),
        };
        let told = at(folder.path()).valid_until().expect_err("it is empty");
        assert!(told.ends_with("holds no file with a certificate"), "{told}");
        fs::write(folder.path().join("readme"), "no certificate").expect("written");
        fs::write(folder.path().join("a.pem"), certificate::UNTIL_2061).expect("written");
        assert!(at(folder.path()).valid_until().is_ok());
        let told = at(&folder.path().join("b.pem")).valid_until().expect_err("there is none");
        assert!(told.contains("b.pem cannot be read"), "{told}");
    }
}
