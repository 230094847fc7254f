//! `make bench`: drives every contestant through the same loads, one at a time and in turns, and writes what came out.
//!
//! A contestant is a folder of `bench/peers/`; a load is a variant of [`load::Work`]. Each measurement gets a fresh
//! table and a fresh topic on a PostgreSQL and a Kafka of the benchmark's own, and is kept in
//! `target/bench/results.json` at once, so that a run that was interrupted goes on where it was. What is on record
//! becomes a table, plots and ratios: `target/bench/report.md`, the same in `report.json`, and the SVGs beside them.

mod aims;
mod contestant;
mod drain;
mod idle;
mod inserts;
mod load;
mod plot;
mod process;
mod report;
mod results;
mod rig;
mod stages;
mod steady;
mod topic;
mod writers;

use std::path::PathBuf;

use clap::Parser;

use crate::contestant::{Contestant, Mode};
use crate::load::{Load, Work};
use crate::results::{Figures, Results};
use crate::rig::Rig;

/// Rounds of drains before anything is measured.
const WARM_UPS: u32 = 3;

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures outboxd and its peers, side by side.
#[derive(Parser)]
struct Options {
    /// Only the loads whose name begins like one of these.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Only contestants in modes whose name begins like one of these, such as `outboxd` or `outboxd/mark`.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<String>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Shorter loads, one round, and only default modes and what is beside them: the main ratios within five minutes.
    #[arg(long)]
    quick: bool,
    /// Forgets what is on record.
    #[arg(long)]
    fresh: bool,
    /// Only writes the report of what is on record.
    #[arg(long)]
    report: bool,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(chosen: &[String], name: &str) -> bool {
        chosen.is_empty() || chosen.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let options = Options::parse();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let file = if options.quick { "quick.json" } else { "results.json" };
    let mut results = Results::open(folder.join(file), options.fresh)?;
    if !options.report {
        measure(&options, &mut results).await?;
    }
    report::write(&results, &folder)?;
    Ok(())
}

async fn measure(options: &Options, results: &mut Results) -> Fallible<()> {
    let contestants = Contestant::all()?;
    let rounds = if options.quick { 1 } else { options.rounds };
    let rig = Rig::start()?;
    results.describe(&rig).await?;
    let mut is_warm = false;
    for loads in load::all(options.quick).chunk_by(|one, next| one.beside == next.beside) {
        for round in 1..=rounds {
            for (load, contestant, mode) in turns(loads, &contestants, round) {
                let name = format!("{}/{}", contestant.name, mode.name);
                let is_wanted = Options::wants(&options.loads, load.name)
                    && Options::wants(&options.contestants, &name)
                    && (!options.quick || mode.is_beside_a_default(&contestants));
                if !is_wanted || results.has(load, &name, round) {
                    continue;
                }
                contestant.prepare()?;
                if !std::mem::replace(&mut is_warm, true) {
                    warm_up(&rig, options, &contestants).await?;
                }
                let figures = put_through(&rig, contestant, mode, load).await;
                let figures = figures.map_err(|error| format!("{}, {name}: {error}", load.name))?;
                eprintln!("{}, round {round}, {name}: {figures}", load.name);
                results.add(load, &name, round, figures)?;
            }
        }
    }
    Ok(())
}

/// Who is put through what in a round, in this order. What is held against each other is measured one right after the
/// other: the machine's speed changes within minutes.
fn turns<'a>(
    loads: &'a [Load],
    contestants: &'a [Contestant],
    round: u32,
) -> Vec<(&'a Load, &'a Contestant, &'a Mode)> {
    let mut turns: Vec<_> = loads
        .iter()
        .flat_map(|load| contestants.iter().flat_map(move |one| one.modes_for(load).map(move |mode| (load, one, mode))))
        .collect();
    turns.sort_by_key(|(_, _, mode)| mode.beside());
    if round.is_multiple_of(2) {
        // There and back: what drifts favours no contestant.
        turns.reverse();
    }
    turns
}

/// Puts a contestant through a load.
async fn put_through(rig: &Rig, contestant: &Contestant, mode: &Mode, load: &Load) -> Fallible<Figures> {
    match &load.work {
        Work::Drain(drain) => drain::run(rig, contestant, mode, drain).await,
        Work::Steady(steady) => steady::run(rig, contestant, mode, steady).await,
        Work::Idle(idle) => idle::run(rig, contestant, mode, idle).await,
        Work::Inserts(load) => inserts::run(rig, contestant, mode, load).await,
        Work::Stages(load) => stages::run(rig, contestant, mode, load),
        Work::Writers(writers) => writers::run(rig, contestant, mode, writers).await,
    }
}

/// Lets the bare loop and the contestants that are wanted drain backlogs, which are not counted. Servers that were just
/// started are slow, and the broker's compiler takes up to four seconds of a core in a first drain by transactions, and
/// half a second in the fifth still: the contestant that came first would pay for it. Where time is short the bare loop
/// does it alone.
async fn warm_up(rig: &Rig, options: &Options, contestants: &[Contestant]) -> Fallible<()> {
    let (rounds, backlog) = if options.quick { (2, load::WARM_UP) } else { (WARM_UPS, load::BACKLOG) };
    let load = [Load { name: "drain", beside: "drain", all_modes: !options.quick, work: Work::Drain(backlog) }];
    for round in 1..=rounds {
        for (load, contestant, mode) in turns(&load, contestants, round) {
            let name = format!("{}/{}", contestant.name, mode.name);
            let is_wanted = !options.quick && Options::wants(&options.contestants, &name);
            if is_wanted || contestant.name == "bare-loop" {
                contestant.prepare()?;
                eprintln!("warm-up, round {round}, {name}");
                put_through(rig, contestant, mode, load).await.map_err(|error| format!("warm-up, {name}: {error}"))?;
            }
        }
    }
    Ok(())
}
