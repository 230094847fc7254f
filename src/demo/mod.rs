//! The tour: an outbox in a SQLite file, a Kafka broker inside this process, a writer that commits orders and
//! rolls some back, the relay, and a consumer that checks what arrives.
//!
//! Nothing is pretended: the writer's transactions are real, the relay is a process of its own that does what
//! `outboxd run` does, and `--kill` kills it. What arrived is compared with the application's own table.

mod audit;
mod plan;
mod progress;
mod relay_part;
mod sabotage;
mod settings;
mod stage;
mod writer;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::demo::audit::Findings;
use crate::demo::progress::{Progress, REDRAW_INTERVAL, print};
use crate::demo::relay_part::RelayPart;
use crate::demo::stage::Stage;
use crate::observe::grouped;

pub use sabotage::Sabotage;
pub use settings::Settings;

/// How long nothing may arrive before what is still out counts as lost. Longer than a lease, and than any retry.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long the writer waits for its first message to arrive before it goes on all the same. A relay's first
/// question about a topic takes the in-process broker two seconds not to answer.
const WARM_UP: Duration = Duration::from_secs(4);

/// How long the consumer listens for stragglers after the relay has stopped.
const STRAGGLERS_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the demo. True if nothing was lost, reordered, or published although it was rolled back.
///
/// # Errors
/// When the demo itself cannot be set up.
pub async fn run(settings: Settings) -> anyhow::Result<bool> {
    let mut stage = Stage::set_up(&settings).await?;
    print(&stage.opening());
    match play(&mut stage, &settings).await {
        Ok(findings) if findings.kept() => {
            print(&closing(&findings));
            Ok(true)
        }
        Ok(findings) => {
            print(&closing(&findings));
            print(&stage.keep_for_a_look());
            Ok(false)
        }
        Err(error) => {
            print(&stage.keep_for_a_look());
            Err(error)
        }
    }
}

/// Plays from the first write to the verdict.
async fn play(stage: &mut Stage, settings: &Settings) -> anyhow::Result<Findings> {
    let mut progress = Progress::new();
    let mut relay = RelayPart::start(&stage.route())?;
    relay_all(stage, &mut relay, &mut progress, settings).await?;
    relay.stop().await?;
    // Whatever comes twice comes now.
    tokio::time::sleep(STRAGGLERS_TIMEOUT).await;
    stage.findings().await
}

/// Lets the writer write and the relay publish until all has arrived, or nothing arrives any more.
async fn relay_all(
    stage: &Stage,
    relay: &mut RelayPart,
    progress: &mut Progress,
    settings: &Settings,
) -> anyhow::Result<()> {
    let (warm, stop) = (CancellationToken::new(), CancellationToken::new());
    let writing = stage.write(settings.messages, warm.clone(), stop.clone()).await?;
    let mut to_be_killed = settings.kill;
    let mut ticks = interval(REDRAW_INTERVAL);
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for ctrl-c")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let (mut arrived, mut since) = (0, Instant::now());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupt.recv() => ask_to_stop(&stop)?,
            _ = terminate.recv() => ask_to_stop(&stop)?,
        }
        if let Some(status) = relay.ended().context("cannot watch the relay")? {
            bail!("the relay ended by itself: {status}");
        }
        let (written, received) = (stage.written(), stage.received());
        progress.show(written, received);
        if received > 0 || since.elapsed() > WARM_UP {
            warm.cancel();
        }
        if received > arrived {
            (arrived, since) = (received, Instant::now());
        }
        if to_be_killed && received >= settings.messages.unwrap_or(20_000) / 2 {
            to_be_killed = false;
            replace(stage, relay, progress)?;
            since = Instant::now();
        }
        if writing.is_finished() && (stage.received() >= stage.written() || since.elapsed() > DRAIN_PATIENCE) {
            break;
        }
    }
    progress.finish(stage.written(), stage.received());
    writing.await.context("the writer panicked")?
}

/// The first time the writer stops, and what it wrote still arrives; the second time the demo stops.
fn ask_to_stop(stop: &CancellationToken) -> anyhow::Result<()> {
    if stop.is_cancelled() {
        bail!("interrupted before everything had arrived");
    }
    stop.cancel();
    Ok(())
}

/// Kills the relay without warning, and starts another.
fn replace(stage: &Stage, relay: &mut RelayPart, progress: &mut Progress) -> anyhow::Result<()> {
    let killed = relay.pid();
    relay.kill().context("cannot kill the relay")?;
    *relay = RelayPart::start(&stage.route())?;
    progress.say(&format!(
        "  killed the relay (process {killed}) without warning; another (process {}) takes over when its lease has run out",
        relay.pid()
    ));
    Ok(())
}

fn closing(findings: &Findings) -> String {
    let lines = [
        ("committed", findings.committed),
        ("received", findings.received),
        ("lost", findings.lost),
        ("duplicates", findings.duplicates),
        ("order violations", findings.violations),
        ("rolled back, and received all the same", findings.uncommitted),
    ];
    let table: String = lines.iter().map(|(what, number)| format!("  {what:<40}{:>12}\n", grouped(*number))).collect();
    let verdict = match (findings.kept(), findings.duplicates) {
        (true, 0) => "Nothing was lost, nothing was reordered, nothing came twice.",
        (true, _) => {
            "Nothing was lost, nothing was reordered. The promise is at least once: what was published and not yet\nrecorded when the relay died came twice."
        }
        (false, _) => "The promise was broken.",
    };
    format!("\n{table}\n{verdict}\n")
}
