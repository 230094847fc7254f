//! Services of a test's own, for tests that kill or stop them: started by the testbed's scripts in a folder
//! below the testbed's, which goes with this value unless the test failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::services::{Server, variable};

/// A PostgreSQL cluster of one's own.
pub(crate) struct Postgres {
    service: Service,
    server: Server,
}

/// An Apache Kafka broker of one's own.
pub(crate) struct Kafka {
    service: Service,
    brokers: String,
}

impl Postgres {
    /// Makes a fresh cluster and starts it.
    pub(crate) fn start() -> Self {
        let service = Service::new("postgres.sh");
        let server = Server::at(service.run("start"));
        Self { service, server }
    }

    /// Where it listens.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Kills the postmaster with SIGKILL, and all that belongs to it: what was not written to a file is gone.
    pub(crate) fn kill(&self) {
        self.service.run("kill");
    }

    /// Stops it if it runs, breaking its connections, and starts it at the same address.
    pub(crate) fn restart(&self) {
        self.service.run("restart");
    }
}

impl Kafka {
    /// Makes a fresh broker and starts it.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Makes a fresh cluster of three and starts it. Each broker keeps all; two must have a record before it counts
    /// as written.
    pub(crate) fn start_three(settings: &[&str]) -> Self {
        Self::start_with(&[&["--brokers", "3"], settings].concat())
    }

    fn start_with(arguments: &[&str]) -> Self {
        let service = Service::new("kafka.sh");
        let brokers = service.run_with("start", arguments);
        Self { service, brokers }
    }

    /// Stops one broker, numbered from 1, in order: it hands its partitions to the others first.
    pub(crate) fn stop_broker(&self, broker: usize) {
        self.service.run_with("stop", &["--broker", &broker.to_string()]);
    }

    /// Kills one broker with SIGKILL.
    pub(crate) fn kill_broker(&self, broker: usize) {
        self.service.run_with("kill", &["--broker", &broker.to_string()]);
    }

    /// Starts one broker again, stopping it first if it runs.
    pub(crate) fn restart_broker(&self, broker: usize) {
        self.service.run_with("restart", &["--broker", &broker.to_string()]);
    }

    /// Where it listens.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Stops it.
    pub(crate) fn stop(&self) {
        self.service.run("stop");
    }

    /// Starts it again at the same address, with what it held.
    pub(crate) fn restart(&self) {
        self.service.run("restart");
    }
}

/// A script of the testbed and the folder that it works in.
struct Service {
    script: &'static str,
    folder: PathBuf,
}

impl Service {
    fn new(script: &'static str) -> Self {
        // The script makes the folder: whoever the service runs as must be able to reach it.
        let testbed = PathBuf::from(variable("OUTBOXD_TESTBED"));
        Self { script, folder: testbed.join(format!("throwaway-{:016x}", rand::random::<u64>())) }
    }

    /// Runs a command of the script; says the last line that it prints.
    fn run(&self, command: &str) -> String {
        self.run_with(command, &[])
    }

    fn run_with(&self, command: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed").join(self.script);
        let ran = Command::new(&script).arg(command).arg(&self.folder).args(arguments).output();
        let output = ran.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {command} failed: {said}{complaint}", script.display());
        said.lines().last().unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed").join(self.script);
        let _nothing_runs = Command::new(script).arg("stop").arg(&self.folder).output();
        if std::thread::panicking() {
            return eprintln!("{} is left for a look", self.folder.display());
        }
        if let Ok(socket) = fs::read_to_string(self.folder.join("socket")) {
            let _already_gone = fs::remove_dir_all(socket.trim());
        }
        let _already_gone = fs::remove_dir_all(&self.folder);
    }
}
