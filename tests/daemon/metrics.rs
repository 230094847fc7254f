//! The catalogue of metrics, its page, and whatever else names metrics agree.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use outboxd::observe::metrics::{CATALOGUE, Metric};

/// What comes before the table.
const INTRODUCTION: &str = "\
# Metrics

What `/metrics` shows, in Prometheus' text format. Written from the catalogue in `src/observe/metrics.rs`: a test compares.
Leaders and standbys show all of it; what only a leader knows is 0 on a standby. Histograms have their buckets from 0.1 ms to
10 min. At most 200 topics are named, and the others together as `other`. Every series bears the label `outbox` as well: it is
`outbox.source`, or else the database and the table as the configuration names them.

| metric | type | unit | labels | what it is | when it is bad, and what to do |
|---|---|---|---|---|---|
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for Metric { name, kind, unit, labels, help, advice } in CATALOGUE {
        let kind = format!("{kind:?}").to_lowercase();
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(page, "| `{name}` | {kind} | {} | {labels} | {help} | {advice} |", unit.as_str()).expect("a string");
    }
    page
}

/// All text files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("the folder can be listed").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The metrics that a text names; a histogram's series are the histogram.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words =
        text.split(|c: char| !is_of_name(c)).filter(|word| word.starts_with("outboxd_") && !word.ends_with('_'));
    let metric = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        histogram.filter(|name| CATALOGUE.iter().any(|metric| metric.name == *name)).unwrap_or(word).to_owned()
    };
    words.map(metric).collect()
}

#[test]
fn the_page_is_the_catalogue() {
    let path = root().join("docs/metrics.md");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(&path, page()).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).expect("the page is there: UPDATE_FIXTURES=1 writes it");
    assert_eq!(written, page(), "docs/metrics.md differs: UPDATE_FIXTURES=1 writes it anew");
}

#[test]
fn dashboards_rules_and_documents_name_metrics_that_there_are() {
    let known: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    let mut seen = 0;
    for path in files(&root().join("deploy")).into_iter().chain(files(&root().join("docs"))) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let named = named(&text);
        let unknown: Vec<&String> = named.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{} names {unknown:?}", path.display());
        seen += named.len();
    }
    assert!(seen >= CATALOGUE.len(), "documents were looked at");
}

#[test]
fn a_histograms_series_are_the_histogram() {
    let text = "rate(outboxd_fetch_seconds_bucket[5m]) / outboxd_settle_seconds_count, outboxd_leader";
    let names = ["outboxd_fetch_seconds", "outboxd_leader", "outboxd_settle_seconds"];
    assert_eq!(named(text), names.map(str::to_owned).into());
    assert_eq!(named("outboxd_nothing_count"), ["outboxd_nothing_count".to_owned()].into());
}
