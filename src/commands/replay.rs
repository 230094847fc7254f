//! Sending rows again, and what runs for a while.

use std::process::ExitCode;

use crate::admin::change::{Change, Decision};
use crate::admin::operations::{self, LOOKED_AT, kept, time};
use crate::cli;
use crate::commands::configured::database;
use crate::commands::runtime::block_on;
use crate::observe::grouped;
use crate::outbox::{Replay, Replayable};

/// Asks for a replay.
pub(super) fn replay(arguments: cli::Replay) -> anyhow::Result<ExitCode> {
    let cli::Replay { topic, key, since, until, to_topic, rate, change, settings } = arguments;
    let (database, change) = (database(&settings)?, Change::from(change));
    let replay = Replay { topic, key, since, until, to_topic, rate };
    let found = block_on(database.replayable(&replay, LOOKED_AT))??;
    if found.rows == 0 && !found.is_floor {
        anyhow::bail!(operations::nothing(&found));
    }
    let what = format!("send {} again to topic {}, {} a second", rows(&found), replay.target(), grouped(rate.into()));
    if change.decide(&what)? == Decision::Make {
        let id = block_on(database.start_replay(&replay, &change.intent("replay", &replay)))??;
        println!("operation {id}: the leader will {what}; {}", kept(&found));
        println!("`outboxd operations ls` says how far it is, and `outboxd operations cancel {id}` ends it");
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(Replayable { rows, is_floor, written, .. }: &Replayable) -> String {
    let rows = match (rows, is_floor) {
        (1, false) => "1 row".to_owned(),
        (rows, false) => format!("{} rows", grouped(*rows)),
        (rows, true) => format!("at least {} rows", grouped(*rows)),
    };
    match written {
        Some((first, last)) if first != last => format!("{rows} written from {} to {}", time(first), time(last)),
        Some((first, _)) => format!("{rows} written at {}", time(first)),
        None => rows,
    }
}

/// Lists operations, or ends one.
pub(super) fn operations(command: cli::Operations) -> anyhow::Result<ExitCode> {
    match command {
        cli::Operations::Ls { limit, json, settings } => {
            let operations = block_on(database(&settings)?.operations(limit))??;
            print!("{}", if json { operations::to_json(&operations) } else { operations::to_text(&operations) });
        }
        cli::Operations::Cancel { id, change, settings } => {
            let (database, change) = (database(&settings)?, Change::from(change));
            let running = block_on(database.next_operation())??;
            let is_known = running.is_some_and(|operation| operation.id <= id);
            if !is_known {
                anyhow::bail!("operation {id} does not run; `outboxd operations ls` lists what does");
            }
            if change.decide(&format!("cancel operation {id}"))? == Decision::Make {
                let intent = change.intent("operations cancel", id);
                if !block_on(database.cancel_operation(id, &intent))?? {
                    anyhow::bail!("operation {id} does not run; `outboxd operations ls` lists what does");
                }
                println!("cancelled operation {id}; what was sent stays sent");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
