//! Services of a test's own, for tests that kill or stop them: started by the testbed's scripts in a folder
//! below the testbed's, which goes with this value unless the test failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::children;
use crate::support::services::{Server, variable};

/// Options of a Java that is over before its best code would pay.
const SHORT_LIVED_JVM: &str = "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

/// A PostgreSQL cluster of one's own.
pub(crate) struct Postgres {
    service: Service,
    server: Server,
}

/// What a cluster held at a time. It goes with the cluster.
pub(crate) struct Backup(PathBuf);

/// A MySQL or MariaDB server of one's own.
pub(crate) struct MySql {
    service: Service,
    server: Server,
}

/// Two nodes of MariaDB that both take writes.
pub(crate) struct Galera {
    _service: Service,
    nodes: [Server; 2],
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

    /// Copies what it holds, while it works.
    pub(crate) fn back_up(&self) -> Backup {
        let copy = self.service.folder.join(format!("copy-{:016x}", rand::random::<u64>()));
        self.service.run_with("backup", &[path(&copy)]);
        Backup(copy)
    }

    /// Starts it at the same address with what it held at the time of the backup, as if nothing had happened since: on
    /// the same timeline, so that transaction ids and places in the log are used again.
    pub(crate) fn restore(&self, backup: &Backup) {
        self.service.run_with("restore", &[path(&backup.0)]);
    }

    /// Makes a standby that follows it.
    pub(crate) fn standby(&self) -> Self {
        let service = Service::new("postgres.sh");
        let server = Server::at(service.run_with("standby", &[path(&self.service.folder)]));
        Self { service, server }
    }

    /// A standby gets nothing from its primary any more.
    pub(crate) fn detach(&self) {
        self.service.run("detach");
    }

    /// A standby takes writes from now on, with what it got.
    pub(crate) fn promote(&self) {
        self.service.run("promote");
    }

    /// Goes on at the same address as this standby of it, which is promoted: what the standby did not get is gone.
    pub(crate) fn fail_over(&self, standby: Self) {
        standby.promote();
        standby.service.run("stop");
        self.service.run_with("restore", &[path(&standby.service.folder.join("data"))]);
    }
}

impl MySql {
    /// Makes a fresh MySQL and starts it.
    pub(crate) fn start() -> Self {
        Self::start_by("mysql.sh")
    }

    /// Makes a fresh MariaDB and starts it.
    pub(crate) fn start_mariadb() -> Self {
        Self::start_by("mariadb.sh")
    }

    fn start_by(script: &'static str) -> Self {
        let service = Service::new(script);
        let server = Server::at(service.run("start"));
        Self { service, server }
    }

    /// Where it listens.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Kills it with SIGKILL, and starts it again at the same address with what is in its files.
    pub(crate) fn crash(&self) {
        self.service.run("kill");
        self.service.run("start");
    }
}

impl Galera {
    /// Makes a fresh cluster and starts it.
    pub(crate) fn start() -> Self {
        let service = Service::new("galera.sh");
        service.run("start");
        let url = |node: &str| fs::read_to_string(service.folder.join(node).join("url")).expect("the script wrote it");
        let nodes = ["1", "2"].map(|node| Server::at(url(node).trim()));
        Self { _service: service, nodes }
    }

    /// Where they listen.
    pub(crate) fn nodes(&self) -> &[Server; 2] {
        &self.nodes
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

    /// Makes a fresh broker and starts it with these settings, besides the testbed's.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let service = Service::new("kafka.sh");
        let brokers = service.run_with("start", arguments);
        Self { service, brokers }
    }

    /// One that asks who may do what: every user may do everything that is not denied.
    pub(crate) fn start_guarded() -> Self {
        Self::start_with(&[
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=true",
        ])
    }

    /// Stops one broker, numbered from 1, in order: it hands its partitions to the others first.
    pub(crate) fn stop_broker(&self, broker: usize) {
        self.service.run_with("stop", &["--broker", &broker.to_string()]);
    }

