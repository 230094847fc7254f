//! What operators look at and change.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::admin::change::{Change, Decision};
use crate::admin::{audit_log, held, status};
use crate::cli;
use crate::commands::configured::database;
use crate::commands::runtime::block_on;
use crate::contract::{Database, Store};
use crate::observe::grouped;
use crate::outbox::Lane;

/// The exit code of what failed.
const FAILED: u8 = 1;

/// How often `outboxd status --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Says how an outbox stands.
pub(super) fn status(arguments: &cli::Status) -> anyhow::Result<ExitCode> {
    let database = database(&arguments.settings)?;
    if arguments.watch {
        match block_on(watch(&*database))?? {}
    }
    let report = block_on(status::look(&*database))??;
    print!("{}", if arguments.json { report.to_json() } else { report.to_text() });
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Shows how an outbox stands again and again.
async fn watch(database: &dyn Store) -> anyhow::Result<Infallible> {
    // A terminal shows the latest alone.
    let clear = if std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    loop {
        print!("{clear}{}", status::look(database).await?.to_text());
        std::io::stdout().flush().context("the output is closed")?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Lists held lanes, or asks for their release.
pub(super) fn held(command: cli::Held) -> anyhow::Result<ExitCode> {
    let meant = |cli::LaneFilter { topic, key, partition }| held::LaneFilter { topic, key, partition };
    match command {
        cli::Held::Ls { json, which, settings } => {
            let database = database(&settings)?;
            let lanes = block_on(held::list(&*database, &meant(which)))??;
            print!("{}", if json { held::to_json(&lanes) } else { held::to_text(&lanes) });
        }
        cli::Held::Release { all: _, which, change, settings } => {
            release(&*database(&settings)?, &meant(which), &change.into())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn release(database: &dyn Database, which: &held::LaneFilter, change: &Change) -> anyhow::Result<()> {
    let lanes = block_on(held::list(database, which))??;
    let lanes: Vec<Lane> = lanes.into_iter().map(|lane| lane.held.lane).collect();
    if lanes.is_empty() {
        anyhow::bail!("nothing of that is held; `outboxd held ls` lists what is");
    }
    if change.decide(&format!("release {}", lanes_of(lanes.len())))? == Decision::Make {
        let asked = block_on(database.request_release(&lanes, &change.intent("held release", which)))??;
        println!("asked for the release of {}; the leader grants it within a second", lanes_of(asked as usize));
    }
    Ok(())
}

fn lanes_of(number: usize) -> String {
    if number == 1 { "1 lane".to_owned() } else { format!("{} lanes", grouped(number as u64)) }
}

/// Lists what operators changed.
pub(super) fn audit_log(arguments: &cli::AuditLog) -> anyhow::Result<ExitCode> {
    let database = database(&arguments.settings)?;
    let entries = block_on(database.audit_log(arguments.limit))??;
    print!("{}", if arguments.json { audit_log::to_json(&entries) } else { audit_log::to_text(&entries) });
    Ok(ExitCode::SUCCESS)
}
