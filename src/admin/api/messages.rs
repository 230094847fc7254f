//! Messages and dead letters: looking for them, putting letters back, and deleting them. What they carry is not listed.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::admin::api::access::{Admin, Reader};
use crate::admin::api::answer::{Answer, Refusal};
use crate::admin::api::state::Api;
use crate::admin::letters::{self, MeantLetters};
use crate::admin::messages;
use crate::contract::{Database, Found, FoundMessage, LetterSearch, RowName, Search};
use crate::outbox::{HeldLane, Intent, MessageFilter, MessageState};

/// Messages that one answer lists, and letters that one request moves, at most.
const LARGEST_LIMIT: u32 = 1_000;

/// What is listed where no limit is named.
const DEFAULT_LIMIT: u32 = 50;

/// Which messages are looked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    state: Option<String>,
    cause: Option<String>,
    topic: Option<String>,
    key: Option<String>,
    partition: Option<i32>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    id: Option<i64>,
    event_id: Option<Uuid>,
    limit: Option<u32>,
}

/// Which dead letters are meant, and why.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Letters {
    #[serde(default)]
    all: bool,
    cause: Option<String>,
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

/// `GET /api/messages`.
pub(super) async fn list(
    reader: Reader,
    State(Api { database, .. }): State<Api>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted?;
    if wanted.cause.is_some() {
        return Err(Refusal::Misused("only dead letters have a cause: ask /api/dead".to_owned()));
    }
    let state = wanted.state.as_deref().map(state).transpose()?;
    let search = Search { limit: limit(wanted.limit)?, state, filter: wanted.into() };
    let held = database.held_lanes().await?;
    Ok(told(&database.search(&search).await?, &held, reader))
}

/// `GET /api/dead`.
pub(super) async fn dead(
    reader: Reader,
    State(Api { database, .. }): State<Api>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(mut wanted) = wanted?;
    if wanted.state.is_some() {
        return Err(Refusal::Misused("dead letters are in one state: leave it out".to_owned()));
    }
    let (cause, limit) = (wanted.cause.take(), limit(wanted.limit)?);
    let search = LetterSearch { filter: wanted.into(), cause, limit, ..LetterSearch::default() };
    Ok(told(&database.dead_letters(&search).await?, &[], reader))
}

/// `POST /api/dead/requeue`.
pub(super) async fn requeue(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Letters>, JsonRejection>,
) -> Answer {
    let meant = Meant::gather(&*database, body, "dead requeue").await?;
    let overtaken = database.overtaken(&meant.letters).await?;
    let mut answer = json!({ "lanes_that_went_on": overtaken.lanes, "lanes_is_at_least": overtaken.is_floor });
    if meant.dry_run {
        answer["would_requeue"] = meant.letters.len().into();
        return Ok(Json(answer));
    }
    let done = letters::requeue(&*database, &meant.letters, &meant.intent, |_| {}).await?;
    answer["requeued"] = done.into();
    Ok(Json(answer))
}

/// `POST /api/dead/discard`.
pub(super) async fn discard(
    _: Admin,
    State(Api { database, .. }): State<Api>,
    body: Result<Json<Letters>, JsonRejection>,
) -> Answer {
    let meant = Meant::gather(&*database, body, "dead discard").await?;
    if meant.intent.reason.is_none() {
        return Err(Refusal::Misused("say why, in \"reason\": what is deleted does not come back".to_owned()));
    }
    if meant.dry_run {
        return Ok(Json(json!({ "would_discard": meant.letters.len() })));
    }
    let done = letters::discard(&*database, &meant.letters, &meant.intent, |_| {}).await?;
    Ok(Json(json!({ "discarded": done })))
}

/// The dead letters that a request means, the oldest first.
struct Meant {
    letters: Vec<RowName>,
    intent: Intent,
    dry_run: bool,
}

impl Meant {
    async fn gather(
        database: &dyn Database,
        body: Result<Json<Letters>, JsonRejection>,
        command: &'static str,
    ) -> Result<Self, Refusal> {
        let Json(body) = body?;
        let Letters { all, cause, limit: wanted, dry_run, reason, .. } = &body;
        let (all, cause, dry_run, reason) = (*all, cause.clone(), *dry_run, reason.clone());
        let limit = limit(Some(wanted.unwrap_or(LARGEST_LIMIT)))?;
        let filter = MessageFilter::try_from(body)?;
        if all == (cause.is_some() || !filter.means_all()) {
            return Err(Refusal::Misused("name either conditions or \"all\": true".to_owned()));
        }
        let MeantLetters { letters, subject, .. } = letters::meant(database, filter, cause, limit).await?;
        if letters.is_empty() {
            return Err(Refusal::Nothing("no dead letter is meant by that".to_owned()));
        }
        Ok(Self { letters, intent: Admin::intent(command, subject, reason), dry_run })
    }
}

impl From<Wanted> for MessageFilter {
    fn from(Wanted { topic, key, partition, since, until, id, event_id, .. }: Wanted) -> Self {
        let (ids, event_ids) = (id.into_iter().collect(), event_id.into_iter().collect());
        Self { topic, key, partition, since, until, ids, event_ids }
    }
}

impl TryFrom<Letters> for MessageFilter {
    type Error = Refusal;

    fn try_from(letters: Letters) -> Result<Self, Refusal> {
        let Letters { topic, key, partition, since, until, ids, event_ids, .. } = letters;
        let ids = ids.iter().map(|id| number(id)).collect::<Result<_, _>>()?;
        Ok(Self { topic, key, partition, since, until, ids, event_ids })
    }
}

/// An id, as JSON has it: a string.
pub(super) fn number(id: &str) -> Result<i64, Refusal> {
    id.parse().map_err(|_| Refusal::Misused(format!("{id:?} is no id, such as \"17\"")))
}

fn state(word: &str) -> Result<MessageState, Refusal> {
    word.parse().map_err(|_| Refusal::Misused(format!("{word:?} is no state; use unsent, sent or held")))
}

fn limit(wanted: Option<u32>) -> Result<u32, Refusal> {
    let limit = wanted.unwrap_or(DEFAULT_LIMIT);
    if (1..=LARGEST_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::Misused(format!("limit is to be between 1 and {LARGEST_LIMIT}")))
}

fn told(Found { messages, looked_at, next }: &Found, held: &[HeldLane], reader: Reader) -> Json<Value> {
    let described = |message: &FoundMessage| {
        let mut described = messages::described(message, held);
        reader.hide_key(&mut described);
        described
    };
    let messages: Vec<Value> = messages.iter().map(described).collect();
    Json(json!({ "messages": messages, "rows_looked_at": looked_at, "are_more": next.is_some() }))
}
