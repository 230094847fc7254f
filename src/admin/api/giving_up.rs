//! Giving up what waits, and removing what was sent.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::admin::api::access::Admin;
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::messages::number;
use crate::admin::api::state::Api;
use crate::admin::purging::{self, FROM_THE_FIRST};
use crate::admin::skipping;
use crate::contract::PurgeStep;
use crate::outbox::MessageFilter;

/// Steps of a purge that one request makes: each is a transaction that looks at some thousands of rows.
const STEPS_A_REQUEST: usize = 5;

/// Which of those that wait are given up, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Skip {
    topic: Option<String>,
    key: Option<String>,
    partition: Option<i32>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    #[serde(default)]
    ids: Vec<String>,
    #[serde(default)]
    event_ids: Vec<Uuid>,
    limit: Option<u32>,
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// What is removed, where to go on, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    older_than: DateTime<Utc>,
    after: Option<String>,
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// `POST /api/skip`.
pub(super) async fn skip(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Skip>, JsonRejection>,
) -> Answer {
    let Json(Skip { topic, key, partition, since, until, ids, event_ids, limit, dry_run, reason }) = body?;
    let ids = ids.iter().map(|id| number(id)).collect::<Result<_, _>>()?;
    let filter = MessageFilter { topic, key, partition, since, until, ids, event_ids };
    if filter.means_all() {
        return Err(Refusal::Misused("say which: ids, event_ids, topic, key, partition, since or until".to_owned()));
    }
    if reason.is_none() {
        return Err(Refusal::Misused("say why, in \"reason\": consumers never see what is given up".to_owned()));
    }
    let limit = limit.unwrap_or(1);
    if !(1..=skipping::MOST).contains(&limit) {
        return Err(Refusal::Misused(format!("limit is to be between 1 and {}", skipping::MOST)));
    }
    let meant = skipping::waiting(&*database, &filter, limit).await?;
    if dry_run {
        return Ok(Json(json!({ "would_skip": meant.len() })));
    }
    let done = skipping::skip(&*database, &meant, &Admin::intent("skip", filter, reason)).await?;
    if done == 0 {
        return Err(Refusal::Conflict("what is meant may be in flight by now: look again".to_owned()));
    }
    Ok(Json(json!({ "skipped": done, "left_alone": meant.len() as u64 - done })))
}

/// `POST /api/purge`: some of it a request, so that none lasts for long.
pub(super) async fn purge(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Purge>, JsonRejection>,
) -> Answer {
    let Json(Purge { older_than, after, dry_run, reason }) = body?;
    let is_first = after.is_none();
    let after = after.as_deref().map(number).transpose()?.unwrap_or(FROM_THE_FIRST);
    if is_first || dry_run {
        let PurgeStep { removed: counted, next } = purging::count(&*database, older_than, after).await?;
        if is_first && counted == 0 && next.is_none() {
            return Err(Refusal::Nothing(purging::nothing(older_than)));
        }
        if dry_run {
            return Ok(Json(json!({ "would_remove": counted, "after": next.map(|next| next.to_string()) })));
        }
    }
    let intent = Admin::intent("purge", purging::subject(older_than), reason);
    let done = purging::remove(&*database, older_than, after, &intent, STEPS_A_REQUEST, |_| {}).await?;
    Ok(Json(json!({ "removed": done.removed, "after": done.next.map(|next| next.to_string()) })))
}
