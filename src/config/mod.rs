//! The configuration: first as written ([`raw`]), then as meant ([`Config`]).
//!
//! Layers, later ones win: the embedded defaults (`deploy/outboxd.toml`), a file, the environment, flags. All
//! complaints come at once, each naming the setting, where its value came from, and what would do. Secrets are
//! in [`Secret`]s or in properties that only `show` and the broker's client read; none is ever printed.

mod certificates;
pub mod complaint;
mod document;
mod environment;
mod judge;
mod nearest;
pub mod raw;
pub mod secrets;
mod show;
mod values;
pub mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::canary;
use crate::config::complaint::Complaints;
use crate::config::judge::Judge;
use crate::config::raw::{Flag, Raw, Sources};
use crate::contract::DatabaseSettings;
use crate::kafka::{self, OnMissingTopic, ProgressTopic};
use crate::observe::logging;
#[cfg(feature = "otel")]
use crate::otel::check_endpoint;
use crate::outbox::{DeadLetterTopic, Delivery, Limit, RejectPolicy, Settle, TopicPattern, is_topic_name};
use crate::relay;
use crate::secret::Secret;

pub use certificates::NamedCertificates;
pub use show::show;

const BROKERS_KEY: &str = "bootstrap.servers";
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Below this, an ordinary hiccup of the database would end a leadership.
const SHORTEST_LEASE: Duration = Duration::from_millis(250);
/// A token of fewer characters can be guessed.
const SHORTEST_TOKEN: usize = 16;
/// Rows of a canary that come faster load what they measure.
const SHORTEST_CANARY_INTERVAL: Duration = Duration::from_millis(100);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a command cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A database and brokers.
    Everything,
    /// A database.
    Database,
    /// Nothing: what is not given stays empty.
    Nothing,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database and the outbox in it.
    pub outbox: Outbox,
    /// The brokers, and how records get there.
    pub kafka: Kafka,
    /// How the relay works.
    pub relay: relay::Settings,
    /// The canary, where one is wanted.
    pub canary: Option<canary::Settings>,
    /// The operator's page.
    pub http: Http,
    /// Traces of what is published.
    pub otel: Otel,
    /// How and what is logged.
    pub log: logging::Settings,
}

/// Traces of what is published.
#[derive(Debug, Clone)]
pub struct Otel {
    /// Where the collector is; empty: where OpenTelemetry's own variables say, if they do.
    pub endpoint: String,
}

/// What is served over HTTP.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where, `HOST:PORT`; `None`: nowhere.
    pub listen: Option<String>,
    /// What readers of the API must know; `None`: nothing.
    pub read_token: Option<Secret>,
    /// What those must know who change something; `None`: nobody may.
    pub admin_token: Option<Secret>,
    /// What those must know who are shown payloads; `None`: nobody is.
    pub payload_token: Option<Secret>,
}

/// Which outbox, and how it is read and written.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// Where it is, and how it is used.
    pub database: DatabaseSettings,
    /// What the header `outbox-source` says; `None`: what the store calls itself.
    pub source: Option<String>,
    /// To which topics it may write.
    pub topics: Vec<TopicPattern>,
    /// How long published rows are kept.
    pub retention: Duration,
}

/// The brokers, and how records get there.
#[derive(Clone)]
pub struct Kafka {
    /// Properties of librdkafka, as given; secrets among them.
    pub properties: BTreeMap<String, String>,
    /// What happens when a topic does not exist.
    pub on_missing_topic: OnMissingTopic,
    /// How long the oldest unacknowledged records may be under way before no more are handed to the client.
    pub oldest: Duration,
    /// Where the progress is remembered with exactly-once delivery.
    pub progress_topic: ProgressTopic,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Kafka")
            .field("properties", &names)
            .field("on_missing_topic", &self.on_missing_topic)
            .field("oldest", &self.oldest)
            .field("progress_topic", &self.progress_topic)
            .finish()
    }
}

impl Kafka {
    /// Whether a topic that does not exist is created by the relay.
    pub fn creates_topics(&self) -> bool {
        matches!(self.on_missing_topic, OnMissingTopic::Create { .. })
    }
}

