//! Moving dead letters, as commands and the API do: which are meant, and putting them back or deleting them some at a time.

use crate::contract::{Database, LetterSearch, RowName, StoreError};
use crate::outbox::{Intent, MessageFilter};

/// Letters that one transaction moves.
pub const BATCH: usize = 500;

/// The dead letters that an operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeantLetters {
    /// They, the oldest first.
    pub letters: Vec<RowName>,
    /// As they were asked for, for the audit log.
    pub subject: String,
    /// Whether there are more than may be touched.
    pub are_more: bool,
}

/// The oldest dead letters that meet the conditions, `limit` at most, however many rows have to be looked at.
///
/// # Errors
/// When the database does not answer.
pub async fn meant(
    database: &dyn Database,
    filter: MessageFilter,
    cause: Option<String>,
    limit: u32,
) -> Result<MeantLetters, StoreError> {
    let subject = match &cause {
        None => filter.to_string(),
        Some(cause) if filter.means_all() => format!("--cause {cause}"),
        Some(cause) => format!("--cause {cause} {filter}"),
    };
    // One more tells whether there are more.
    let wanted = limit.saturating_add(1);
    let mut letters = Vec::new();
    let mut search = LetterSearch { filter, cause, oldest_first: true, from: None, limit: wanted };
    loop {
        let found = database.dead_letters(&search).await?;
        letters.extend(found.messages.iter().map(|message| message.name));
        search.limit = wanted.saturating_sub(u32::try_from(letters.len()).unwrap_or(u32::MAX));
        search.from = found.next;
        if found.next.is_none() || search.limit == 0 {
            break;
        }
    }
    let are_more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    Ok(MeantLetters { letters, subject, are_more })
}

/// Puts letters back, and tells after each transaction how many went back by then. Returns how many did.
///
/// # Errors
/// When the database does not answer, or its role may not do this; what was put back before stays so.
pub async fn requeue(
    database: &dyn Database,
    letters: &[RowName],
    intent: &Intent,
    told: impl Fn(u64) + Send + Sync,
) -> Result<u64, StoreError> {
    let mut done = 0;
    for batch in letters.chunks(BATCH) {
        done += database.requeue(batch, intent).await?;
        told(done);
    }
    Ok(done)
}

/// Deletes letters, and tells after each transaction how many were deleted by then. Returns how many were.
///
/// # Errors
/// When the database does not answer, or its role may not do this; what was deleted before stays so.
pub async fn discard(
    database: &dyn Database,
    letters: &[RowName],
    intent: &Intent,
    told: impl Fn(u64) + Send + Sync,
) -> Result<u64, StoreError> {
    let mut done = 0;
    for batch in letters.chunks(BATCH) {
        done += database.discard(batch, intent).await?;
        told(done);
    }
    Ok(done)
}
