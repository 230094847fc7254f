//! Giving up messages that wait, as commands and the API do: only those that cannot be in flight.

use crate::admin::letters::BATCH;
use crate::admin::{finding, messages};
use crate::contract::{Database, Found, FoundMessage, RowName, Search, StoreError};
use crate::outbox::{HoldCause, Intent, MessageFilter, MessageState};

/// Messages that are given up at once, at most.
pub const MOST: u32 = 10_000;

/// Messages that ids and event ids may bring.
const MOST_NAMED: u32 = 1_000;

/// Why nothing is given up.
#[derive(Debug, thiserror::Error)]
pub enum NotSkipped {
    /// Nothing that is meant waits, as it says.
    #[error("{0}")]
    Nothing(String),
    /// It was sent.
    #[error("message {0} was sent already")]
    Sent(i64),
    /// Its lane waits for something that may be over at any time.
    #[error(
        "message {id} may be in flight at any time: {cause}, which {holder} lets flow when that is over; stop the relays first"
    )]
    Flowing {
        /// The message.
        id: i64,
        /// What its lane waits for.
        cause: HoldCause,
        /// Who leads.
        holder: String,
    },
    /// A relay may be sending it.
    #[error("message {id} may be in flight: its lane is not held, and {holder} leads; stop the relays first")]
    InFlight {
        /// The message.
        id: i64,
        /// Who leads.
        holder: String,
    },
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be given up: what the ids name, or the first that wait in held lanes, `limit` at most.
///
/// # Errors
/// When it does not wait, or may be in flight.
pub async fn waiting(
    database: &dyn Database,
    filter: &MessageFilter,
    limit: u32,
) -> Result<Vec<FoundMessage>, NotSkipped> {
    let by_name = !filter.ids.is_empty() || !filter.event_ids.is_empty();
    let (state, limit) = if by_name { (None, MOST_NAMED) } else { (Some(MessageState::Held), limit) };
    let found = database.search(&Search { filter: filter.clone(), state, limit }).await?;
    if found.messages.is_empty() {
        return Err(nothing(by_name, &found));
    }
    let (held, leader) = (database.held_lanes().await?, database.leader().await?);
    for message in &found.messages {
        let id = message.name.id;
        if message.state == MessageState::Sent {
            return Err(NotSkipped::Sent(id));
        }
        let Some(holder) = leader.as_ref().map(|leader| leader.holder.clone()) else { continue };
        match messages::kept_back_by(message, &held) {
            Some(lane) if lane.held.cause == HoldCause::Rejected && !lane.release_requested => {}
            Some(lane) => return Err(NotSkipped::Flowing { id, cause: lane.held.cause, holder }),
            None => return Err(NotSkipped::InFlight { id, holder }),
        }
    }
    Ok(found.messages)
}

fn nothing(by_name: bool, found: &Found) -> NotSkipped {
    let place = if by_name { "" } else { " in a held lane; `outboxd held ls` lists what is held" };
    let bound = finding::bound(found).map(|bound| format!("; {bound}")).unwrap_or_default();
    NotSkipped::Nothing(format!("nothing of that waits{place}{bound}"))
}

/// Gives messages up, some in a transaction, and says how many: those that may be in flight by now are left alone.
///
/// # Errors
/// When the database does not answer; what was given up before stays so.
pub async fn skip(database: &dyn Database, messages: &[FoundMessage], intent: &Intent) -> Result<u64, StoreError> {
    let names: Vec<RowName> = messages.iter().map(|message| message.name).collect();
    let mut done = 0;
    for batch in names.chunks(BATCH) {
        done += database.skip(batch, intent).await?;
    }
    Ok(done)
}
