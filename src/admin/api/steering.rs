//! Steering the relay that leads: pausing it, and making it step down.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::access::{Admin, Reader};
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::state::Api;
use crate::admin::status;
use crate::outbox::TopicPattern;

/// Which topics are meant, until when, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Topics {
    topic: Option<String>,
    until: Option<DateTime<Utc>>,
    reason: Option<String>,
}

/// Why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reason {
    reason: Option<String>,
}

/// `GET /api/pauses`.
pub(super) async fn pauses(_: Reader, State(Api { database, .. }): State<Api>) -> Answer {
    let pauses = database.orders().await?.pauses;
    Ok(Json(json!({ "pauses": pauses.iter().map(status::pause).collect::<Vec<_>>() })))
}

/// `POST /api/pause`.
pub(super) async fn pause(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Topics>, JsonRejection>,
) -> Answer {
    let Json(Topics { topic, until, reason }) = body?;
    if until.is_some_and(|until| until <= Utc::now()) {
        return Err(Refusal::Misused("until is over already".to_owned()));
    }
    let topics = pattern(topic)?;
    let subject = status::pause_subject(&topics, until);
    database.pause(&topics, until, &Admin::intent("pause", subject, reason)).await?;
    Ok(Json(json!({ "paused": topics.as_str(), "until": until })))
}

/// `POST /api/resume`.
pub(super) async fn resume(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Topics>, JsonRejection>,
) -> Answer {
    let Json(Topics { topic, until, reason }) = body?;
    if until.is_some() {
        return Err(Refusal::Misused("a pause is ended now: leave until out".to_owned()));
    }
    let topics = pattern(topic)?;
    let subject = status::pause_subject(&topics, None);
    if !database.resume(&topics, &Admin::intent("resume", subject, reason)).await? {
        return Err(Refusal::Nothing(format!("there is no pause of {topics}; /api/pauses lists those that there are")));
    }
    Ok(Json(json!({ "resumed": topics.as_str() })))
}

/// `POST /api/step-down`.
pub(super) async fn step_down(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Reason>, JsonRejection>,
) -> Answer {
    let Json(Reason { reason }) = body?;
    let nobody = || Refusal::Nothing("nobody leads: there is none that could step down".to_owned());
    let leader = database.leader().await?.ok_or_else(nobody)?;
    let standbys = status::standbys(&*database, Some(&leader)).await?;
    let subject = format!("{}, term {}", leader.holder, leader.term);
    if !database.request_step_down(leader.term, &Admin::intent("step-down", subject, reason)).await? {
        return Err(nobody());
    }
    Ok(Json(json!({ "asked": leader.holder, "term": leader.term.0, "standbys": standbys })))
}

/// A pattern of topics; all where none is named.
fn pattern(topic: Option<String>) -> Result<TopicPattern, Refusal> {
    let Some(topic) = topic else { return Ok(TopicPattern::any()) };
    let topics: TopicPattern = topic.parse().map_err(|error| Refusal::Misused(format!("{error}")))?;
    Ok(topics.normal())
}
