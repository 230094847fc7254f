//! Held lanes: listing them, and asking for their release.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::access::{Admin, Reader};
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::state::Api;
use crate::admin::held::{self, LaneFilter};
use crate::outbox::{HeldLane, Lane};

/// What is asked for of the held lanes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    topic: Option<String>,
    key: Option<String>,
    partition: Option<i32>,
}

/// Which lanes to release, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    #[serde(default)]
    all: bool,
    topic: Option<String>,
    key: Option<String>,
    partition: Option<i32>,
    #[serde(default)]
    dry_run: bool,
    reason: Option<String>,
}

/// `GET /api/held`.
pub(super) async fn list(
    reader: Reader,
    State(Api { database, .. }): State<Api>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let Query(Which { topic, key, partition }) = which?;
    let lanes = held::list(&*database, &filter(topic, key, partition)?).await?;
    let described = |lane: &HeldLane| {
        let mut described = held::described(lane);
        reader.hide_key(&mut described);
        described
    };
    Ok(Json(json!({ "held": lanes.iter().map(described).collect::<Vec<_>>() })))
}

/// `POST /api/held/release`.
pub(super) async fn release(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Release>, JsonRejection>,
) -> Answer {
    let Json(Release { all, topic, key, partition, dry_run, reason }) = body?;
    if all == topic.is_some() {
        return Err(Refusal::Misused("name either a topic or \"all\": true".to_owned()));
    }
    let which = filter(topic, key, partition)?;
    let lanes = held::list(&*database, &which).await?;
    let lanes: Vec<Lane> = lanes.into_iter().map(|lane| lane.held.lane).collect();
    if lanes.is_empty() {
        return Err(Refusal::Nothing("nothing of that is held".to_owned()));
    }
    if dry_run {
        return Ok(Json(json!({ "would_release": lanes.len() })));
    }
    let asked = database.request_release(&lanes, &Admin::intent("held release", which, reason)).await?;
    Ok(Json(json!({ "asked_for_release": asked })))
}

fn filter(topic: Option<String>, key: Option<String>, partition: Option<i32>) -> Result<LaneFilter, Refusal> {
    if topic.is_none() && (key.is_some() || partition.is_some()) {
        return Err(Refusal::Misused("a key or a partition is one of a topic: name that, too".to_owned()));
    }
    if key.is_some() && partition.is_some() {
        return Err(Refusal::Misused("a lane is that of a key or that of a partition, not of both".to_owned()));
    }
    Ok(LaneFilter { topic, key, partition })
}
