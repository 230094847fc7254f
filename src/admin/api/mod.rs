//! What operators look at and change over HTTP, under `/api/`: the same as the commands, as JSON.
//!
//! Reading needs the read token, where one is set; changing needs the admin token, and there is no changing without one; payloads
//! need the payload token. They come in the header `Authorization: Bearer TOKEN`, which no page of another site can make a browser send. `openapi.json`
//! describes it all, and is served.

mod access;
mod answer;
mod giving_up;
mod held;
mod messages;
mod operations;
mod outbox;
mod state;
mod steering;
mod story;

use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Router, middleware};

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
        .route("/messages/{id}", get(story::show))
        .route("/dead", get(messages::dead))
        .route("/dead/{id}", get(story::dead))
        .route("/dead/requeue", post(messages::requeue))
        .route("/dead/discard", post(messages::discard))
        .route("/skip", post(giving_up::skip))
        .route("/purge", post(giving_up::purge))
        .route("/pauses", get(steering::pauses))
        .route("/pause", post(steering::pause))
        .route("/resume", post(steering::resume))
        .route("/step-down", post(steering::step_down))
        .route("/replay", post(operations::replay))
        .route("/operations", get(operations::list))
        .route("/operations/cancel", post(operations::cancel))
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::not_allowed)
        .layer(middleware::from_fn(answer::to_the_end))
        .with_state(api)
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}