/// Gathers the layers: this file and these flags, and the process's environment.
pub fn gather(file: Option<PathBuf>, flags: Vec<Flag>) -> Raw {
    let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("OUTBOXD_");
    let environment = std::env::vars_os()
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    Raw::gather(&Sources { file, environment, flags })
}

impl Config {
    /// Decides what the layers mean.
    ///
    /// # Errors
    /// Everything that is wrong with them, all at once.
    pub fn judge(raw: &Raw, needs: Needs) -> Result<Self, Complaints> {
        let mut judge = Judge::new(raw);
        let (mut outbox, kafka) = (outbox(&mut judge, needs), brokers(&mut judge, raw, needs));
        let relay = relay(&mut judge);
        let canary = canary(&mut judge, &outbox, &relay);
        outbox.database.inserts = canary.is_some();
        let (http, otel, log) = (http(&mut judge), otel(&mut judge), log(&mut judge));
        let config = Self { outbox, kafka, relay, canary, http, otel, log };
        judge.verdict(config)
    }
}

fn outbox(judge: &mut Judge<'_>, needs: Needs) -> Outbox {
    let url = judge.secret("database.url");
    if url.is_empty() && needs != Needs::Nothing {
        judge.missing("database.url", "give --database-url URL, OUTBOXD_DATABASE__URL or database.url_file");
    }
    let source = judge.text("outbox.source");
    Outbox {
        database: DatabaseSettings {
            url: Secret::new(url),
            table: judge.parsed("outbox.table").unwrap_or_default(),
            settle: judge.parsed("outbox.settle").unwrap_or_default(),
            notify: judge.parsed("outbox.notify").unwrap_or_default(),
            prepared_transactions: judge.parsed("outbox.prepared_transactions").unwrap_or_default(),
            inserts: false,
        },
        source: (!source.is_empty()).then_some(source),
        topics: judge.list("outbox.topics", "use [\"*\"] for every topic"),
        retention: judge.duration("outbox.retention", SECOND..=CENTURY),
    }
}

fn brokers(judge: &mut Judge<'_>, raw: &Raw, needs: Needs) -> Kafka {
    let mut properties = BTreeMap::new();
    for key in raw.values().keys().filter(|key| key.starts_with("kafka.")) {
        let key = secrets::of_file(key).unwrap_or(key);
        let property = key.strip_prefix("kafka.").expect("filtered above");
        let value = match raw.get(key) {
            _ if secrets::is_secret(key) => judge.secret(key),
            Some(written) => written.value.text.clone(),
            None => String::new(),
        };
        properties.insert(property.to_owned(), value);
    }
    properties.retain(|property, value| property != BROKERS_KEY || !value.is_empty());
    if !properties.contains_key(BROKERS_KEY) && needs == Needs::Everything {
        judge.missing("kafka.bootstrap.servers", "give --brokers HOST:PORT or OUTBOXD_KAFKA__BOOTSTRAP_SERVERS");
    }
    for complaint in kafka::check_properties(&properties) {
        if complaint.key != BROKERS_KEY {
            judge.complain(&format!("kafka.{}", complaint.key), complaint.problem);
        }
    }
    let partitions = count_or_default(judge, "relay.create.partitions");
    let replication = count_or_default(judge, "relay.create.replication");
    let words = vec![("wait", OnMissingTopic::Wait), ("create", OnMissingTopic::Create { partitions, replication })];
    let on_missing_topic = judge.word("relay.on_missing_topic", words).unwrap_or_default();
    let name = judge.text("relay.progress_topic");
    if !is_topic_name(&name) {
        judge.complain(
            "relay.progress_topic",
            format!("{name:?} cannot name a topic; use letters, digits, '.', '_' and '-'"),
        );
    }
    let oldest = judge.duration("relay.in_flight.age", MILLISECOND..=HOUR);
    Kafka { properties, on_missing_topic, oldest, progress_topic: ProgressTopic { name, replication } }
}

