//! Starting other programs beside brokers in this process.
//!
//! A child has all of its parent's sockets until it has become another program. A broker in this process that goes down just
//! then cannot take its address again, and its library ends the process: so the two exclude each other.

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};

use outboxd::kafka::{Broker, BrokerError};

static STARTING: RwLock<()> = RwLock::new(());

/// Starts a program.
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let _others_may = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a program to its end, and returns what it wrote.
pub(crate) fn run(command: &mut Command) -> io::Result<Output> {
    start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Takes all brokers down while no program is being started.
pub(crate) fn take_down(broker: &Broker) -> Result<(), BrokerError> {
    let _alone = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    broker.down()
}
