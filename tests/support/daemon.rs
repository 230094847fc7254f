//! The binary as an operator meets it: started, asked over HTTP, signalled, and its exit code read.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::support::children;
use crate::support::scrape::{self, Metrics};
use crate::support::services::variable;
use crate::support::wait;

/// How much of a failed test's log is shown.
const LOG_SHOWN: usize = 6_000;

/// How a relay is to be started.
#[derive(Clone)]
pub(crate) struct Daemon {
    database: String,
    brokers: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A relay that was started. Killed with this value; its log is printed when the test fails.
pub(crate) struct Running {
    child: Child,
    port: u16,
    log: NamedTempFile,
}

impl Daemon {
    /// A relay between this database and these brokers, with default settings.
    pub(crate) fn new(database: &str, brokers: &str) -> Self {
        let (database, brokers) = (database.to_owned(), brokers.to_owned());
        Self { database, brokers, arguments: Vec::new(), environment: Vec::new() }
    }

    /// With a setting of the configuration, named `section.key`.
    pub(crate) fn with(mut self, setting: &str, value: &str) -> Self {
        let variable = format!("OUTBOXD_{}", setting.to_uppercase().replace('.', "__"));
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// With a variable that is none of its own settings.
    #[cfg(feature = "otel")]
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a lease that outlasts every patience of the tests: a relay that waits for it never leads, and no busy machine
    /// lets it run out where records may come once only.
    pub(crate) fn with_long_lease(self) -> Self {
        self.with("lease.ttl", "600s")
    }

    /// Speaking to the brokers over TLS, and telling them who it is.
    pub(crate) fn with_login(self, mechanism: &str, password: &str) -> Self {
        self.with("kafka.security.protocol", "SASL_SSL")
            .with("kafka.sasl.mechanism", mechanism)
            .with("kafka.sasl.username", "outboxd")
            .with("kafka.sasl.password", password)
            .with("kafka.ssl.ca.location", &variable("OUTBOXD_TEST_CA"))
    }

    /// With a further argument.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it, and does not wait for anything.
    pub(crate) fn spawn(&self) -> Running {
        let port = free_port();
        let log = NamedTempFile::new().expect("a temporary file can be made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        command.args(["run", "--database-url", &self.database, "--brokers", &self.brokers]);
        command.args(["--http", &format!("127.0.0.1:{port}")]).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.stdout(appending(&log)).stderr(appending(&log));
        Running { child: children::start(&mut command).expect("the binary starts"), port, log }
    }

    /// Starts it and waits until it says that it is ready.
    pub(crate) async fn start(&self) -> Running {
        let mut running = self.spawn();
        running.ready().await;
        running
    }
}

impl Running {
    /// Waits until `/readyz` says yes.
    pub(crate) async fn ready(&mut self) {
        wait::until_true("the relay is ready", wait::PATIENCE, async || {
            assert!(self.exited().is_none(), "the relay ended at start: {:?}", self.exited());
            scrape::get(self.port, "/readyz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Where its page is.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What a path of its HTTP server answers.
    pub(crate) async fn get(&self, path: &str) -> std::io::Result<scrape::Answer> {
        scrape::get(self.port, path).await
    }

    /// Sends a request with a JSON body to its page, with these headers.
    pub(crate) async fn request(&self, what: &str, headers: &[&str], body: &str) -> std::io::Result<scrape::Answer> {
        scrape::request(self.port, what, headers, body).await
    }

    /// Its metrics now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let answer = scrape::get(self.port, "/metrics").await.expect("the relay serves its metrics");
        Metrics::parse(answer.body)
    }

    /// The sum of a metric now; 0 where there is no such series yet, or the relay does not answer.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = scrape::get(self.port, "/metrics").await;
        answer.ok().and_then(|answer| Metrics::parse(answer.body).sum(name)).unwrap_or(0.0)
    }

    /// Waits until a metric is at least this.
    pub(crate) async fn reaches(&self, name: &str, value: f64) {
        let what = format!("{name} reaches {value}");
        wait::until_true(&what, wait::PATIENCE, async || self.metric(name).await >= value).await;
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let sent =
            children::run(Command::new("sh").args(["-c", &kill])).map(|output| output.status).expect("a shell starts");
        assert!(sent.success(), "{kill} failed");
    }

    /// Asks it to stop and waits for the exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended().await.code()
    }

    /// Waits until it ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        wait::until("the relay has ended", wait::PATIENCE, async || self.exited()).await
    }

    /// Kills it at once, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// The most memory it ever had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the relay runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells VmHWM");
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number of kB");
        kilobytes * 1024
    }

    /// Everything it has written to its standard output and error so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).expect("the log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let cut = log.len().saturating_sub(LOG_SHOWN);
            let cut = (cut..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(cut);
            eprintln!("--- log of the relay with pid {} ---\n{}--- end of log ---", self.pid(), &log[cut..]);
        }
    }
}

fn appending(log: &NamedTempFile) -> Stdio {
    OpenOptions::new().append(true).open(log.path()).expect("the log can be opened").into()
}

/// A loopback port that nothing listens on: below the range from which the kernel gives out ports, and never
/// the same twice in one run.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 21_000;
    const PORTS: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() as u16;
    let candidates = (0..PORTS).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        FIRST + start.wrapping_mul(97).wrapping_add(step) % PORTS
    });
    let mut free = candidates.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("some of 10,000 ports is free")
}

/// How long the relay may take between a commit and the broker, on a machine that is busy.
pub(crate) const PROMPT: Duration = Duration::from_secs(3);
