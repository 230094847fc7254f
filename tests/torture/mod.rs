//! Torture: rounds of load and faults, and after each the question whether anything was lost or reordered.
//!
//! A round is drawn from one number, its seed: the mode, what the writers do, which faults come when, what operators do meanwhile. It has two relays,
//! a PostgreSQL that may be killed and taken back to an earlier time, three Kafka brokers, and a proxy between each relay and the database. A failing
//! round prints its seed; `make torture SEED=… ROUNDS=1` plays it again, as far as a machine's timing can be.
//!
//! `OUTBOXD_TORTURE_ROUNDS` says how many rounds, `OUTBOXD_TORTURE_SEED` which comes first, `OUTBOXD_TORTURE_RECORD`
//! names a file in which totals add up.

mod commands;
mod deed;
mod history;
mod mode;
mod operator;
mod rig;
mod round;
mod rows;
mod script;
mod stage;
mod tally;
mod verify;
mod watch;

use std::env;

use crate::support::machine;
use crate::torture::rig::Rig;
use crate::torture::script::{KINDS, Script};
use crate::torture::tally::Tally;

/// Rounds where the environment does not say how many: every fault has its turn.
const ROUNDS: u64 = KINDS.len() as u64 / 2;

/// Rounds that may follow for faults that were not felt: one that comes while something else is broken may have no effect.
const MORE_ROUNDS: u64 = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_breaks_nothing_is_lost_and_no_lane_is_reordered() {
    let _machine = machine::loaded().await;
    let rounds = number("OUTBOXD_TORTURE_ROUNDS").unwrap_or(ROUNDS);
    let first = number("OUTBOXD_TORTURE_SEED").unwrap_or_else(|| script::seed(rand::random(), 0));
    let record = env::var("OUTBOXD_TORTURE_RECORD").ok().filter(|file| !file.is_empty());
    let rig = Rig::start();
    let mut tally = Tally::new(first);
    let mut more = 0..MORE_ROUNDS;
    let mut next = (rounds > 0).then_some(0);
    while let Some(round) = next {
        let seed = if round == 0 { first } else { script::seed(first, round) };
        let script = Script::draw(seed);
        println!("round {round}: {script}");
        let outcome = round::play(&rig, &script).await;
        println!("round {round}: {outcome}");
        let failure = outcome.failure.clone();
        tally.add(&script, &outcome);
        if let Some(file) = &record {
            tally.save(file);
        }
        if let Some(failure) = failure {
            panic!("round {round} failed; play it again with: make torture SEED={seed} ROUNDS=1\n{failure}");
        }
        next = match round + 1 {
            following if following < rounds => Some(following),
            following => {
                tally.never_felt(rounds).and_then(|kind| more.next().map(|_| script::next_with(first, kind, following)))
            }
        };
    }
    println!("{tally}");
    assert_eq!(tally.never_felt(rounds), None, "not even in {MORE_ROUNDS} rounds more");
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a whole number: {text}")))
}
