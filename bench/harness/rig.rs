//! The PostgreSQL and the Kafka that contestants work on: of the benchmark's own, with settings that suit the load.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::Fallible;
use crate::load::Drain;
use crate::process::family_cpu_seconds;

/// Where contestants find their tables.
const SCHEMA: &str = "bench";
pub(crate) const TABLE: &str = "bench.outbox";

/// What a server of this size is given; `wal_level` for those who read the write-ahead log.
const POSTGRES: [&str; 4] =
    ["wal_level=logical", "shared_buffers=512MB", "max_wal_size=8GB", "max_replication_slots=4"];
const KAFKA_JVM: &str = "-Xmx1g -XX:+UseG1GC";

/// Rows of a transaction that fills the table.
const CHUNK: u64 = 1_000;

/// Both services, which stop with this value.
pub(crate) struct Rig {
    services: [Service; 2],
    pub(crate) database: String,
    pub(crate) brokers: String,
    folder: PathBuf,
}

struct Service {
    script: PathBuf,
    folder: PathBuf,
    /// Begins with its process id.
    pid_file: &'static str,
}

/// Reads what the services take of the processor.
#[derive(Clone, Copy)]
pub(crate) struct Meter {
    database: u32,
    broker: u32,
}

/// User and system time that they have taken so far.
#[derive(Clone, Copy)]
pub(crate) struct CpuSeconds {
    pub(crate) database: f64,
    pub(crate) broker: f64,
}

impl Meter {
    pub(crate) fn read(self) -> CpuSeconds {
        CpuSeconds { database: family_cpu_seconds(self.database), broker: family_cpu_seconds(self.broker) }
    }
}

