//! The `outboxd` binary: parse, load, dispatch; print what went wrong once; exit.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use outboxd::admin::{held, status};
use outboxd::backends;
use outboxd::bench;
use outboxd::cli::{self, Cli, Command, DatabaseSettings, Migrate, Settings, Show};
use outboxd::config::complaint::Complaints;
use outboxd::config::raw::{Flag, Raw, Sources};
use outboxd::config::{self, Config, Needs};
use outboxd::contract::{Migrated, Roles, Store};
use outboxd::daemon::{self, Shutdown};
use outboxd::demo::{self, Sabotage};
use outboxd::kafka::IsolationLevel;
use outboxd::observe::{chain, logging};
use outboxd::outbox::Table;
use outboxd::relay::Ended;
use outboxd::verify;
use tokio::runtime::Builder;

/// librdkafka allocates and frees several times a message; jemalloc replaces the C allocator for it, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How often `outboxd status --watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

const FAILED: u8 = 1;
const MISUSED: u8 = 2;
const CUT_OFF: u8 = 3;

fn main() -> ExitCode {
    match dispatch(Cli::from_arguments().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outboxd: error: {}", chain(error.as_ref()));
            ExitCode::from(if error.is::<Complaints>() { MISUSED } else { FAILED })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(run) => relay(&run.settings),
        Command::Migrate(migration) => migrate(&migration),
        Command::Status(arguments) => status(&arguments),
        Command::Held(held) => held_lanes(held),
        Command::Verify(arguments) => audit(arguments),
        Command::Bench(arguments) => measure(arguments),
        Command::Config(show) => show_config(&show),
        Command::Demo(arguments) => demonstrate(arguments),
    }
}

fn relay(settings: &Settings) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(settings), Needs::Everything)?;
    logging::start(&config.log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), table = %config.outbox.database.table, "outboxd starts");
    let ended = block_on_one_thread(async { daemon::run(config, Shutdown::on_signals()?).await }).flatten();
    match &ended {
        Ok(Ended::Graceful) => tracing::info!("stopped: everything published is recorded"),
        Ok(Ended::CutOff) => tracing::warn!("cut off: some published records are not recorded and will come again"),
        // An operator who reads the log as JSON gets the end of it as JSON, too.
        Err(error) => tracing::error!(error = %chain(error.as_ref()), "outboxd ends"),
    }
    Ok(ended.map_or(ExitCode::from(FAILED), exit_code))
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Graceful => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::from(CUT_OFF),
    }
}

