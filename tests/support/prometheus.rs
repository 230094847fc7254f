//! A Prometheus of a test's own, with the rules of `deploy/prometheus`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chrono::Utc;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::daemon::{Running, free_port};
use crate::support::services::variable;
use crate::support::{scrape, wait};

/// How much of a failed test's log is shown.
const LOG_SHOWN: usize = 3_000;

/// A Prometheus that scrapes relays once a second, as the job `outboxd` in the namespace `shop`. It ends with this value.
pub(crate) struct Prometheus {
    child: Child,
    port: u16,
    folder: TempDir,
    /// When it was started, in seconds since 1970.
    since: i64,
}

impl Prometheus {
    /// Starts it over these relays and waits until it has scraped all of them.
    ///
    /// A minute of the rules is a second here: of how long an alert must hold, of what they look back at, and of how often
    /// they are evaluated. What they compare stays as it is.
    pub(crate) async fn start(relays: &[&Running]) -> Self {
        let folder = TempDir::new().expect("a temporary folder can be made");
        for file in ["alerts.yaml", "rules.yaml"] {
            let rules = fs::read_to_string(deployed("prometheus").join(file)).expect("the rules are there");
            fs::write(folder.path().join(file), hastened(&rules)).expect("the folder can be written to");
        }
        let targets: Vec<String> = relays.iter().map(|relay| format!("'{}'", relay.address())).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [alerts.yaml, rules.yaml]
scrape_configs:
  - job_name: outboxd
    static_configs:
      - targets: [{}]
        labels: {{ namespace: shop }}
",
            targets.join(", ")
        );
        fs::write(folder.path().join("prometheus.yml"), config).expect("the folder can be written to");
        let prometheus = Self::launch(folder);
        wait::until_true("Prometheus is ready", wait::PATIENCE, async || {
            scrape::get(prometheus.port, "/-/ready").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let all = relays.len();
        wait::until_true("every relay is scraped", wait::PATIENCE, async || {
            prometheus.ask("up == 1").await.len() == all
        })
        .await;
        prometheus
    }

    fn launch(folder: TempDir) -> Self {
        let port = free_port();
        let log = fs::File::create(folder.path().join("log")).expect("a file can be made");
        let mut command = program("prometheus");
        command.arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        Self { child: child.expect("Prometheus starts"), port, folder, since: now() }
    }

    /// The series that an expression gives now.
    pub(crate) async fn ask(&self, expression: &str) -> Vec<Value> {
        self.series(&format!("/api/v1/query?query={}", encoded(expression))).await
    }

    /// The series that an expression gave at any time since the start, where they were numbers.
    pub(crate) async fn ask_of_all_time(&self, expression: &str) -> Vec<Value> {
        let Self { since, .. } = self;
        let path = format!("/api/v1/query_range?query={}&start={since}&end={}&step=1", encoded(expression), now());
        let mut series = self.series(&path).await;
        let is_number = |sample: &Value| sample[1] != "NaN";
        series.retain(|series| series["values"].as_array().is_some_and(|samples| samples.iter().any(is_number)));
        series
    }

    /// Whether an alert fires for an outbox.
    pub(crate) async fn fires(&self, alert: &str, outbox: &str) -> bool {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", outbox=\"{outbox}\"}}");
        !self.ask(&firing).await.is_empty()
    }

    /// What went wrong with its rules, by their names.
    pub(crate) async fn broken_rules(&self) -> Vec<String> {
        let groups = self.data("/api/v1/rules").await["groups"].take();
        let rules =
            groups.as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let broken = rules.filter(|rule| rule["health"] != "ok");
        broken.map(|rule| format!("{}: {} ({})", rule["name"], rule["lastError"], rule["health"])).collect()
    }

    async fn series(&self, path: &str) -> Vec<Value> {
        match self.data(path).await["result"].take() {
            Value::Array(series) => series,
            other => panic!("{path}: {other}"),
        }
    }

    async fn data(&self, path: &str) -> Value {
        let answer = scrape::get(self.port, path).await.expect("Prometheus answers");
        let mut answer: Value = serde_json::from_str(&answer.body).expect("it answers in JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].take()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let cut = log.len().saturating_sub(LOG_SHOWN);
            let cut = (cut..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(cut);
            eprintln!("--- log of Prometheus ---\n{}--- end of log ---", &log[cut..]);
        }
    }
}

/// One of the programs of Debian's package.
pub(crate) fn program(name: &str) -> Command {
    Command::new(Path::new(&variable("OUTBOXD_TEST_PROMETHEUS_BIN")).join(name))
}

/// Where something is deployed from.
pub(crate) fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

/// Rules in which every duration is a sixtieth of what it was.
fn hastened(rules: &str) -> String {
    let line = |line: &str| {
        let is_duration = ["for: '", "interval: '"].iter().any(|field| line.trim_start().starts_with(field));
        let (open, close) = if is_duration { ('\'', '\'') } else { ('[', ']') };
        hastened_between(line, open, close)
    };
    rules.lines().map(|text| line(text) + "\n").collect()
}

/// The same of the durations between two characters.
fn hastened_between(line: &str, open: char, close: char) -> String {
    let Some((before, rest)) = line.split_once(open) else { return line.to_owned() };
    let Some((inside, after)) = rest.split_once(close) else { return line.to_owned() };
    format!("{before}{open}{}{close}{}", shorter(inside), hastened_between(after, open, close))
}

/// A sixtieth of a duration of whole minutes, hours or days; other words as they are.
fn shorter(word: &str) -> String {
    let split = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    match word.split_at(split) {
        ("", _) => word.to_owned(),
        (number, "m") => format!("{number}s"),
        (number, "h") => format!("{number}m"),
        (number, "d") => format!("{}m", 24 * number.parse::<u64>().expect("digits")),
        _ => word.to_owned(),
    }
}

/// A text as a part of a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The wall clock, in seconds since 1970.
fn now() -> i64 {
    Utc::now().timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_sixtieth_and_all_else_stays() {
        let rules = "  interval: '1m'\n  for: '15m'\n  expr: |\n    a[5m] / 5 > min_over_time(b_5m[1d]) and c{x=\"5m\"}[2h]\n  summary: 'for 5m'\n";
        let hastened = hastened(rules);
        assert_eq!(
            hastened,
            "  interval: '1s'\n  for: '15s'\n  expr: |\n    a[5s] / 5 > min_over_time(b_5m[24m]) and c{x=\"5m\"}[2m]\n  summary: 'for 5m'\n"
        );
    }

    #[test]
    fn an_expression_becomes_a_part_of_a_url() {
        assert_eq!(encoded("a{b=~\"c+\"}"), "a%7Bb%3D%7E%22c%2B%22%7D");
    }
}
