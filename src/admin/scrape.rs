//! Metrics as Prometheus scrapes them: the catalogue of [`crate::observe::metrics`], with explicit buckets.

use std::convert::Infallible;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::observe::metrics::{self, CATALOGUE, Kind, OUTBOX_LABEL, SECONDS_BUCKETS};

/// How often observations that no scrape has read are folded into their buckets, so that they do not pile up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Where a scrape reads what was counted.
#[derive(Clone)]
pub struct Scrape(PrometheusHandle);

impl std::fmt::Debug for Scrape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scrape")
    }
}

impl Scrape {
    /// Everything counted so far, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Keeps the recorder small for as long as the process lives.
    pub async fn keep_up(&self) -> Infallible {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }
}

/// Begins to count, for the rest of the process's life. Every series bears the name of the outbox: relays of several may be
/// scraped as one job.
///
/// # Errors
/// When a recorder is installed already.
pub fn install(outbox: &str) -> Result<Scrape, BuildError> {
    let mut builder = PrometheusBuilder::new().add_global_label(OUTBOX_LABEL, outbox);
    for metric in CATALOGUE.iter().filter(|metric| metric.kind == Kind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &SECONDS_BUCKETS)?;
    }
    let scrape = Scrape(builder.install_recorder()?);
    metrics::describe();
    Ok(scrape)
}
