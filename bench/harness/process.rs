//! A contestant at work: what it takes, as the kernel counts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::Fallible;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long it may take to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not outlive this value.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    taken: Arc<Taken>,
}

/// What it has taken so far. Looked at now and then, since a process that has ended is not there to be asked.
#[derive(Default)]
struct Taken {
    peak_kib: AtomicU64,
    cpu_ticks: AtomicU64,
    is_over: AtomicBool,
}

impl Taken {
    fn look(&self, pid: u32) {
        self.peak_kib.fetch_max(memory(pid, "VmHWM:"), Ordering::Relaxed);
        self.cpu_ticks.fetch_max(cpu_ticks(pid), Ordering::Relaxed);
    }
}

impl Running {
    pub(crate) fn new(child: Child, log: PathBuf) -> Self {
        let taken = Arc::new(Taken::default());
        let (pid, looked_at) = (child.id(), Arc::clone(&taken));
        thread::spawn(move || {
            while !looked_at.is_over.load(Ordering::Relaxed) {
                looked_at.look(pid);
                thread::sleep(LOOK);
            }
        });
        Self { child, log, taken }
    }

    /// The most memory it had resident so far, in MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.taken.look(self.child.id());
        self.taken.peak_kib.load(Ordering::Relaxed) as f64 / 1024.0
    }

    /// The memory that it has resident now, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        memory(self.child.id(), "VmRSS:") as f64 / 1024.0
    }

    /// User and system time it has taken so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.taken.look(self.child.id());
        self.taken.cpu_ticks.load(Ordering::Relaxed) as f64 / 100.0
    }

    /// # Errors
    /// When it has ended, with the end of what it said.
    pub(crate) fn is_alive(&mut self) -> Fallible<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("it ended by itself ({status}):\n{}", last_lines(&self.log)).into()),
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Fallible<()> {
        if self.has_ended() {
            return Ok(());
        }
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let end = Instant::now() + PATIENCE;
        while !self.has_ended() {
            if Instant::now() > end {
                return Err(format!("it did not stop within {PATIENCE:?}:\n{}", last_lines(&self.log)).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.taken.is_over.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time that a server and the processes it has started have taken so far, in seconds.
pub(crate) fn family_cpu_seconds(pid: u32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    (cpu_ticks(pid) + children.map(cpu_ticks).sum::<u64>()) as f64 / 100.0
}

/// User and system time, with that of the children it has waited for: fields of a stat file, numbered as in proc(5), in
/// ticks of which there are 100 a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (14..=17).map(ticks).sum()
}

/// A line of a status file, in KiB.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