impl Rig {
    /// Starts them.
    pub(crate) fn start() -> Fallible<Self> {
        let home = std::env::var("OUTBOXD_TESTBED").map_err(|_| "OUTBOXD_TESTBED is not set: use `make bench`")?;
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let service = |script: &str, folder: &str, pid_file| Service {
            script: root.join("testbed").join(script),
            folder: Path::new(&home).join(folder),
            pid_file,
        };
        let services = [
            service("postgres.sh", "bench-postgres", "data/postmaster.pid"),
            service("kafka.sh", "bench-kafka", "broker-1/pid"),
        ];
        let settings: Vec<&str> = POSTGRES.iter().flat_map(|setting| ["-c", setting]).collect();
        // Without TLS, which some would take and others not.
        let database = format!("{}?sslmode=disable", services[0].run("start", &settings)?);
        let brokers = services[1].run("start", &[])?;
        let folder = root.join("target/bench");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { services, database, brokers, folder })
    }

    /// Where results and logs go.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What tells how much of the processor the services take.
    pub(crate) fn meter(&self) -> Fallible<Meter> {
        let [database, broker] = &self.services;
        Ok(Meter { database: database.pid()?, broker: broker.pid()? })
    }

    /// A name that no topic has had.
    pub(crate) fn fresh_name(&self) -> String {
        format!("bench-{}", uuid::Uuid::now_v7().simple())
    }

    /// What the scripts of contestants are told.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let folder = self.folder.to_string_lossy();
        [
            ("DATABASE", self.database.as_str()),
            ("BROKERS", &self.brokers),
            ("TABLE", TABLE),
            ("OUTBOXD", env!("CARGO_BIN_EXE_outboxd")),
            ("BENCH", &folder),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    pub(crate) fn fill_in(&self, statement: &str) -> String {
        statement.replace("{table}", TABLE)
    }

    pub(crate) async fn connect(&self) -> Fallible<PgConnection> {
        Ok(PgConnection::connect(&self.database).await?)
    }

    /// Runs statements, each in a transaction of its own.
    pub(crate) async fn run<S: AsRef<str>>(&self, statements: &[S]) -> Fallible<()> {
        let mut connection = self.connect().await?;
        for statement in statements {
            let statement = statement.as_ref();
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(statement)))
                .await
                .map_err(|error| format!("{error}: {statement}"))?;
        }
        Ok(())
    }

    /// The same where there may be nothing to undo.
    pub(crate) async fn run_ignoring_errors(&self, statements: &[String]) -> Fallible<()> {
        let mut connection = self.connect().await?;
        for statement in statements {
            let _ = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.as_str()))).await;
        }
        Ok(())
    }

    pub(crate) async fn fresh_schema(&self) -> Fallible<()> {
        self.run(&[format!("drop schema if exists {SCHEMA} cascade"), format!("create schema {SCHEMA}")]).await
    }

    /// Fills a contestant's table, and leaves it as autovacuum would, so that no contestant pays for that later.
    pub(crate) async fn fill(&self, insert: &str, topic: &str, drain: &Drain) -> Fallible<()> {
        let mut connection = self.connect().await?;
        connection.execute("set synchronous_commit = off").await?;
        let Drain { rows, bytes, keys, topics } = drain;
        let chunk = CHUNK.min(8_000_000 / *bytes as u64).max(1);
        let topic = if *topics == 1 { format!("'{topic}'") } else { format!("'{topic}-' || n % {topics}") };
        let body = body("n::text", "0", *bytes);
        let insert = self.fill_in(insert);
        for first in (1..=*rows).step_by(chunk as usize) {
            let last = (first + chunk - 1).min(*rows);
            let statement = format!(
                "with rows(topic, key, body) as
                   (select {topic}, 'key-' || n % {keys}, {body} from generate_series({first}, {last}) n)
                 {insert}"
            );
            connection.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
        }
        self.run(&[&format!("vacuum analyze {TABLE}"), "checkpoint"]).await
    }

    /// Transactions that the database has finished so far.
    pub(crate) async fn transactions(&self) -> Fallible<i64> {
        let mut connection = self.connect().await?;
        let count = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
        Ok(sqlx::query_scalar(count).fetch_one(&mut connection).await?)
    }

    /// What the contestant's table takes on disk with all that belongs to it, in MiB.
    pub(crate) async fn table_mib(&self) -> Fallible<f64> {
        let mut connection = self.connect().await?;
        let size = format!("select pg_total_relation_size('{TABLE}') / 1048576.0::float8");
        Ok(sqlx::query_scalar(AssertSqlSafe(size)).fetch_one(&mut connection).await?)
    }

    /// Bytes that were written ahead so far.
    pub(crate) async fn wal_bytes(&self) -> Fallible<f64> {
        let mut connection = self.connect().await?;
        let bytes = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8";
        Ok(sqlx::query_scalar(bytes).fetch_one(&mut connection).await?)
    }

    /// The server's version.
    pub(crate) async fn version(&self) -> Fallible<String> {
        let mut connection = self.connect().await?;
        Ok(sqlx::query_scalar("select current_setting('server_version')").fetch_one(&mut connection).await?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for service in &self.services {
            if let Err(error) = service.run("stop", &[]) {
                eprintln!("{error}");
            }
        }
    }
}

impl Service {
    fn pid(&self) -> Fallible<u32> {
        let file = std::fs::read_to_string(self.folder.join(self.pid_file))?;
        Ok(file.lines().next().unwrap_or_default().trim().parse()?)
    }

    fn run(&self, command: &str, settings: &[&str]) -> Fallible<String> {
        let output = Command::new(&self.script)
            .arg(command)
            .arg(&self.folder)
            .args(settings)
            .env("KAFKA_JVM", KAFKA_JVM)
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            return Err(format!("{} {command}: {}", self.script.display(), output.status).into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// An SQL expression for a payload of so many bytes, from a number and a time in microseconds. It is filled with
/// digests, so that it compresses no better than what people write.
pub(crate) fn body(number: &str, time: &str, bytes: usize) -> String {
    let fill: Vec<String> = ('a'..='h').map(|salt| format!("md5({number} || '{salt}')")).collect();
    format!(
        r#"rpad('{{"seq": ' || {number} || ', "t": ' || {time} || ', "note": "', {}, {}) || '"}}'"#,
        bytes.saturating_sub(2),
        fill.join(" || ")
    )
}
