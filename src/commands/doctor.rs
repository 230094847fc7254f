//! `outboxd doctor`: the named checks, from outside.

use std::process::ExitCode;

use crate::admin::checks;
use crate::cli;
use crate::commands::configured::{gather, judge};
use crate::commands::runtime::block_on;
use crate::config::Needs;
use crate::doctor::{self, Depth};

/// The exit code where a check failed.
const FAILED: u8 = 1;

pub(super) fn examine(arguments: &cli::Doctor) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    let depth = if arguments.quick { Depth::Quick } else { Depth::Full };
    let examined = block_on(async { doctor::examine(&config, depth).await })??;
    let checks = &examined.checks;
    print!("{}", if arguments.json { checks::to_json(checks) } else { checks::to_text(checks) });
    Ok(if examined.is_well() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
