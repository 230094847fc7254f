//! `outboxd bench`: will it hold my load here?
//!
//! On the user's own database and brokers, with the user's own settings, but on an outbox and a topic of its own, which
//! are removed afterwards. First each stage alone, so that it is known which one limits; then the relay as a whole, with
//! a backlog and at a steady rate; and where a setting may help the stage that limits, that is tried, too.

mod latency;
mod load;
mod report;
mod say;
mod scratch_outbox;
mod settings;
mod stages;

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backends;
use crate::bench::load::Load;
use crate::bench::say::say;
use crate::bench::scratch_outbox::ScratchOutbox;
use crate::config::Config;
use crate::relay::{Ended, Error, Relay, Status};

pub use report::Report;
pub use settings::Settings;

/// How long a relay may make no progress before it counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Measures, and removes what it made; also when `interrupted` ends first.
///
/// # Errors
/// When the database or the brokers do not allow it or go away, or when what was made cannot be removed.
pub async fn run(config: Config, settings: Settings, interrupted: impl Future) -> anyhow::Result<Report> {
    let place = ScratchOutbox::make(config, &settings).await?;
    let measured = tokio::select! {
        measured = measure(&place, &settings) => measured,
        _ = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    place.remove().await?;
    measured
}

async fn measure(place: &ScratchOutbox, settings: &Settings) -> anyhow::Result<Report> {
    let load = Load::new(place.topic(), settings);
    let stages = stages::measure(place, &load).await?;
    load.refill(place).await?;
    say("relaying the backlog");
    let relay = Relaying::start(place)?;
    let together = relay.drain(settings.rows).await?;
    say("relaying at a steady rate");
    let latency = latency::measure(place, &load, settings).await?;
    relay.stop().await?;
    let (delivery, settle) = (place.config().relay.delivery, place.config().outbox.database.settle);
    Ok(Report { delivery, settle, settings: settings.clone(), stages, together, latency })
}

/// A relay at work.
struct Relaying {
    status: tokio::sync::watch::Receiver<Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<Ended, Error>>,
}

impl Relaying {
    fn start(place: &ScratchOutbox) -> anyhow::Result<Self> {
        let config = place.config();
        let sink = backends::sink(config, place.source("relay"))?;
        let relay = Relay::new(place.store()?, sink, config.relay.clone());
        let (status, stop) = (relay.status(), CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        Ok(Self { status, stop, task })
    }

    /// Waits until so many rows are published and settled. Returns how many a second, from when the first were read.
    async fn drain(&self, rows: u64) -> anyhow::Result<f64> {
        let (mut began, mut last) = (None, (0, Instant::now()));
        loop {
            let (published, in_flight) = {
                let status = self.status.borrow();
                (status.published, status.in_flight)
            };
            if self.task.is_finished() {
                bail!("the relay ended by itself; `outboxd run` says why");
            }
            if began.is_none() && in_flight + published as usize > 0 {
                began = Some(Instant::now());
            }
            match began {
                Some(began) if published >= rows => return Ok(rows as f64 / began.elapsed().as_secs_f64()),
                _ if published != last.0 => last = (published, Instant::now()),
                _ if last.1.elapsed() > STUCK_AFTER => bail!("the relay is stuck at {published} of {rows} rows"),
                _ => {}
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        timeout(STUCK_AFTER, self.task).await.context("the relay does not stop")?.context("the relay panicked")??;
        Ok(())
    }
}
