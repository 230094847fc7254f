//! `outboxd support-bundle`: what is sent to those who help.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admin::bundle::{self, Bundle};
use crate::admin::{audit_log, held, status};
use crate::backends;
use crate::cli;
use crate::commands::configured::{gather, judge};
use crate::commands::runtime::block_on;
use crate::config::{self, Config, Needs};
use crate::contract::{Database, StoreError};
use crate::outbox::HeldLane;

/// How long the relay's page may take to answer.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Changes of operators that are taken.
const CHANGES: u32 = 1_000;

/// Gathers everything that helps, and writes it.
pub(super) fn bundle(arguments: &cli::SupportBundle) -> anyhow::Result<ExitCode> {
    let raw = gather(&arguments.settings);
    let config = judge(&raw, Needs::Database)?;
    let mut bundle = Bundle::default();
    bundle.add::<io::Error>("version.txt", Ok(version()));
    bundle.add::<io::Error>("config.toml", Ok(config::show(&raw)));
    block_on(look(&mut bundle, &config))??;
    if let Some(log) = &arguments.log {
        bundle.add("log.txt", fs::read_to_string(log).map(|log| bundle::last_lines(&log)));
    }
    let at = Utc::now();
    let path = arguments.output.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("outboxd-support-{}.tar.gz", at.format("%Y%m%dT%H%M%SZ"))));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot make {}; name another with --output", path.display()))?;
    bundle.write(file, at).with_context(|| format!("cannot write {}", path.display()))?;
    for missing in bundle.missing() {
        eprintln!("outboxd: warning: left out {missing}");
    }
    println!("wrote {}; it holds no secret, no key and no payload", path.display());
    Ok(ExitCode::SUCCESS)
}

fn version() -> String {
    let [os, architecture] = [std::env::consts::OS, std::env::consts::ARCH];
    format!("outboxd {} on {os} {architecture}\n", env!("CARGO_PKG_VERSION"))
}

/// What the database and the relay on this machine tell.
async fn look(bundle: &mut Bundle, config: &Config) -> Result<(), StoreError> {
    let database = backends::database(&config.outbox.database)?;
    bundle.add("status.json", status::look(&*database).await.map(|report| report.to_json()));
    bundle.add("held.json", held_lanes(&*database).await);
    bundle.add("audit-log.json", database.audit_log(CHANGES).await.map(|entries| audit_log::to_json(&entries)));
    bundle.add("warnings.txt", database.preflight().await.map(|warnings| warnings.join("\n") + "\n"));
    if let Some(listen) = &config.http.listen {
        for (path, name) in [("/metrics", "metrics.txt"), ("/readyz", "readyz.txt"), ("/status", "page.json")] {
            bundle.add(name, page(listen, path).await);
        }
    }
    Ok(())
}

/// The held lanes without their keys.
async fn held_lanes(database: &dyn Database) -> Result<String, StoreError> {
    let without_key = |lane: &HeldLane| {
        let mut described: Value = held::described(lane);
        described["key"] = json!(lane.held.lane.key().map(|_| "…"));
        format!("{described}\n")
    };
    Ok(held::list(database, &held::LaneFilter::default()).await?.iter().map(without_key).collect())
}

/// What a relay on this machine answers, if one listens where it is configured to.
async fn page(listen: &str, path: &str) -> io::Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(listen).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {listen}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    };
    let late = |_| io::Error::other(format!("http://{listen}{path} did not answer within {PAGE_TIMEOUT:?}"));
    timeout(PAGE_TIMEOUT, asked).await.map_err(late)?
}
