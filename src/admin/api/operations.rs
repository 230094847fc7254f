//! Sending rows again, and what runs for a while.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::access::{Admin, Reader};
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::messages::number;
use crate::admin::api::state::Api;
use crate::admin::operations::{self, DEFAULT_RATE, HIGHEST_RATE, LOOKED_AT};
use crate::outbox::{Replay, Replayable, is_topic_name};

/// Operations that are listed at most.
const LISTED: u32 = 100;

/// Which rows are to be sent again, where to and how fast, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Again {
    topic: String,
    key: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    to_topic: Option<String>,
    rate: Option<u32>,
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// Which operation is meant, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    id: String,
    reason: Option<String>,
}

/// `POST /api/replay`.
pub(super) async fn replay(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Again>, JsonRejection>,
) -> Answer {
    let Json(Again { topic, key, since, until, to_topic, rate, dry_run, reason }) = body?;
    if to_topic.as_ref().is_some_and(|topic| !is_topic_name(topic)) {
        let problem = "to_topic: no topic of Kafka's is called so: use the letters a-z, A-Z, 0-9, '.', '_' and '-'";
        return Err(Refusal::Misused(problem.to_owned()));
    }
    let rate = rate.unwrap_or(DEFAULT_RATE);
    if !(1..=HIGHEST_RATE).contains(&rate) {
        return Err(Refusal::Misused(format!("rate is to be between 1 and {HIGHEST_RATE}")));
    }
    let replay = Replay { topic, key, since, until, to_topic, rate };
    let found = database.replayable(&replay, LOOKED_AT).await?;
    if found.rows == 0 && !found.is_floor {
        return Err(Refusal::Nothing(operations::nothing(&found)));
    }
    let Replayable { rows, is_floor, written, oldest_kept } = found;
    let (first, last) = written.unzip();
    let mut answer = json!({
        "to_topic": replay.target(),
        "rate": rate,
        "rows_is_at_least": is_floor,
        "first_written_at": first,
        "last_written_at": last,
        "oldest_kept_at": oldest_kept,
    });
    if dry_run {
        answer["would_send"] = rows.into();
        return Ok(Json(answer));
    }
    let id = database.start_replay(&replay, &Admin::intent("replay", &replay, reason)).await?;
    (answer["will_send"], answer["operation"]) = (rows.into(), id.to_string().into());
    Ok(Json(answer))
}

/// `GET /api/operations`.
pub(super) async fn list(_: Reader, State(Api { database, .. }): State<Api>) -> Answer {
    let operations = database.operations(LISTED).await?;
    Ok(Json(json!({ "operations": operations.iter().map(operations::object).collect::<Vec<_>>() })))
}

/// `POST /api/operations/cancel`.
pub(super) async fn cancel(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Cancel>, JsonRejection>,
) -> Answer {
    let Json(Cancel { id, reason }) = body?;
    if !database.cancel_operation(number(&id)?, &Admin::intent("operations cancel", &id, reason)).await? {
        return Err(Refusal::Nothing(format!("no operation {id} is running")));
    }
    Ok(Json(json!({ "cancelled": id })))
}
