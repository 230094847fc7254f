//! Single messages: looking for them, putting them back, giving them up.

use std::process::ExitCode;

use anyhow::{Error, bail};
use chrono::{DateTime, Utc};

use crate::admin::change::{Change, Decision};
use crate::admin::letters::{self, BATCH, MeantLetters};
use crate::admin::purging::{self, FROM_THE_FIRST};
use crate::admin::{finding, messages, skipping};
use crate::cli;
use crate::commands::configured::database;
use crate::commands::runtime::block_on;
use crate::contract::{Database, Found, FoundMessage, LetterSearch, PurgeStep};
use crate::observe::grouped;
use crate::outbox::{HeldLane, MessageFilter, MessageState};

/// Bytes of a payload, and characters of headers, that are shown.
const SHOWN: u32 = 1 << 20;

/// Messages that one id, or one event id, may bring.
const MOST_NAMED: u32 = 1_000;

/// Lists messages.
pub(super) fn ls(arguments: cli::Ls) -> anyhow::Result<ExitCode> {
    let cli::Ls { state, filter, limit, json, settings } = arguments;
    let (database, filter) = (database(&settings)?, filter.into());
    let (found, held) = block_on(finding::look(&*database, &filter, state, limit))??;
    show_list(&found, &held, json, limit);
    Ok(ExitCode::SUCCESS)
}

fn show_list(found: &Found, held: &[HeldLane], json: bool, limit: u32) {
    let Found { messages, .. } = found;
    print!("{}", if json { messages::to_json(messages, held) } else { messages::to_text(messages, held) });
    if messages.len() >= limit as usize {
        eprintln!("these are the first {}; --limit shows more", grouped(limit.into()));
    } else {
        tell_bound(found);
    }
}

/// Says of a search that it did not look at everything.
fn tell_bound(found: &Found) {
    if let Some(bound) = finding::bound(found) {
        eprintln!("{bound}");
    }
}

/// The messages of an id or an event id, and what is held.
pub(super) async fn find(
    database: &dyn Database,
    which: &str,
    since: Option<DateTime<Utc>>,
) -> anyhow::Result<(Vec<FoundMessage>, Vec<HeldLane>)> {
    let filter = MessageFilter { since, ..finding::named(which).map_err(Error::msg)? };
    let (found, held) = finding::look(database, &filter, None, MOST_NAMED).await?;
    if found.messages.is_empty() {
        tell_bound(&found);
    }
    Ok((found.messages, held))
}

/// Shows where one message is, and what happened to it.
pub(super) fn show(arguments: &cli::ShowMessage) -> anyhow::Result<ExitCode> {
    show_one(arguments, None)
}

