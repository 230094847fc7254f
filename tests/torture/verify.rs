//! The second audit: `outboxd verify`, as an operator runs it, which knows nothing of the writers.

use std::process::Command;

use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::support::kafka::Topic;
use crate::torture::mode::Mode;
use crate::torture::stage::{Outbox, Stage};

/// Damage, by the names in the report.
const DAMAGE: [&str; 3] = ["lost", "reordered", "unexpected"];

/// Audits every outbox of a round that has come to its end.
///
/// # Errors
/// What the audit finds wrong, or why it could not be done.
pub(crate) async fn verify(stage: &Stage<'_>, mode: Mode, since: Option<DateTime<Utc>>) -> Result<(), String> {
    let audits = stage.outboxes.iter().map(async |outbox| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.args(["verify", "--json", "--database-url", stage.database.url()]);
        command.args(["--brokers", &stage.rig.brokers, "--table", &outbox.table]);
        command.args(outbox.audited().flat_map(|topic: &Topic| ["--topic", topic.name()]));
        command.env("OUTBOXD_OUTBOX__SETTLE", mode.settle);
        if let Some(since) = since {
            command.args(["--since", &since.to_rfc3339()]);
        }
        if mode.is_exact() {
            command.arg("--no-duplicates");
        }
        let output = spawn_blocking(move || command.output()).await.expect("no panic");
        judge(outbox, mode, output.expect("the binary starts"))
    });
    try_join_all(audits).await.map(drop)
}

fn judge(outbox: &Outbox, mode: Mode, output: std::process::Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = || {
        let complained = String::from_utf8_lossy(&output.stderr);
        Err(format!("outboxd verify of {}: {}\n{said}\n{complained}", outbox.table, output.status))
    };
    let Ok(report) = serde_json::from_str::<Value>(&said) else { return complaint() };
    let is_zero = |name: &&str| report[name].as_u64() == Some(0);
    // Rows that were published and are not recorded so would be published again.
    let is_settled = mode.settle == "delete" || is_zero(&"not_published_yet");
    let is_sound = output.status.success() && DAMAGE.iter().all(is_zero) && is_settled;
    if is_sound { Ok(()) } else { complaint() }
}
