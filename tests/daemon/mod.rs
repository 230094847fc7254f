//! The binary and its configuration, as an operator meets them.

mod api;
mod bench;
mod canary;
mod cli;
mod config;
mod demo;
mod doctor;
mod giving_up;
mod http;
mod letters;
mod log_level;
mod metrics;
mod migrate;
mod monitoring;
mod operate;
mod panics;
mod place;
mod readiness;
mod refusals;
mod replay;
mod searching;
mod shutdown;
mod small;
mod status;
mod steer;
mod support;
mod trace;
#[cfg(feature = "otel")]
mod traces;

use std::process::{Command, Output, Stdio};

use crate::support::children;

/// The binary with these arguments, and none of this process's settings in its environment.
fn outboxd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTBOXD_") {
            command.env_remove(name);
        }
    }
    command.env_remove("COLUMNS").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
fn ran(arguments: &[&str]) -> Output {
    children::run(&mut outboxd(arguments)).expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the binary writes UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the binary writes UTF-8")
}
