//! The operator's page: `/metrics`, `/livez`, `/readyz`, `/status`, and the API under `/api/`.
//!
//! On the loopback interface unless told otherwise. But for the API, it is read-only and without authentication, and
//! shows topics, numbers, and how the named checks came out; never a key, a payload or a secret, nor what a session of the
//! database runs.

use std::future::IntoFuture;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::api::{self, Api};
use crate::admin::checks::{self, Check};
use crate::admin::health;
use crate::admin::scrape::Scrape;
use crate::admin::status::{pause, topic};
use crate::contract::Backlog;
use crate::outbox::Held;
use crate::relay::{Ended, Status};

/// How long requests that are being answered may take once the page is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Held lanes that the status names; the rest is only counted.
const HELD_SHOWN: usize = 100;

/// How far the process is.
#[derive(Debug, Clone)]
pub enum ProcessState {
    /// It waits for this before it can relay.
    Waiting(&'static str),
    /// It relays, or is standby.
    Relaying {
        /// What the relay is doing.
        status: watch::Receiver<Status>,
        /// How much waits, as measured last.
        backlog: watch::Receiver<Backlog>,
        /// How the named checks came out last.
        checks: watch::Receiver<Vec<Check>>,
    },
}

/// What the page shows.
#[derive(Debug, Clone)]
pub struct Page {
    scrape: Scrape,
    api: Api,
    standing: watch::Sender<ProcessState>,
    stopping: CancellationToken,
}

impl Page {
    /// A page of a process that is starting, and stops once `stopping` is cancelled.
    pub fn new(scrape: Scrape, api: Api, stopping: CancellationToken) -> Self {
        Self { scrape, api, standing: watch::Sender::new(ProcessState::Waiting("starting")), stopping }
    }

    /// Tells the page how far the process is.
    pub fn stands(&self, standing: ProcessState) {
        self.standing.send_replace(standing);
    }

    /// Whether it is ready: whatever its parts are still at, a process that was told to stop is not.
    fn ready(&self, status: &Status) -> Result<&'static str, String> {
        if self.stopping.is_cancelled() {
            return Err("stopping: draining what is in flight".to_owned());
        }
        health::ready(status, Instant::now())
    }

    fn snapshot(&self) -> Result<Snapshot, &'static str> {
        match &*self.standing.borrow() {
            ProcessState::Waiting(reason) => Err(reason),
            ProcessState::Relaying { status, backlog, checks } => Ok(Snapshot {
                status: status.borrow().clone(),
                backlog: backlog.borrow().clone(),
                checks: checks.borrow().clone(),
            }),
        }
    }
}

/// What a relay at work shows at one moment.
struct Snapshot {
    status: Status,
    backlog: Backlog,
    checks: Vec<Check>,
}

/// Takes the address.
///
/// # Errors
/// When it cannot be had.
pub async fn bind(listen: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; give a free address with --http, or --http \"\" for none")
    })?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /livez, /readyz, /status and /api");
    Ok(listener)
}

/// Serves the page until told to stop.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(listener: TcpListener, page: Page, stop: CancellationToken) -> anyhow::Result<Ended> {
    let scrape = page.scrape.clone();
    let server = axum::serve(listener, router(page)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let answered = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        served = server.into_future() => served.context("the operator's page broke")?,
        () = answered => {}
        never = scrape.keep_up() => match never {},
    }
    Ok(Ended::Graceful)
}

/// The routes, over what they show.
pub fn router(page: Page) -> Router {
    let api = api::router(page.api.clone());
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(page)
        .nest("/api", api)
}

async fn metrics(State(page): State<Page>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.scrape.render()).into_response()
}

async fn readyz(State(page): State<Page>) -> (StatusCode, String) {
    let judged = page.snapshot().map_err(str::to_owned).and_then(|now| page.ready(&now.status));
    match judged {
        Ok(role) => (StatusCode::OK, format!("ready: {role}\n")),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn status(State(page): State<Page>) -> Json<Value> {
    Json(match page.snapshot() {
        Ok(snapshot) => described(&snapshot, page.ready(&snapshot.status), Instant::now()),
        Err(reason) => json!({ "version": env!("CARGO_PKG_VERSION"), "phase": "starting", "reason": reason }),
    })
}

fn described(Snapshot { status, backlog, checks }: &Snapshot, ready: Result<&str, String>, now: Instant) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": status.phase.as_str(),
        "ready": ready.is_ok(),
        "reason": ready.err(),
        "term": status.term.map(|term| term.0),
        "lease_remaining_seconds": status.trusted_until.map(|until| until.saturating_duration_since(now).as_secs_f64()),
        "connected": status.connected,
        "published": status.published,
        "in_flight": status.in_flight,
        "unsent": backlog.unsent,
        "unsent_is_at_least": backlog.capped,
        "oldest_unsent_seconds": backlog.oldest.as_secs_f64(),
        "topics": backlog.topics.iter().map(topic).collect::<Vec<_>>(),
        "last_progress": status.last_progress_at,
        "seconds_since_progress": now.saturating_duration_since(status.last_progress).as_secs_f64(),
        "paused": status.pauses.iter().map(pause).collect::<Vec<_>>(),
        "held_lanes": status.held.len(),
        "held": status.held.iter().take(HELD_SHOWN).map(held).collect::<Vec<_>>(),
        "checks": checks::to_value(checks),
    })
}

fn held(held: &Held) -> Value {
    json!({
        "lane": held.lane.to_string(),
        "topic": held.lane.topic(),
        "cause": held.cause.as_str(),
        "from_id": held.from_id,
        "since": held.since,
    })
}
