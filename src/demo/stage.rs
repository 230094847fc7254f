//! What the demo plays on: a folder, the shop's database, the broker, the consumer, and the audit.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::demo::audit::{Audit, Change, Findings};
use crate::demo::plan::Plan;
use crate::demo::relay_part::Route;
use crate::demo::sabotage::Sabotage;
use crate::demo::settings::Settings;
use crate::demo::writer;
use crate::kafka::{Broker, Consumer, IsolationLevel};
use crate::observe::chain;
use crate::outbox::Table;
use crate::sqlite;
use crate::sqlite::shop::Shop;

const TOPIC: &str = "shop.order.changed";
const BROKERS: &str = "bootstrap.servers";
const PARTITIONS: i32 = 6;

/// Where the operator's page is by default.
const HTTP_ADDRESS: &str = "127.0.0.1:9187";

/// How long one look for a record may take; a consumer that is told to stop does so as late as this.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// How much of the relay's log is shown when something went wrong, in lines.
const LAST_WORDS: usize = 20;

/// What the demo plays on. The folder goes with it, unless it is worth a look.
pub(crate) struct Stage {
    folder: PathBuf,
    keep_folder: bool,
    url: String,
    broker: Broker,
    http: String,
    seed: u64,
    sabotage: Option<Sabotage>,
    written: Arc<AtomicU64>,
    audit: Arc<Mutex<Audit>>,
    consuming: CancellationToken,
}

impl Stage {
    /// Makes the folder, the tables and the topic, and begins to consume.
    pub(crate) async fn set_up(settings: &Settings) -> anyhow::Result<Self> {
        let seed = settings.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 % 1_000_000);
        let folder = std::env::temp_dir().join(format!("outboxd-demo-{}", std::process::id()));
        let http = operators_page(settings.http.as_deref())?;
        let broker = Broker::start(1).context("cannot start a broker in this process")?;
        broker.create_topic(TOPIC, PARTITIONS).context("cannot create the topic")?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let stage = Self {
            url: format!("sqlite:{}", folder.join("shop.db").display()),
            folder,
            keep_folder: false,
            broker,
            http,
            seed,
            sabotage: settings.sabotage,
            written: Arc::default(),
            audit: Arc::new(Mutex::new(Audit::new(Plan::new(seed)))),
            consuming: CancellationToken::new(),
        };
        sqlite::migrate(&stage.url, &Table::default()).await.context("cannot make the outbox")?;
        stage.consume().await?;
        Ok(stage)
    }

    /// What is said at the beginning.
    pub(crate) fn opening(&self) -> String {
        let page = if self.http.is_empty() { "none".to_owned() } else { format!("http://{}/metrics", self.http) };
        let lines = [
            ("outbox", self.url.clone()),
            ("broker", format!("{} (librdkafka's, in this process)", self.broker.bootstrap_servers())),
            ("topic", format!("{TOPIC}, {PARTITIONS} partitions")),
            ("metrics", page),
            ("seed", self.seed.to_string()),
        ];
        let table: String = lines.iter().map(|(what, value)| format!("  {what:<9}{value}\n")).collect();
        format!(
            "An application with an outbox in SQLite, a relay, a Kafka broker, and a consumer that checks.\n\n{table}\n"
        )
    }

    /// What the relay relays.
    pub(crate) fn route(&self) -> Route<'_> {
        Route {
            url: &self.url,
            brokers: self.broker.bootstrap_servers(),
            http: &self.http,
            log: self.folder.join("relay.log"),
            sabotage: self.sabotage,
        }
    }

    /// Begins to write: so many messages, or until told to stop; at full pace once the relay is warm.
    pub(crate) async fn write(
        &self,
        messages: Option<u64>,
        warm: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let shop = self.shop().await?;
        let (plan, written) = (Plan::new(self.seed), Arc::clone(&self.written));
        Ok(tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                done = writer::write(shop, plan, TOPIC, messages.unwrap_or(u64::MAX), &written, warm) => done,
            }
        }))
    }

    /// How many messages were committed.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// How many different messages have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.audit().received()
    }

    /// Compares what arrived with what the shop's own table says.
    pub(crate) async fn findings(&mut self) -> anyhow::Result<Findings> {
        let committed = self.shop().await?.versions().await.context("cannot read the shop's table")?;
        let findings = self.audit().findings(&committed);
        Ok(findings)
    }

    /// Leaves the folder for a look, and says where it is and what the relay said last.
    pub(crate) fn keep_for_a_look(&mut self) -> String {
        self.keep_folder = true;
        let log = fs::read_to_string(self.folder.join("relay.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
        format!("\nThe database and the relay's log are left in {}. The log ends:\n{last}\n", self.folder.display())
    }

    async fn shop(&self) -> anyhow::Result<Shop> {
        Shop::open(&self.folder.join("shop.db")).await.context("cannot open the shop's database")
    }

    fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock()
    }

    async fn consume(&self) -> anyhow::Result<()> {
        let properties = BTreeMap::from([(BROKERS.to_owned(), self.broker.bootstrap_servers().to_owned())]);
        let (audit, stop) = (Arc::clone(&self.audit), self.consuming.clone());
        let opening = move || Consumer::open(&properties, TOPIC, IsolationLevel::ReadCommitted);
        let opened = tokio::task::spawn_blocking(opening).await.context("opening the consumer panicked")?;
        let mut consumer = opened.context("cannot consume")?;
        tokio::task::spawn_blocking(move || {
            while !stop.is_cancelled() {
                match consumer.next(POLL_TIMEOUT) {
                    Ok(Some(record)) => note(&audit, record.payload.as_deref()),
                    Ok(None) => {}
                    Err(error) => return tracing::error!(error = %chain(&error), "the consumer cannot go on"),
                }
            }
        });
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.consuming.cancel();
        if !self.keep_folder {
            let _left_for_the_system_to_clear = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Takes note of an arrival. Only the writer writes to the topic, so that whatever cannot be read is the
/// relay's fault, and counts as something that was never committed.
fn note(audit: &Mutex<Audit>, payload: Option<&[u8]>) {
    let change: Option<Change> = payload.and_then(|payload| serde_json::from_slice(payload).ok());
    let mut audit = audit.lock();
    match change {
        Some(change) => audit.arrived(change),
        None => audit.arrived_unreadable(),
    }
}

/// The address of the operator's page: as asked for, or the usual one, or a free one where that is taken.
fn operators_page(asked: Option<&str>) -> anyhow::Result<String> {
    match asked {
        Some("") => Ok(String::new()),
        Some(address) => {
            TcpListener::bind(address).with_context(|| format!("cannot listen on {address}; give a free --http"))?;
            Ok(address.to_owned())
        }
        None => {
            let listener = TcpListener::bind(HTTP_ADDRESS).or_else(|_| TcpListener::bind("127.0.0.1:0"));
            Ok(listener.context("cannot listen on the loopback interface")?.local_addr()?.to_string())
        }
    }
}
