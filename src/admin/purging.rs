//! Removing what was sent, as commands and the API do: counting it first, then in steps of a transaction each.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::contract::{Database, PurgeStep, StoreError};
use crate::outbox::Intent;

/// Where the steps begin.
pub const FROM_THE_FIRST: i64 = i64::MIN;

/// Steps that look how much there is: what is beyond is not counted.
const STEPS_COUNTED: usize = 10;

/// How many rows after an id were sent before a time and are still there, as far as some steps look. Changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn count(database: &dyn Database, before: DateTime<Utc>, after: i64) -> Result<PurgeStep, StoreError> {
    steps(database, before, after, None, STEPS_COUNTED, |_| {}).await
}

/// Removes what was sent before a time, in so many steps at most, and tells after each how much was removed by then. Says where
/// to go on, if there is more.
///
/// # Errors
/// When the database does not answer; what was removed before stays so.
pub async fn remove(
    database: &dyn Database,
    before: DateTime<Utc>,
    after: i64,
    intent: &Intent,
    steps_at_most: usize,
    told: impl Fn(u64) + Send + Sync,
) -> Result<PurgeStep, StoreError> {
    steps(database, before, after, Some(intent), steps_at_most, told).await
}

async fn steps(
    database: &dyn Database,
    before: DateTime<Utc>,
    after: i64,
    intent: Option<&Intent>,
    at_most: usize,
    told: impl Fn(u64) + Send + Sync,
) -> Result<PurgeStep, StoreError> {
    let mut all = PurgeStep { removed: 0, next: Some(after) };
    for _ in 0..at_most {
        let Some(after) = all.next else { break };
        let step = database.purge_sent(before, after, intent).await?;
        all = PurgeStep { removed: all.removed + step.removed, next: step.next };
        if step.removed > 0 && step.next.is_some() {
            told(all.removed);
        }
    }
    Ok(all)
}

/// As it is typed, for the audit log.
pub fn subject(before: DateTime<Utc>) -> String {
    format!("--older-than {}", time(before))
}

/// That there is nothing to remove.
pub fn nothing(before: DateTime<Utc>) -> String {
    format!("nothing was sent before {} that is still there", time(before))
}

/// A time as it is told.
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
