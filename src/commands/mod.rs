//! The commands: each composes what it needs from the rooms below, and says what came of it.
//!
//! - `run`: the relay, and its tables
//! - `letters`: single messages, dead or alive
//! - `trace`: one message, from its row to its records
//! - `operate`: what operators look at and change
//! - `support`: what is sent to those who help
//! - `doctor`: the named checks, from outside
//! - `replay`: sending rows again
//! - `steer`: pausing the relay that leads, and making it step down
//! - `tools`: auditing, measuring, the configuration, the demo, what is made of the command line's description
//! - `configured`, `runtime`: what they share

mod configured;
mod doctor;
mod letters;
mod operate;
mod replay;
mod run;
mod runtime;
mod steer;
mod support;
mod tools;
mod trace;

use std::process::ExitCode;

use crate::cli::{self, Command};

/// Does what a command says, and returns the exit code.
///
/// # Errors
/// With what went wrong, to what, and what would do; of [`Complaints`](crate::config::complaint::Complaints) where that is the configuration.
pub fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(run) => run::relay(&run.settings),
        Command::Migrate(migration) => run::migrate(&migration),
        Command::Status(arguments) => operate::status(&arguments),
        Command::Ls(arguments) => letters::ls(arguments),
        Command::Show(arguments) => letters::show(&arguments),
        Command::Trace(arguments) => trace::trace(&arguments),
        Command::Dead(dead) => letters::dead(dead),
        Command::Skip(arguments) => letters::skip(arguments),
        Command::Purge(arguments) => letters::purge(arguments),
        Command::Held(held) => operate::held(held),
        Command::Pause(arguments) => steer::pause(arguments),
        Command::Resume(arguments) => steer::resume(arguments),
        Command::StepDown(arguments) => steer::step_down(arguments),
        Command::Replay(arguments) => replay::replay(arguments),
        Command::Operations(command) => replay::operations(command),
        Command::AuditLog(arguments) => operate::audit_log(&arguments),
        Command::SupportBundle(arguments) => support::bundle(&arguments),
        Command::Verify(arguments) => tools::audit(arguments),
        Command::Bench(arguments) => tools::measure(arguments),
        Command::Config(show) => tools::show_config(&show),
        Command::Demo(arguments) => tools::demonstrate(arguments),
        Command::Doctor(arguments) => doctor::examine(&arguments),
        Command::Completions { shell } => tools::print(&cli::completions(shell)),
        Command::Man { words } => tools::print(&cli::man(&words)?),
    }
}
