//! `outboxd operations`: what runs for a while, and how far it is.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::admin::table;
use crate::observe::grouped;
use crate::outbox::{Operation, OperationProgress, Replayable};

/// How many rows are looked at before a replay is asked for, the latest ones.
pub const LOOKED_AT: u64 = 1_000_000;

/// Rows a second that are sent again, where nothing is said.
pub const DEFAULT_RATE: u32 = 1_000;

/// Rows a second that may be sent again, at most.
pub const HIGHEST_RATE: u32 = 1_000_000;

/// A table for people, the last one first.
pub fn to_text(operations: &[Operation]) -> String {
    if operations.is_empty() {
        return "no operator has asked for anything that takes a while\n".to_owned();
    }
    let row = |operation: &Operation| {
        let Operation { id, replay, asked_at, actor, .. } = operation;
        let asked_at = asked_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        [id.to_string(), "replay".to_owned(), how_far(operation), asked_at, actor.clone(), replay.to_string()]
    };
    table::aligned(["ID", "KIND", "HOW FAR", "ASKED AT", "BY", "WHAT"], operations.iter().map(row))
}

/// How far an operation is, in a few words.
pub fn how_far(operation: &Operation) -> String {
    let OperationProgress { sent, refused, problem, .. } = &operation.progress;
    let share = (operation.share() * 100.0).floor();
    let refused = if *refused == 0 { String::new() } else { format!(", {} refused", grouped(*refused)) };
    let problem = problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
    format!("{}, {share:.0} %, {} sent{refused}{problem}", operation.state.as_str(), grouped(*sent))
}

/// One JSON object a line, for programs.
pub fn to_json(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("{}\n", object(operation))).collect()
}

/// An operation, as programs read it. Ids are strings: they may exceed what JavaScript can tell apart. The key is the
/// application's data and is not told.
pub fn object(operation: &Operation) -> Value {
    let Operation { id, replay, state, asked_at, ended_at, reason, actor, from_id, last_id, progress } = operation;
    let OperationProgress { done_to, sent, refused, problem, .. } = progress;
    json!({
        "id": id.to_string(),
        "kind": "replay",
        "state": state.as_str(),
        "topic": replay.topic,
        "has_key": replay.key.is_some(),
        "since": replay.since,
        "until": replay.until,
        "to_topic": replay.target(),
        "rate": replay.rate,
        "share": operation.share(),
        "from_id": from_id.to_string(),
        "last_id": last_id.to_string(),
        "done_to": done_to.to_string(),
        "sent": sent,
        "refused": refused,
        "problem": problem,
        "asked_at": asked_at,
        "ended_at": ended_at,
        "reason": reason,
        "actor": actor,
    })
}

/// Which rows there are at all, for people.
pub fn kept(Replayable { oldest_kept, .. }: &Replayable) -> String {
    oldest_kept.as_ref().map_or_else(
        || "the table is empty: rows that were sent are kept for `outbox.retention`".to_owned(),
        |oldest| format!("the table has rows since {}: what was sent before is gone", time(oldest)),
    )
}

/// That there is nothing to send again.
pub fn nothing(found: &Replayable) -> String {
    format!("nothing of that was sent; {}", kept(found))
}

/// A time as it is told.
pub fn time(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