    /// Kills one broker with SIGKILL.
    pub(crate) fn kill_broker(&self, broker: usize) {
        self.service.run_with("kill", &["--broker", &broker.to_string()]);
    }

    /// Lets one broker hang: its connections stay, and nothing comes through them.
    pub(crate) fn pause_broker(&self, broker: usize) {
        self.service.run_with("pause", &["--broker", &broker.to_string()]);
    }

    /// Lets it go on.
    pub(crate) fn resume_broker(&self, broker: usize) {
        self.service.run_with("resume", &["--broker", &broker.to_string()]);
    }

    /// Starts one broker again, stopping it first if it runs.
    pub(crate) fn restart_broker(&self, broker: usize) {
        self.service.run_with("restart", &["--broker", &broker.to_string()]);
    }

    /// Where it listens.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Where it listens for those who say who they are, over TLS.
    pub(crate) fn secure(&self) -> String {
        fs::read_to_string(self.service.folder.join("secure")).expect("the script writes it").trim().to_owned()
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

fn path(folder: &Path) -> &str {
    folder.to_str().expect("a path that is text")
}

/// A script of the testbed and the folder that it works in.
struct Service {
    script: &'static str,
    folder: PathBuf,
}

impl Service {
    fn new(script: &'static str) -> Self {
        // The script makes the folder: the user that the service runs as must be able to reach it.
        let testbed = PathBuf::from(variable("OUTBOXD_TESTBED"));
        Self { script, folder: testbed.join(format!("throwaway-{:016x}", rand::random::<u64>())) }
    }

    /// Runs a command of the script; says the last line that it prints.
    fn run(&self, command: &str) -> String {
        self.run_with(command, &[])
    }

    fn run_with(&self, command: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed").join(self.script);
        let mut script_and_command = Command::new(&script);
        script_and_command.arg(command).arg(&self.folder).args(arguments).env("KAFKA_JVM", SHORT_LIVED_JVM);
        let ran = children::run(&mut script_and_command);
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
        // Brokers without a quorum take a minute to stop, and no test wants what they hold.
        let command = if self.script == "kafka.sh" { "kill" } else { "stop" };
        let _nothing_runs = children::run(Command::new(script).arg(command).arg(&self.folder));
        if std::thread::panicking() {
            return eprintln!("{} is left for a look", self.folder.display());
        }
        if let Ok(socket) = fs::read_to_string(self.folder.join("socket")) {
            let _already_gone = fs::remove_dir_all(socket.trim());
        }
        let _already_gone = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::Postgres;
    use crate::support::database::Database;
    use crate::support::{machine, wait};

    const SUM: &str = "select sum(i) from t";

    async fn cluster() -> (Postgres, Database) {
        let postgres = Postgres::start();
        let database = Database::empty(postgres.server()).await;
        database.run("create table t (i int); insert into t values (1)").await;
        (postgres, database)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restored_backup_knows_nothing_of_what_came_after_it_and_counts_transactions_again() {
        let _machine = machine::shared().await;
        let (postgres, database) = cluster().await;
        let backup = postgres.back_up();
        database.run("insert into t values (2)").await;
        let id = "select pg_current_xact_id()::text::bigint";
        let last = database.number(id).await;
        postgres.restore(&backup);
        assert_eq!(database.number(SUM).await, 1);
        assert!(database.number(id).await <= last);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_standby_that_was_detached_is_promoted_with_what_it_got() {
        let _machine = machine::shared().await;
        let (postgres, database) = cluster().await;
        let standby = postgres.standby();
        let promoted = database.on(standby.server());
        database.run("insert into t values (2)").await;
        wait::until_true("the standby follows", wait::PATIENCE, async || promoted.number(SUM).await == 3).await;
        standby.detach();
        database.run("insert into t values (4)").await;
        standby.promote();
        promoted.run("insert into t values (8)").await;
        assert_eq!((promoted.number(SUM).await, database.number(SUM).await), (11, 7));
    }
}
