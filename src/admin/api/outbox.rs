//! How the outbox stands, and what operators changed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::json;

use crate::admin::api::access::Reader;
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::state::Api;
use crate::admin::{audit_log, status};

/// Changes that are listed at most.
const LARGEST_LIMIT: u32 = 10_000;

/// How many changes are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Latest {
    #[serde(default = "Latest::by_default")]
    limit: u32,
}

impl Latest {
    fn by_default() -> u32 {
        100
    }
}

/// `GET /api/status`.
pub(super) async fn status(_: Reader, State(Api { database, .. }): State<Api>) -> Answer {
    Ok(Json(status::look(&*database).await?.described()))
}

/// `GET /api/audit-log`.
pub(super) async fn audit_log(
    _: Reader,
    State(Api { database, .. }): State<Api>,
    latest: Result<Query<Latest>, QueryRejection>,
) -> Answer {
    let Query(Latest { limit }) = latest?;
    if !(1..=LARGEST_LIMIT).contains(&limit) {
        return Err(Refusal::Misused(format!("limit is to be between 1 and {LARGEST_LIMIT}")));
    }
    let entries = database.audit_log(limit).await?;
    Ok(Json(json!({ "changes": entries.iter().map(audit_log::described).collect::<Vec<_>>() })))
}