fn relay(judge: &mut Judge<'_>) -> relay::Settings {
    let delivery = judge.parsed("relay.delivery").unwrap_or_default();
    let (on_reject, dead_letter_topic) = (on_reject(judge), dead_letter_topic(judge));
    let batch = limit(judge, "relay.batch");
    let in_flight = limit(judge, "relay.in_flight");
    let units = [("records", batch.records, in_flight.records), ("bytes", batch.bytes, in_flight.bytes)];
    for (unit, batch, in_flight) in units {
        if in_flight < batch {
            judge.complain(
                &format!("relay.in_flight.{unit}"),
                format!("is less than relay.batch.{unit}; raise it to at least that"),
            );
        }
    }
    // The rows of one read must fit into one record of the progress, named one by one.
    if delivery == Delivery::ExactlyOnce && batch.records > 10_000 {
        judge.complain("relay.batch.records", "is more than 10000, the most with exactly-once delivery; lower it");
    }
    relay::Settings {
        holder: holder(),
        lease_ttl: judge.duration("lease.ttl", SHORTEST_LEASE..=HOUR),
        batch,
        in_flight,
        record_bytes: judge.size("relay.record.bytes", 4096),
        record_position: record_position(judge),
        delivery,
        transaction: limit(judge, "relay.transaction"),
        drain_deadline: judge.duration("relay.shutdown.deadline", Duration::ZERO..=HOUR),
        checkpoint_interval: judge.duration("relay.checkpoint.interval", 10 * MILLISECOND..=HOUR),
        on_reject,
        dead_letter_topic,
        ..relay::Settings::default()
    }
}

fn record_position(judge: &mut Judge<'_>) -> bool {
    const KEY: &str = "outbox.record_position";
    let records = judge.switch(KEY);
    if records && judge.text("outbox.settle") != Settle::Mark.as_str() {
        judge.complain(KEY, "needs outbox.settle = \"mark\": rows that are deleted or not touched tell nothing");
    }
    records
}

fn on_reject(judge: &mut Judge<'_>) -> RejectPolicy {
    let otherwise = judge.parsed("relay.on_reject").unwrap_or_default();
    let mut rules = Vec::new();
    for number in judge.rules() {
        let [topic, policy] = ["topic", "on_reject"].map(|name| format!("{}.{number}.{name}", raw::RULES));
        let would_do = "each [[relay.reject]] names a topic and says on_reject";
        if let (Some(pattern), Some(policy)) = (judge.needed(&topic, would_do), judge.needed(&policy, would_do)) {
            rules.push((pattern, policy));
        }
    }
    RejectPolicy { otherwise, rules }
}

fn dead_letter_topic(judge: &mut Judge<'_>) -> Option<DeadLetterTopic> {
    const KEY: &str = "dead_letter.topic";
    let name = judge.text(KEY);
    if name.is_empty() {
        return None;
    }
    if name == judge.text("relay.progress_topic") {
        judge.complain(KEY, "is relay.progress_topic, to which the relay alone may write; use another topic");
    }
    judge.parsed(KEY)
}

fn limit(judge: &mut Judge<'_>, key: &str) -> Limit {
    Limit {
        records: usize::try_from(judge.count(&format!("{key}.records"), 1..=1_000_000)).unwrap_or(1),
        bytes: judge.size(&format!("{key}.bytes"), 4096),
    }
}

