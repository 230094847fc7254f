//! `make bench`: how fast a backlog drains, in each settle mode and with each strength of delivery, beside a bare loop
//! without failure handling.
//!
//! Every round takes each contestant once, on a fresh table and a fresh topic, so that a machine whose speed
//! drifts is unfair to none. Printed are medians and the ratio to the bare loop of the same settle mode.
//!
//! `cargo bench --bench drain -- [ROWS] [ROUNDS]`, with the services of `testbed/env`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const PARTITIONS: i32 = 12;
const TABLE: &str = "bench.outbox";
const CONTESTANTS: [Contestant; 8] = [
    Contestant::BareLoop("mark"),
    Contestant::Outboxd("mark", "at-least-once"),
    Contestant::Outboxd("mark", "fenced"),
    Contestant::Outboxd("mark", "exactly-once"),
    Contestant::BareLoop("delete"),
    Contestant::Outboxd("delete", "at-least-once"),
    Contestant::Outboxd("checkpoint", "at-least-once"),
    Contestant::Outboxd("checkpoint", "fenced"),
];

#[derive(Clone, Copy, PartialEq)]
enum Contestant {
    BareLoop(&'static str),
    /// By how it settles, and how strong its delivery is.
    Outboxd(&'static str, &'static str),
}

/// What one drain gave.
#[derive(Clone, Copy)]
struct Drain {
    rows_per_second: f64,
    peak_mib: f64,
    cpu_seconds: f64,
}

struct Rig {
    database: String,
    brokers: String,
    bare_loop: PathBuf,
    rows: u64,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (rows, rounds) = (numbers.next().unwrap_or(500_000), numbers.next().unwrap_or(3));
    let rig = Rig {
        database: variable("OUTBOXD_TEST_POSTGRES")?,
        brokers: variable("OUTBOXD_TEST_KAFKA")?,
        bare_loop: build_bare_loop()?,
        rows,
    };
    let mut drains: Vec<Vec<Drain>> = vec![Vec::new(); CONTESTANTS.len()];
    for round in 1..=rounds {
        for (contestant, drains) in CONTESTANTS.iter().zip(&mut drains) {
            let drain = rig.drain(*contestant, round).await?;
            eprintln!("round {round}: {:<30} {:>9.0} rows/s", contestant.name(), drain.rows_per_second);
            drains.push(drain);
        }
    }
    report(rows, rounds, &drains);
    Ok(())
}

fn report(rows: u64, rounds: u64, drains: &[Vec<Drain>]) {
    println!(
        "\nBacklog of {rows} rows of 300 bytes, 10,000 keys, {PARTITIONS} partitions; median of {rounds} rounds.\n"
    );
    println!("| contestant | rows/s | spread | beside the bare loop | CPU s per 1M rows | peak MiB |");
    println!("|---|---|---|---|---|---|");
    let rate = |drains: &Vec<Drain>| median(drains.iter().map(|drain| drain.rows_per_second).collect());
    for (contestant, results) in CONTESTANTS.iter().zip(drains) {
        let bare = CONTESTANTS.iter().position(|other| contestant.rival() == Some(*other));
        let ratio = bare.map_or("".to_owned(), |bare| format!("{:.2}", rate(results) / rate(&drains[bare])));
        let rates = results.iter().map(|drain| drain.rows_per_second);
        println!(
            "| {} | {:.0} | {:.0}–{:.0} | {ratio} | {:.1} | {:.0} |",
            contestant.name(),
            rate(results),
            rates.clone().fold(f64::INFINITY, f64::min),
            rates.fold(0.0, f64::max),
            median(results.iter().map(|drain| drain.cpu_seconds).collect()) * 1e6 / rows as f64,
            median(results.iter().map(|drain| drain.peak_mib).collect()),
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Contestant {
    fn name(self) -> String {
        match self {
            Contestant::BareLoop(settle) => format!("bare loop, {settle}"),
            Contestant::Outboxd(settle, "at-least-once") => format!("outboxd, {settle}"),
            Contestant::Outboxd(settle, delivery) => format!("outboxd, {settle}, {delivery}"),
        }
    }

    /// The bare loop that does the same work; nothing settles by checkpoint but outboxd.
    fn rival(self) -> Option<Contestant> {
        match self {
            Contestant::Outboxd(settle, _) if settle != "checkpoint" => Some(Contestant::BareLoop(settle)),
            _ => None,
        }
    }
}

impl Rig {
    async fn drain(&self, contestant: Contestant, round: u64) -> Fallible<Drain> {
        let topic = format!("bench-{}-{round}-{}", contestant.name().replace([' ', ','], "-"), std::process::id());
        self.create_topic(&topic).await?;
        self.seed(&topic).await?;
        match contestant {
            Contestant::BareLoop(settle) => self.drain_bare(settle, &topic),
            Contestant::Outboxd(settle, delivery) => self.drain_outboxd(settle, delivery).await,
        }
    }

    async fn create_topic(&self, topic: &str) -> Fallible<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create()?;
        let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
        admin.create_topics([&topic], &AdminOptions::new()).await?.remove(0).map_err(|(_, code)| code)?;
        Ok(())
    }

    /// A fresh outbox with the backlog, vacuumed as autovacuum would leave it, so that no contestant pays for seeding.
    async fn seed(&self, topic: &str) -> Fallible<()> {
        let mut connection = PgConnection::connect(&self.database).await?;
        let fresh = "drop schema if exists bench cascade; create schema bench";
        sqlx::raw_sql(fresh).execute(&mut connection).await?;
        let migrated = outboxd()
            .args(["migrate", "--database-url", &self.database, "--table", TABLE])
            .stdout(Stdio::null())
            .status()?;
        assert!(migrated.success(), "outboxd migrate failed");
        let seed = format!(
            "insert into {TABLE} (topic, key, payload)
             select '{topic}', 'key-' || n % 10000, convert_to(rpad('{{\"order\": ' || n || ', \"note\": \"', 298, 'x') || '\"}}', 'UTF8')
             from generate_series(1, {}) n",
            self.rows
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(seed)).execute(&mut connection).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("vacuum analyze {TABLE}"))).execute(&mut connection).await?;
        sqlx::raw_sql("checkpoint").execute(&mut connection).await?;
        Ok(())
    }

    fn drain_bare(&self, settle: &str, topic: &str) -> Fallible<Drain> {
        let before = children_cpu_seconds();
        let output =
            Command::new(&self.bare_loop).args([&self.database, &self.brokers, topic, settle, TABLE]).output()?;
        let line = String::from_utf8(output.stdout)?;
        let figure = |name: &str| -> Fallible<f64> {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            Ok(value.ok_or_else(|| format!("the bare loop said {line:?}"))?.parse()?)
        };
        Ok(Drain {
            rows_per_second: figure("rows/s=")?,
            peak_mib: figure("rss_mb=")?,
            cpu_seconds: children_cpu_seconds() - before,
        })
    }

    /// From the moment it leads, so that starting up counts for neither contestant, until all is settled.
    async fn drain_outboxd(&self, settle: &str, delivery: &str) -> Fallible<Drain> {
        let address = free_address()?;
        let child = outboxd()
            .args(["run", "--database-url", &self.database, "--brokers", &self.brokers])
            .args(["--table", TABLE, "--http", &address])
            .env("OUTBOXD_OUTBOX__SETTLE", settle)
            .env("OUTBOXD_RELAY__DELIVERY", delivery)
            .stderr(Stdio::null())
            .spawn()?;
        let mut child = Stopped(child);
        let drained = async {
            while !status(&address).await.is_some_and(|status| status["phase"] == "leading") {
                sleep(Duration::from_millis(1)).await;
            }
            let began = Instant::now();
            loop {
                let now = status(&address).await.unwrap_or_default();
                if now["published"].as_u64() == Some(self.rows) && now["in_flight"].as_u64() == Some(0) {
                    return began.elapsed();
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let took = timeout(Duration::from_secs(300), drained).await?;
        let (peak_mib, cpu_seconds) = resources(child.0.id())?;
        child.stop()?;
        Ok(Drain { rows_per_second: self.rows as f64 / took.as_secs_f64(), peak_mib, cpu_seconds })
    }
}

/// A child that does not outlive its drain.
struct Stopped(Child);

impl Stopped {
    fn stop(&mut self) -> Fallible<()> {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

fn outboxd() -> Command {
    Command::new(env!("CARGO_BIN_EXE_outboxd"))
}

fn variable(name: &str) -> Fallible<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: use `make bench`").into())
}

fn build_bare_loop() -> Fallible<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/bare-loop");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(root.join("bench/peers/bare-loop/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    assert!(built.success(), "the bare loop could not be built");
    Ok(target.join("release/bare-loop"))
}

fn free_address() -> Fallible<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

async fn status(address: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /status HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// Peak resident memory in MiB and CPU seconds of a process, as the kernel counts them.
fn resources(pid: u32) -> Fallible<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: f64 = peak.split_whitespace().next().ok_or("no figure")?.parse()?;
    Ok((kib / 1024.0, cpu_seconds(&format!("/proc/{pid}/stat"), 14)?))
}

/// CPU seconds of the children that have ended.
fn children_cpu_seconds() -> f64 {
    cpu_seconds("/proc/self/stat", 16).unwrap_or_default()
}

/// User and system time in seconds: two fields of a stat file, numbered as in proc(5), of 100 ticks a second.
fn cpu_seconds(path: &str, field: usize) -> Fallible<f64> {
    let stat = std::fs::read_to_string(path)?;
    let after_name = stat.rsplit_once(')').ok_or("no name")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |field: usize| -> Fallible<f64> { Ok(fields[field - 3].parse()?) };
    Ok((ticks(field)? + ticks(field + 1)?) / 100.0)
}
