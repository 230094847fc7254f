//! Steering the relay that leads: pausing it, and making it step down.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::admin::change::{Change, Decision};
use crate::admin::status::{pause_subject, resuming, standbys};
use crate::cli;
use crate::commands::configured::database;
use crate::commands::runtime::block_on;
use crate::contract::{Leader, StoreError};
use crate::outbox::{Pause, TopicPattern};

/// Pauses everything, or some topics.
pub(super) fn pause(cli::Pause { topic, until, change, settings }: cli::Pause) -> anyhow::Result<ExitCode> {
    let (database, change, topics) = (database(&settings)?, Change::from(change), normal(topic));
    let what = format!("{}{}", named(&topics), told(until));
    if change.decide(&format!("pause {what}"))? == Decision::Make {
        let intent = change.intent("pause", pause_subject(&topics, until));
        block_on(database.pause(&topics, until, &intent))??;
        println!("paused {what}; the leader obeys within a second, and `{}` ends it", resuming(&topics));
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends a pause.
pub(super) fn resume(cli::Resume { topic, change, settings }: cli::Resume) -> anyhow::Result<ExitCode> {
    let (database, change, topics) = (database(&settings)?, Change::from(change), normal(topic));
    let pauses = block_on(database.orders())??.pauses;
    if !pauses.iter().any(|pause| pause.topics == topics) {
        return Err(not_paused(&topics, &pauses));
    }
    if change.decide(&format!("resume {}", named(&topics)))? == Decision::Make {
        let intent = change.intent("resume", pause_subject(&topics, None));
        if !block_on(database.resume(&topics, &intent))?? {
            anyhow::bail!("the pause of {} has ended meanwhile", named(&topics));
        }
        println!("resumed {}; the leader goes on within a second", named(&topics));
    }
    Ok(ExitCode::SUCCESS)
}

/// That there is no such pause, and which there are.
fn not_paused(topics: &TopicPattern, pauses: &[Pause]) -> anyhow::Error {
    let others: Vec<String> = pauses.iter().map(|pause| format!("{pause}: `{}`", resuming(&pause.topics))).collect();
    match others.is_empty() {
        true => anyhow::anyhow!("nothing is paused"),
        false => anyhow::anyhow!("there is no pause of {}; {}", named(topics), others.join("; ")),
    }
}

/// Asks the relay that leads to hand over.
pub(super) fn step_down(cli::StepDown { change, settings }: cli::StepDown) -> anyhow::Result<ExitCode> {
    let (database, change) = (database(&settings)?, Change::from(change));
    let (leader, standbys) = block_on(async {
        let leader = database.leader().await?;
        let standbys = standbys(&*database, leader.as_ref()).await?;
        Ok::<_, StoreError>((leader, standbys))
    })??;
    let Some(Leader { term, holder, .. }) = leader else {
        anyhow::bail!("nobody leads: there is none that could step down; `outboxd status` says what waits");
    };
    if standbys.is_empty() {
        eprintln!(
            "outboxd: warning: no standby is known: unless another relay runs, nobody leads for some seconds, and then {holder} again"
        );
    }
    if change.decide(&format!("ask {holder}, the leader of term {term}, to step down"))? == Decision::Make {
        let intent = change.intent("step-down", format!("{holder}, term {term}"));
        if !block_on(database.request_step_down(term, &intent))?? {
            anyhow::bail!("{holder} has stepped down or lost its lease meanwhile; `outboxd status` says who leads now");
        }
        println!("asked {holder}, the leader of term {term}, to step down; it hands over within a second");
    }
    Ok(ExitCode::SUCCESS)
}

/// A pattern of all topics is one, however it is written.
fn normal(topic: Option<TopicPattern>) -> TopicPattern {
    topic.map_or_else(TopicPattern::any, TopicPattern::normal)
}

fn named(topics: &TopicPattern) -> String {
    if topics.is_any() { "everything".to_owned() } else { format!("topics {topics}") }
}

fn told(until: Option<DateTime<Utc>>) -> String {
    until.map_or_else(String::new, |until| format!(" until {}", until.to_rfc3339_opts(SecondsFormat::Secs, true)))
}
