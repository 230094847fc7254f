//! The `outboxd` binary: parse, dispatch; print what went wrong once; exit.

use std::process::ExitCode;

use outboxd::cli::Cli;
use outboxd::commands;
use outboxd::config::complaint::Complaints;
use outboxd::observe::chain;

/// librdkafka allocates and frees several times a message; jemalloc replaces the C allocator for it, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const FAILED: u8 = 1;
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    match commands::dispatch(Cli::from_arguments().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outboxd: error: {}", chain(error.as_ref()));
            ExitCode::from(if error.is::<Complaints>() { MISUSED } else { FAILED })
        }
    }
}
