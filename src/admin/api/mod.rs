//! What operators look at and change over HTTP, under `/api/`: the same as the commands, as JSON.
//!
//! Reading needs the read token, where one is set; changing needs the admin token, and there is no changing without one.
//! Both come in the header `Authorization: Bearer TOKEN`, which no page of another site can make a browser send. `openapi.json`
//! describes it all, and is served.

mod access;
mod answer;
mod held;
mod messages;
mod outbox;
mod state;
mod steering;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};

pub use state::{Api, Tokens};

/// The description, in the words of OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi.json");

/// The routes. A path that is not there is told as every other error is.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/openapi.json", get(description))
        .route("/status", get(outbox::status))
        .route("/held", get(held::list))
        .route("/held/release", post(held::release))
        .route("/audit-log", get(outbox::audit_log))
        .route("/messages", get(messages::list))
        .route("/dead", get(messages::dead))
        .route("/dead/requeue", post(messages::requeue))
        .route("/dead/discard", post(messages::discard))
        .route("/pauses", get(steering::pauses))
        .route("/pause", post(steering::pause))
        .route("/resume", post(steering::resume))
        .route("/step-down", post(steering::step_down))
        .route("/operations", get(steering::operations))
        .route("/operations/cancel", post(steering::cancel))
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::not_allowed)
        .with_state(api)
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}
