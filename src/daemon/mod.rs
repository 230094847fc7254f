//! The composition root: builds every part and joins them.
//!
//! The operator's page comes first, so that probes are answered while the database is away; then the preflight,
//! which waits for the database; then the relay. Stopping goes the other way: the relay drains, housekeeping
//! stops, the last traces are sent, and the page goes last, so that probes and metrics see the drain.

mod checks;
mod hangup;
mod shutdown;
mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::admin::api::{Api, Tokens};
use crate::admin::http::{self, Page, ProcessState};
use crate::admin::scrape;
use crate::backends::{self, Around, Traces};
use crate::backoff::Backoff;
use crate::canary::{self, Canary};
use crate::config::{Config, Http};
use crate::contract::{Backlog, Database, Enqueue, Sink, Store, StoreError};
use crate::daemon::checks::{Checking, Flow};
use crate::housekeeping;
use crate::observe::chain;
use crate::observe::outage::Outage;
use crate::relay::{Ended, Relay};

pub use hangup::at_each_hangup;
pub use shutdown::Shutdown;
pub use supervisor::Supervisor;

/// How much longer than its own deadline the relay may take to stop before it is cut off: its last statements
/// against the database come after the drain.
const RELAY_STOP_GRACE: Duration = Duration::from_secs(5);

/// Relays until told to stop.
///
/// # Errors
/// When something is wrong that waiting does not mend.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Ended> {
    run_through(config, shutdown, |sink| sink).await
}

/// Relays until told to stop, through whatever `wrap` puts around the sink.
///
/// # Errors
/// When something is wrong that waiting does not mend.
pub async fn run_through<W>(config: Config, shutdown: Shutdown, wrap: W) -> anyhow::Result<Ended>
where
    W: FnOnce(Box<dyn Sink>) -> Box<dyn Sink>,
{
    let database = backends::database(&config.outbox.database)?;
    let mut house = Supervisor::new(shutdown.clone());
    let Http { read_token: read, admin_token: admin, payload_token: payload, .. } = config.http.clone();
    let tokens = Tokens { read, admin, payload };
    let api = Api::new(Arc::clone(&database), tokens);
    let outbox = config.outbox.source.clone().unwrap_or_else(|| database.name());
    let scrape = scrape::install(&outbox).context("cannot begin to count")?;
    let traces = backends::traces(&config, &outbox).context("traces cannot be sent")?;
    let page = Page::new(scrape, api, shutdown.soft.clone());
    if let Some(listen) = &config.http.listen {
        let (listener, page) = (http::bind(listen).await?, page.clone());
        house.start("operator's page", |stop| http::serve(listener, page, stop));
    }
    let traced = start_traces(&mut house, traces);
    let patience = config.relay.drain_deadline + RELAY_STOP_GRACE;
    let Some(own_name) = preflight(&*database, &page, &shutdown.soft).await? else {
        return house.run(patience).await;
    };
    let source = config.outbox.source.clone().unwrap_or(own_name);
    let letters = config.relay.dead_letter_topic.is_some().then(|| backends::dead_letter_sink(&config, source.clone()));
    let replays = backends::replay_sink(&config, source.clone())?;
    let (records, contact) = backends::sink_and_contact(&config, source)?;
    let checking = Checking::new(Arc::clone(&database), contact, &config);
    let canary = config.canary.clone().map(|settings| {
        Canary::new(Arc::clone(&database) as Arc<dyn Enqueue>, backends::tail(&config, &settings.topic), settings)
    });
    let dead_letters = letters.transpose()?.map(&traced);
    let sinks = Sinks { records: traced(wrap(records)), dead_letters, replays: traced(replays) };
    start_work(&mut house, config, Work { store: database, sinks, checking, canary }, &page);
    house.run(patience).await
}

/// Starts sending traces, if there are to be any, and gives out what makes them.
fn start_traces(house: &mut Supervisor, traces: Option<Traces>) -> Around {
    let Some(Traces { around, send }) = traces else { return Box::new(|sink| sink) };
    house.start("traces", |stop| async move {
        send(stop).await;
        Ok(Ended::Graceful)
    });
    around
}

/// What the relay publishes through.
struct Sinks {
    records: Box<dyn Sink>,
    /// Where they are published.
    dead_letters: Option<Box<dyn Sink>>,
    /// Of rows that are sent again.
    replays: Box<dyn Sink>,
}

/// What the relay works with, and what works beside it.
struct Work {
    store: Arc<dyn Store>,
    sinks: Sinks,
    checking: Checking,
    canary: Option<Canary>,
}

/// Starts the relay and what works beside it.
fn start_work(house: &mut Supervisor, config: Config, work: Work, page: &Page) {
    let Work { store, sinks: Sinks { records, dead_letters, replays }, checking, canary } = work;
    let mut relay = Relay::new(Arc::clone(&store), records, config.relay).with_replays(replays);
    if let Some(sink) = dead_letters {
        relay = relay.with_dead_letters(sink);
    }
    let status = relay.status();
    let (measured, backlog) = watch::channel(Backlog::default());
    let (checked, checks) = watch::channel(Vec::new());
    page.stands(ProcessState::Relaying { status: status.clone(), backlog: backlog.clone(), checks });
    let (view, viewed) = watch::channel(canary::View::default());
    let flow = Flow { status: status.clone(), backlog, canary: viewed };
    house.start("checks", |stop| async move {
        checking.run(flow, checked, stop).await;
        Ok(Ended::Graceful)
    });
    let chores = housekeeping::Settings { retention: config.outbox.retention, ..housekeeping::Settings::default() };
    let paused = status.clone();
    house.start("housekeeping", |stop| async move {
        housekeeping::run(store, status, chores, measured, stop).await;
        Ok(Ended::Graceful)
    });
    house.start("relay", |stop| async move { Ok(relay.run(stop).await?) });
    // It begins last, so that it ends first and writes nothing that nobody would publish any more.
    if let Some(canary) = canary {
        house.start("canary", |stop| sing(canary.run(paused, view, stop.clone()), stop));
    }
}

/// Keeps the canary from ending the process: nothing rests on it.
async fn sing(canary: impl Future<Output = ()> + Send + 'static, stop: CancellationToken) -> anyhow::Result<Ended> {
    if tokio::spawn(canary).await.is_err() {
        tracing::error!("the canary has failed; the relay goes on without it, until it is restarted");
        stop.cancelled().await;
    }
    Ok(Ended::Graceful)
}

/// Waits until the database can be used, and asks it what it calls the outbox. `None`: told to stop meanwhile.
async fn preflight(database: &dyn Database, page: &Page, stop: &CancellationToken) -> anyhow::Result<Option<String>> {
    let mut backoff = Backoff::default();
    let outage = Outage::default();
    loop {
        let examined = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            examined = examine(database) => examined,
        };
        match examined {
            Ok(source) => {
                if outage.ends() {
                    tracing::info!("the database is available");
                }
                return Ok(Some(source));
            }
            Err(error) if error.is_transient() => {
                if outage.begins() {
                    tracing::warn!(error = %chain(&error), "waiting for the database");
                }
                page.stands(ProcessState::Waiting("waiting for the database"));
                checks::show_metrics(&[admin::checks::database(Err(&error))]);
            }
            Err(error) => return Err(error).context("the outbox cannot be used"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

async fn examine(database: &dyn Database) -> Result<String, StoreError> {
    for warning in database.preflight().await? {
        tracing::warn!("{warning}");
    }
    database.source().await
}
