//! One message: where it is and what happened to it; what it carries only for those who may see payloads.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::api::access::Reader;
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::state::Api;
use crate::admin::{finding, messages};
use crate::outbox::MessageState;

/// Bytes of a payload, and characters of headers, that are shown.
const SHOWN: u32 = 1 << 20;

/// Messages that one id, or one event id, may bring.
const MOST_NAMED: u32 = 10;

/// What is wanted of a message, and where its event id is looked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    payload: bool,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

/// `GET /api/messages/{id}`.
pub(super) async fn show(
    reader: Reader,
    State(api): State<Api>,
    which: Result<Path<String>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    told(reader, &api, &which?.0, asked?.0, None).await
}

/// `GET /api/dead/{id}`.
pub(super) async fn dead(
    reader: Reader,
    State(api): State<Api>,
    which: Result<Path<String>, PathRejection>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Answer {
    told(reader, &api, &which?.0, asked?.0, Some(MessageState::Dead)).await
}

async fn told(reader: Reader, api: &Api, which: &str, asked: Asked, state: Option<MessageState>) -> Answer {
    let Asked { payload, since, until } = asked;
    if payload {
        reader.must_see_payloads(api)?;
    }
    let mut filter = finding::named(which).map_err(Refusal::Misused)?;
    (filter.since, filter.until) = (since, until);
    let (found, held) = finding::look(&*api.database, &filter, state, MOST_NAMED).await?;
    if found.messages.is_empty() {
        let bound = finding::bound(&found).map(|bound| format!("; {bound}")).unwrap_or_default();
        return Err(Refusal::Nothing(finding::missing(state) + &bound));
    }
    let mut told: Vec<Value> = Vec::new();
    for message in &found.messages {
        let carried = if payload { api.database.carried(message, SHOWN).await? } else { None };
        let mut story = messages::story_object(message, &held, carried.as_ref());
        reader.hide_key(&mut story);
        told.push(story);
    }
    Ok(Json(json!({ "messages": told, "rows_looked_at": found.looked_at, "are_more": found.next.is_some() })))
}