fn migrate(migration: &Migrate) -> anyhow::Result<ExitCode> {
    let needs = if migration.print { Needs::Nothing } else { Needs::Database };
    let config = judge(&gather_database(&migration.settings), needs)?;
    if migration.check {
        return check(&config);
    }
    let database = config.outbox.database;
    let roles = migration.grants.as_ref();
    let roles =
        roles.map(|cli::Roles { application, relay }| Roles { application: application.clone(), relay: relay.clone() });
    if migration.print {
        print!("{}", backends::migration_sql(&database, roles.as_ref())?);
    } else {
        let migrated = block_on(async { backends::database(&database)?.migrate(roles.as_ref()).await })??;
        println!("{}", migration_text(&database.table, &migrated, roles.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done.
fn migration_text(table: &Table, Migrated { applied }: &Migrated, roles: Option<&Roles>) -> String {
    let granted = roles.map_or_else(String::new, |Roles { application, relay }| {
        format!("\ngranted {application} and {relay} what they need")
    });
    match applied.is_empty() {
        true => format!("the tables of {table} were up to date{granted}"),
        false => format!("the tables of {table} are up to date; applied {}{granted}", applied.join(", ")),
    }
}

fn check(config: &Config) -> anyhow::Result<ExitCode> {
    for warning in block_on(async { backends::database(&config.outbox.database)?.check().await })?? {
        eprintln!("outboxd: warning: {warning}");
    }
    println!(
        "the tables of {} are what this version needs, and allow the relay what it does",
        config.outbox.database.table
    );
    Ok(ExitCode::SUCCESS)
}

fn status(arguments: &cli::Status) -> anyhow::Result<ExitCode> {
    let store = store(&arguments.settings)?;
    if arguments.watch {
        match block_on(watch(&store))?? {}
    }
    let report = block_on(status::look(&store))??;
    print!("{}", if arguments.json { report.to_json() } else { report.to_text() });
    Ok(if report.is_well() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Shows how an outbox stands again and again.
async fn watch(store: &Arc<dyn Store>) -> anyhow::Result<Infallible> {
    // A terminal shows the latest alone.
    let clear = if std::io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
    loop {
        print!("{clear}{}", status::look(store).await?.to_text());
        std::io::stdout().flush().context("the output is closed")?;
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn held_lanes(command: cli::Held) -> anyhow::Result<ExitCode> {
    let meant = |cli::LaneFilter { topic, key, partition }| held::LaneFilter { topic, key, partition };
    match command {
        cli::Held::Ls { json, which, settings } => {
            let store = store(&settings)?;
            let lanes = block_on(async { held::list(&store, &meant(which)).await })??;
            print!("{}", if json { held::to_json(&lanes) } else { held::to_text(&lanes) });
        }
        cli::Held::Release { all: _, which, settings } => {
            let store = store(&settings)?;
            match block_on(async { held::release(&store, &meant(which)).await })?? {
                0 => anyhow::bail!("nothing of that is held; `outboxd held ls` lists what is"),
                lanes => println!("asked for the release of {lanes}; the leader grants it within a second"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn audit(arguments: cli::Verify) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    let isolation = match arguments.isolation.as_str() {
        "read_uncommitted" => IsolationLevel::ReadUncommitted,
        _ => IsolationLevel::ReadCommitted,
    };
    let report = block_on(async {
        let database = backends::database(&config.outbox.database)?;
        let source = match config.outbox.source {
            Some(source) => source,
            None => database.source().await?,
        };
        let settings = verify::Settings {
            properties: config.kafka.properties,
            source,
            topics: arguments.topic,
            since: arguments.since,
            isolation,
            settle: config.outbox.database.settle,
            retention: config.outbox.retention,
        };
        verify::run(database.audit(settings.since).await?, settings).await
    })??;
    print!("{}", if arguments.json { report.to_json(arguments.no_duplicates) } else { report.to_text() });
    Ok(if report.is_kept(arguments.no_duplicates) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn measure(arguments: cli::Bench) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(&arguments.settings), Needs::Everything)?;
    let cli::Bench { rows, payload_bytes, keys, partitions, replication, rate, seconds, json, settings: _ } = arguments;
    let settings = bench::Settings {
        rows,
        payload_bytes: payload_bytes as usize,
        keys,
        partitions,
        replication: replication.unwrap_or(-1),
        rate,
        lasting: Duration::from_secs(seconds),
    };
    let report = block_on(async {
        let interrupted = Shutdown::on_signals()?.soft;
        bench::run(config, settings, interrupted.cancelled()).await
    })??;
    print!("{}", if json { report.to_json() } else { report.to_text() });
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// The store that a command works on, besides a relay.
fn store(settings: &DatabaseSettings) -> anyhow::Result<Arc<dyn Store>> {
    let config = judge(&gather_database(settings), Needs::Database)?;
    Ok(backends::database(&config.outbox.database)?)
}

fn show_config(show: &Show) -> anyhow::Result<ExitCode> {
    let raw = gather(&show.settings);
    if !show.check {
        print!("{}", config::show(&raw));
    }
    judge(&raw, Needs::Everything)?;
    Ok(ExitCode::SUCCESS)
}

/// Judges the configuration, and whether its URL leads to a database.
fn judge(raw: &Raw, needs: Needs) -> anyhow::Result<Config> {
    let config = Config::judge(raw, needs)?;
    if !config.outbox.database.url.expose().is_empty() {
        backends::database(&config.outbox.database).map_err(|error| raw.complaint("database.url", chain(&error)))?;
    }
    Ok(config)
}

fn demonstrate(arguments: cli::Demo) -> anyhow::Result<ExitCode> {
    let sabotage = arguments.sabotage.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
    if let Some([url, brokers]) = arguments.relay_part.as_deref() {
        return relay_part(url, brokers, arguments.http.unwrap_or_default(), sabotage);
    }
    let messages = (!arguments.keep_running).then_some(arguments.messages);
    let (seed, kill, http) = (arguments.seed, arguments.kill, arguments.http);
    let kept = block_on(demo::run(demo::Settings { messages, seed, kill, http, sabotage }))??;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// What `outboxd run` does, for the demo: its settings alone, and until its standard input ends.
fn relay_part(url: &str, brokers: &str, http: String, sabotage: Option<Sabotage>) -> anyhow::Result<ExitCode> {
    let settings =
        [("database.url", url.to_owned()), ("kafka.bootstrap.servers", brokers.to_owned()), ("http.listen", http)];
    let flags = settings.map(|(key, value)| Flag { name: "--relay-part", key: key.to_owned(), value });
    let config = judge(&Raw::gather(&Sources { flags: flags.into(), ..Sources::default() }), Needs::Everything)?;
    logging::start(&config.log);
    let spoil = |sink| match sabotage {
        Some(how) => how.sabotage(sink),
        None => sink,
    };
    let ended = block_on(daemon::run_through(config, Shutdown::on_end_of_input(), spoil))??;
    Ok(exit_code(ended))
}

fn gather(settings: &Settings) -> Raw {
    config::gather(settings.database.config.clone(), settings.flags())
}

fn gather_database(settings: &DatabaseSettings) -> Raw {
    config::gather(settings.config.clone(), settings.flags())
}

/// Runs the asynchronous part. Blocking calls of the broker's client that are still under way at the end are
/// left behind rather than waited for.
fn block_on<F: Future>(work: F) -> anyhow::Result<F::Output> {
    finish(Builder::new_multi_thread(), work)
}

/// The same for a relay, whose stages take turns: a second thread would only be woken in vain.
fn block_on_one_thread<F: Future>(work: F) -> anyhow::Result<F::Output> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1);
    finish(builder, work)
}

fn finish<F: Future>(mut builder: Builder, work: F) -> anyhow::Result<F::Output> {
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    // A driver that panics over what a server sent ends the process as any other error does.
    let output = runtime.block_on(AssertUnwindSafe(work).catch_unwind());
    runtime.shutdown_background();
    output.map_err(|_panic| {
        anyhow::anyhow!("outboxd panicked, which is a bug: the message stands above; please report it")
    })
}
