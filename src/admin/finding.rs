//! Looking for messages as commands and the API do: in the outbox and among the dead letters, by what an operator calls them.

use uuid::Uuid;

use crate::contract::{Database, Found, LetterSearch, Search, StoreError};
use crate::observe::grouped;
use crate::outbox::{HeldLane, MessageFilter, MessageState};

/// What is found in the outbox and among the dead letters, the highest ids first where both are looked through; and what is
/// held.
///
/// # Errors
/// When the database does not answer, or its role may not look.
pub async fn look(
    database: &dyn Database,
    filter: &MessageFilter,
    state: Option<MessageState>,
    limit: u32,
) -> Result<(Found, Vec<HeldLane>), StoreError> {
    let held = database.held_lanes().await?;
    let mut found = Found::default();
    if state != Some(MessageState::Dead) {
        found = database.search(&Search { filter: filter.clone(), state, limit }).await?;
    }
    if matches!(state, None | Some(MessageState::Dead)) {
        let dead =
            database.dead_letters(&LetterSearch { filter: filter.clone(), limit, ..LetterSearch::default() }).await?;
        found.messages.extend(dead.messages);
        found.messages.sort_by_key(|message| std::cmp::Reverse(message.name.id));
        found.messages.truncate(limit as usize);
        found.looked_at += dead.looked_at;
        found.next = found.next.max(dead.next);
    }
    Ok((found, held))
}

/// The one that is called so.
///
/// # Errors
/// When that is neither an id nor an event id.
pub fn named(which: &str) -> Result<MessageFilter, String> {
    if let Ok(id) = which.parse::<i64>() {
        return Ok(MessageFilter { ids: vec![id], ..MessageFilter::default() });
    }
    match which.parse::<Uuid>() {
        Ok(event_id) => Ok(MessageFilter { event_ids: vec![event_id], ..MessageFilter::default() }),
        Err(_) => Err(format!("{which:?} is neither an id, such as 17, nor an event id, which is a UUID")),
    }
}

/// Of a search that did not look at everything: how far it went, and how to narrow it down.
pub fn bound(found: &Found) -> Option<String> {
    found.next?;
    let looked_at = grouped(found.looked_at);
    Some(format!(
        "looked at {looked_at} rows, and there are more; narrow it down with --since and --until, or give --id"
    ))
}

/// That no message is called so, and what may have become of it.
pub fn missing(state: Option<MessageState>) -> String {
    format!(
        "no {} has that id: it was never committed, or was sent and removed since (outbox.retention, or outbox.settle = \"delete\")",
        if state.is_some() { "dead letter" } else { "row and no dead letter" }
    )
}