fn canary(judge: &mut Judge<'_>, outbox: &Outbox, relay: &relay::Settings) -> Option<canary::Settings> {
    const EVERY: &str = "canary.every";
    const TOPIC: &str = "canary.topic";
    const LOST_AFTER: &str = "canary.lost_after";
    let every = judge.duration(EVERY, Duration::ZERO..=24 * HOUR);
    let lost_after = judge.duration(LOST_AFTER, SECOND..=24 * HOUR);
    let topic = judge.text(TOPIC);
    if !is_topic_name(&topic) {
        judge.complain(TOPIC, format!("{topic:?} cannot name a topic; use letters, digits, '.', '_' and '-'"));
    }
    if every.is_zero() {
        return None;
    }
    if every < SHORTEST_CANARY_INTERVAL {
        judge.complain(
            EVERY,
            "is less than 100ms, so that it would load what it measures; use more, or \"0s\" for none",
        );
    } else if lost_after > every * canary::MOST_AWAITED {
        let most = canary::MOST_AWAITED;
        judge.complain(
            LOST_AFTER,
            format!("is more than {most} times canary.every; lower it, or let rows come less often"),
        );
    }
    if lost_after < relay.lease_ttl {
        judge.complain(LOST_AFTER, "is less than lease.ttl: each takeover would count as a loss; raise it above that");
    }
    if topic == judge.text("relay.progress_topic") || topic.starts_with("__") {
        judge.complain(TOPIC, "is no topic for rows: it is relay.progress_topic, or one of Kafka's own; use another");
    } else if !outbox.topics.iter().any(|allowed| allowed.matches(&topic)) {
        judge.complain(TOPIC, format!("is {topic:?}, which outbox.topics does not allow; add it there"));
    }
    Some(canary::Settings { every, topic, lost_after, sender: relay.holder.clone() })
}

fn http(judge: &mut Judge<'_>) -> Http {
    const PAYLOAD_TOKEN: &str = "http.payload_token";
    let listen = Some(judge.text("http.listen")).filter(|listen| !listen.is_empty());
    if let Some(Err(problem)) = listen.as_deref().map(values::address) {
        judge.complain("http.listen", problem);
    }
    let (read_token, admin_token) = (token(judge, "http.read_token"), token(judge, "http.admin_token"));
    let payload_token = token(judge, PAYLOAD_TOKEN);
    for (other, key) in [(&read_token, "http.read_token"), (&admin_token, "http.admin_token")] {
        let is_same = |own: &Secret| other.as_ref().is_some_and(|other| other.expose() == own.expose());
        if payload_token.as_ref().is_some_and(is_same) {
            judge.complain(PAYLOAD_TOKEN, format!("is that of {key}; payloads need a token of their own"));
        }
    }
    Http { listen, read_token, admin_token, payload_token }
}

fn token(judge: &mut Judge<'_>, key: &str) -> Option<Secret> {
    let token = judge.secret(key);
    if !token.is_empty() && token.len() < SHORTEST_TOKEN {
        judge.complain(
            key,
            format!(
                "is shorter than {SHORTEST_TOKEN} characters, and can be guessed; `openssl rand -hex 32` makes one"
            ),
        );
    }
    (!token.is_empty()).then(|| Secret::new(token))
}

fn otel(judge: &mut Judge<'_>) -> Otel {
    const KEY: &str = "otel.endpoint";
    let endpoint = judge.text(KEY);
    if !endpoint.is_empty()
        && let Err(problem) = check_endpoint(&endpoint)
    {
        judge.complain(KEY, problem);
    }
    Otel { endpoint }
}

#[cfg(not(feature = "otel"))]
fn check_endpoint(_endpoint: &str) -> Result<(), String> {
    Err("this outboxd is built without traces; leave it empty, or build it with the feature otel".to_owned())
}

fn log(judge: &mut Judge<'_>) -> logging::Settings {
    let formats = logging::Format::ALL.map(|format| (format.as_str(), format));
    let format = judge.word("log.format", formats.into()).unwrap_or_default();
    let level = judge.text("log.level");
    if let Err(problem) = logging::check_level(&level) {
        judge.complain("log.level", problem);
    }
    logging::Settings { format, level }
}

/// What this process is called in the lease: host and process id.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let host = host.map_or_else(|_| "unknown-host".to_owned(), |host| host.trim().to_owned());
    format!("{host}/{}", std::process::id())
}

/// A positive number, or -1 for what the broker gives by default.
fn count_or_default(judge: &mut Judge<'_>, key: &str) -> i32 {
    let count = judge.count(key, -1..=100_000);
    if count == 0 {
        judge.complain(key, "0 is out of bounds; use a positive number, or -1 for the broker's default");
    }
    i32::try_from(count).unwrap_or(-1)
}

#[cfg(test)]
mod fuzz;
