//! The relay of the demo: a process of its own, so that killing it is a real kill.
//!
//! It is `outboxd run` with the demo's settings, except that it stops when its standard input ends: ctrl-c is
//! for the demo, and a demo that dies leaves no relay behind.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, bail};

use crate::demo::sabotage::Sabotage;

/// The relay's process; killed with this value.
#[derive(Debug)]
pub(crate) struct RelayPart {
    child: Child,
    /// While it is open, the relay runs.
    stdin: Option<ChildStdin>,
}

/// What it relays.
#[derive(Debug, Clone)]
pub(crate) struct Route<'a> {
    pub(crate) url: &'a str,
    pub(crate) brokers: &'a str,
    pub(crate) http: &'a str,
    pub(crate) log: PathBuf,
    pub(crate) sabotage: Option<Sabotage>,
}

impl RelayPart {
    /// Starts it.
    pub(crate) fn start(route: &Route<'_>) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(&route.log).context("cannot write the relay's log")?;
        let binary = std::env::current_exe().context("cannot find this binary to start the relay with")?;
        let mut command = Command::new(binary);
        command.args(["demo", "--relay-part", route.url, route.brokers, "--http", route.http]);
        if let Some(how) = route.sabotage {
            command.args(["--sabotage", how.as_str()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        // A process group of its own: ctrl-c reaches the demo alone.
        command.process_group(0);
        let mut child = command.spawn().context("cannot start the relay")?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, without warning.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to stop, and waits until it has drained.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        let waited = tokio::task::spawn_blocking(move || self.child.wait()).await;
        let status = waited.context("waiting for the relay panicked")?.context("cannot wait for the relay")?;
        if !status.success() {
            bail!("the relay did not stop gracefully: {status}");
        }
        Ok(())
    }
}

impl Drop for RelayPart {
    fn drop(&mut self) {
        let _gone_already = self.kill();
    }
}
