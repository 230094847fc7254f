//! `outboxd audit-log`: what operators changed.

use chrono::SecondsFormat;
use serde_json::{Value, json};

use crate::admin::table;
use crate::contract::AuditEntry;

/// A table for people, the last change first.
pub fn to_text(entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "no operator has changed anything\n".to_owned();
    }
    let row = |entry: &AuditEntry| {
        let AuditEntry { at, command, subject, affected, reason, .. } = entry;
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let reason = reason.clone().unwrap_or_default();
        [at, command.clone(), affected.to_string(), subject.clone(), who(entry), reason]
    };
    table::aligned(["AT", "COMMAND", "AFFECTED", "SUBJECT", "BY", "REASON"], entries.iter().map(row))
}

fn who(AuditEntry { actor, role, .. }: &AuditEntry) -> String {
    match role {
        Some(role) => format!("{actor} as {role}"),
        None => actor.clone(),
    }
}

/// One JSON object a line, for programs.
pub fn to_json(entries: &[AuditEntry]) -> String {
    entries.iter().map(|entry| format!("{}\n", described(entry))).collect()
}

/// A change as JSON. Its id is a string: it may exceed what JavaScript can tell apart.
pub fn described(AuditEntry { id, at, command, subject, affected, reason, actor, role }: &AuditEntry) -> Value {
    json!({
        "id": id.to_string(),
        "at": at.to_rfc3339_opts(SecondsFormat::Micros, true),
        "command": command,
        "subject": subject,
        "affected": affected,
        "reason": reason,
        "actor": actor,
        "role": role,
    })
}