fn show_one(arguments: &cli::ShowMessage, state: Option<MessageState>) -> anyhow::Result<ExitCode> {
    let mut filter = finding::named(&arguments.which).map_err(Error::msg)?;
    (filter.since, filter.until) = (arguments.since, arguments.until);
    let database = database(&arguments.settings)?;
    let told = block_on(async {
        let (found, held) = finding::look(&*database, &filter, state, MOST_NAMED).await?;
        let mut text = String::new();
        for message in &found.messages {
            let carried = if arguments.payload { database.carried(message, SHOWN).await? } else { None };
            if arguments.json {
                text.push_str(&messages::story_to_json(message, &held, carried.as_ref()));
                continue;
            }
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&messages::story(message, &held));
            text.push_str(&carried.map(|carried| messages::carried_to_text(message, &carried)).unwrap_or_default());
        }
        anyhow::Ok((found, text))
    });
    let (found, text) = told??;
    if found.messages.is_empty() {
        tell_bound(&found);
        bail!(finding::missing(state));
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Lists, shows, puts back or deletes dead letters.
pub(super) fn dead(command: cli::Dead) -> anyhow::Result<ExitCode> {
    match command {
        cli::Dead::Ls { cause, filter, limit, json, settings } => {
            let database = database(&settings)?;
            let search = LetterSearch { filter: filter.into(), cause, limit, ..LetterSearch::default() };
            let found = block_on(database.dead_letters(&search))??;
            show_list(&found, &[], json, limit);
            Ok(ExitCode::SUCCESS)
        }
        cli::Dead::Show(arguments) => show_one(&arguments, Some(MessageState::Dead)),
        cli::Dead::Requeue { which, change, settings } => {
            let database = database(&settings)?;
            block_on(requeue(&*database, which, &change.into()))?
        }
        cli::Dead::Discard { which, change, settings } => {
            let database = database(&settings)?;
            block_on(discard(&*database, which, &change.into()))?
        }
    }
}

/// The dead letters that a command means.
async fn meant(database: &dyn Database, which: cli::Letters) -> anyhow::Result<MeantLetters> {
    let cli::Letters { all, cause, filter, limit } = which;
    let filter = MessageFilter::from(filter);
    if !all && cause.is_none() && filter.means_all() {
        bail!("say which: --all, --cause, --topic, --key, --partition, --since, --until, --id or --event-id");
    }
    let meant = letters::meant(database, filter, cause, limit).await?;
    if meant.letters.is_empty() {
        bail!("no dead letter is meant by that; `outboxd dead ls` lists them");
    }
    Ok(meant)
}

/// How many they are, and whether they are all.
fn counted(MeantLetters { letters, are_more, .. }: &MeantLetters) -> String {
    let letters = letters_of(letters.len() as u64);
    if *are_more { format!("the oldest {letters} of more (--limit)") } else { letters }
}

async fn requeue(database: &dyn Database, which: cli::Letters, change: &Change) -> anyhow::Result<ExitCode> {
    let meant = meant(database, which).await?;
    let overtaken = database.overtaken(&meant.letters).await?;
    if overtaken.lanes > 0 {
        let (lanes, floor) = (grouped(overtaken.lanes), if overtaken.is_floor { " or more" } else { "" });
        eprintln!(
            "warning: of {lanes}{floor} of their lanes later messages were sent already, or go first: the letters come after those"
        );
    } else if overtaken.is_floor {
        eprintln!(
            "warning: later messages of their lanes may have been sent already, and removed since: the letters come after those"
        );
    }
    if change.decide(&format!("put {} back", counted(&meant)))? == Decision::Leave {
        return Ok(ExitCode::SUCCESS);
    }
    let intent = change.intent("dead requeue", &meant.subject);
    let told = |done| tell_progress("put back", done, meant.letters.len());
    let done = letters::requeue(database, &meant.letters, &intent, told).await?;
    let stay = meant.letters.len() as u64 - done;
    if stay > 0 {
        eprintln!(
            "{} cannot go back: they cannot be read as messages, another row has their id by now, or another session has locked or moved them; `outboxd dead show ID` tells of one",
            letters_of(stay)
        );
    }
    if done == 0 {
        bail!("nothing was put back");
    }
    println!("put back {}; the relay publishes them in the order of their ids", letters_of(done));
    Ok(ExitCode::SUCCESS)
}

async fn discard(database: &dyn Database, which: cli::Letters, change: &Change) -> anyhow::Result<ExitCode> {
    let meant = meant(database, which).await?;
    if change.decide(&format!("delete {} for good", counted(&meant)))? == Decision::Leave {
        return Ok(ExitCode::SUCCESS);
    }
    let intent = change.intent("dead discard", &meant.subject);
    let told = |done| tell_progress("deleted", done, meant.letters.len());
    let done = letters::discard(database, &meant.letters, &intent, told).await?;
    println!("deleted {}", letters_of(done));
    Ok(ExitCode::SUCCESS)
}

fn tell_progress(what: &str, done: u64, all: usize) {
    if all > BATCH {
        eprintln!("{what} {} of {}", grouped(done), grouped(all as u64));
    }
}

/// Gives up messages that wait.
pub(super) fn skip(arguments: cli::Skip) -> anyhow::Result<ExitCode> {
    let cli::Skip { ids, filter, limit, change, settings } = arguments;
    let (mut filter, change) = (MessageFilter::from(filter), Change::from(change));
    filter.ids.extend(ids);
    if filter.means_all() {
        bail!("say which: an ID, --topic, --key, --partition, --since, --until or --event-id");
    }
    let database = database(&settings)?;
    block_on(skip_waiting(&*database, &filter, limit, &change))?
}

async fn skip_waiting(
    database: &dyn Database,
    filter: &MessageFilter,
    limit: u32,
    change: &Change,
) -> anyhow::Result<ExitCode> {
    let meant = skipping::waiting(database, filter, limit).await?;
    let one = match &*meant {
        [one] => format!(" (id {} of topic {})", one.name.id, one.topic),
        _ => String::new(),
    };
    if change.decide(&format!("skip {}{one}", messages_of(meant.len() as u64)))? == Decision::Leave {
        return Ok(ExitCode::SUCCESS);
    }
    let done = skipping::skip(database, &meant, &change.intent("skip", filter)).await?;
    let stay = meant.len() as u64 - done;
    if stay > 0 {
        bail!(
            "skipped {}, and {} may be in flight by now: look again with `outboxd held ls`",
            messages_of(done),
            messages_of(stay)
        );
    }
    println!(
        "skipped {}, which `outboxd dead ls` lists from now on; `outboxd held release` lets a lane flow again",
        messages_of(done)
    );
    Ok(ExitCode::SUCCESS)
}

/// Removes what was sent before a time.
pub(super) fn purge(arguments: cli::Purge) -> anyhow::Result<ExitCode> {
    let cli::Purge { older_than, change, settings } = arguments;
    let database = database(&settings)?;
    block_on(purge_before(&*database, older_than, &change.into()))?
}

async fn purge_before(database: &dyn Database, older_than: DateTime<Utc>, change: &Change) -> anyhow::Result<ExitCode> {
    let PurgeStep { removed: counted, next } = purging::count(database, older_than, FROM_THE_FIRST).await?;
    if counted == 0 && next.is_none() {
        bail!(purging::nothing(older_than));
    }
    let (rows, more) = (rows_of(counted), if next.is_some() { " or more" } else { "" });
    let what = format!("remove {rows}{more} that were sent before {}", purging::time(older_than));
    if change.decide(&what)? == Decision::Leave {
        return Ok(ExitCode::SUCCESS);
    }
    let intent = change.intent("purge", purging::subject(older_than));
    let told = |removed| eprintln!("removed {}", rows_of(removed));
    let done = purging::remove(database, older_than, FROM_THE_FIRST, &intent, usize::MAX, told).await?;
    println!("removed {}", rows_of(done.removed));
    Ok(ExitCode::SUCCESS)
}

fn letters_of(number: u64) -> String {
    if number == 1 { "1 letter".to_owned() } else { format!("{} letters", grouped(number)) }
}

fn messages_of(number: u64) -> String {
    if number == 1 { "1 message".to_owned() } else { format!("{} messages", grouped(number)) }
}

fn rows_of(number: u64) -> String {
    if number == 1 { "1 row".to_owned() } else { format!("{} rows", grouped(number)) }
}
