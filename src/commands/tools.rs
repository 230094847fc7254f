//! Auditing, measuring, the configuration, the demo.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::backends;
use crate::bench;
use crate::cli::{self, Show};
use crate::commands::configured::{gather, judge};
use crate::commands::run::exit_code;
use crate::commands::runtime::block_on;
use crate::config::raw::{Flag, Raw, Sources};
use crate::config::{self, Needs};
use crate::daemon::{self, Shutdown};
use crate::demo::{self, Sabotage};
use crate::kafka::IsolationLevel;
use crate::observe::logging;
use crate::verify;

pub(super) fn audit(arguments: cli::Verify) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    let isolation = match arguments.isolation.as_str() {
        "read_uncommitted" => IsolationLevel::ReadUncommitted,
        _ => IsolationLevel::ReadCommitted,
    };
    let report = block_on(async {
        let database = backends::database(&config.outbox.database)?;
        let source = match config.outbox.source {
            Some(source) => source,
            None => database.source().await?,
        };
        let settings = verify::Settings {
            properties: config.kafka.properties,
            source,
            topics: arguments.topic,
            since: arguments.since,
            isolation,
            settle: config.outbox.database.settle,
            retention: config.outbox.retention,
        };
        verify::run(database.audit(settings.since).await?, settings).await
    })??;
    print!("{}", if arguments.json { report.to_json(arguments.no_duplicates) } else { report.to_text() });
    Ok(if report.is_kept(arguments.no_duplicates) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

pub(super) fn measure(arguments: cli::Bench) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    let cli::Bench { rows, payload_bytes, keys, partitions, replication, rate, seconds, json, settings: _ } = arguments;
    let settings = bench::Settings {
        rows,
        payload_bytes: payload_bytes as usize,
        keys,
        partitions,
        replication: replication.unwrap_or(-1),
        rate,
        lasting: Duration::from_secs(seconds),
    };
    let report = block_on(async {
        let interrupted = Shutdown::on_signals()?.soft;
        bench::run(config, settings, interrupted.cancelled()).await
    })??;
    print!("{}", if json { report.to_json() } else { report.to_text() });
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

pub(super) fn show_config(show: &Show) -> anyhow::Result<ExitCode> {
    let raw = gather(&show.settings);
    if !show.check {
        print!("{}", config::show(&raw));
    }
    judge(&raw, Needs::Everything)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn demonstrate(arguments: cli::Demo) -> anyhow::Result<ExitCode> {
    let sabotage = arguments.sabotage.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
    if let Some([url, brokers]) = arguments.relay_part.as_deref() {
        return relay_part(url, brokers, arguments.http.unwrap_or_default(), sabotage);
    }
    let messages = (!arguments.keep_running).then_some(arguments.messages);
    let (seed, kill, http) = (arguments.seed, arguments.kill, arguments.http);
    let kept = block_on(demo::run(demo::Settings { messages, seed, kill, http, sabotage }))??;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Prints what was made of the command line's description.
pub(super) fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    io::stdout().write_all(text).context("the output is closed")?;
    Ok(ExitCode::SUCCESS)
}

/// The exit code of what failed.
const FAILED: u8 = 1;

/// What `outboxd run` does, for the demo: its settings alone, and until its standard input ends.
fn relay_part(url: &str, brokers: &str, http: String, sabotage: Option<Sabotage>) -> anyhow::Result<ExitCode> {
    let settings =
        [("database.url", url.to_owned()), ("kafka.bootstrap.servers", brokers.to_owned()), ("http.listen", http)];
    let flags = settings.map(|(key, value)| Flag { name: "--relay-part", key: key.to_owned(), value });
    let config = judge(&Raw::gather(&Sources { flags: flags.into(), ..Sources::default() }), Needs::Everything)?;
    let _never_switched = logging::start(&config.log);
    let spoil = |sink| match sabotage {
        Some(how) => how.sabotage(sink),
        None => sink,
    };
    let ended = block_on(daemon::run_through(config, Shutdown::on_end_of_input(), spoil))??;
    Ok(exit_code(ended))
}
