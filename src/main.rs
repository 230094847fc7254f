//! The `outboxd` binary: parse, load, dispatch; print what went wrong once; exit.

use std::process::ExitCode;

use anyhow::Context;
use outboxd::cli::{Cli, Command, DatabaseSettings, Migrate, Settings, Show};
use outboxd::config::complaint::Complaints;
use outboxd::config::raw::Raw;
use outboxd::config::{self, Config, Needs};
use outboxd::daemon::{self, Shutdown};
use outboxd::observe::{chain, logging};
use outboxd::relay::Ended;
use outboxd::{backends, demo};

/// librdkafka allocates and frees several times a message; jemalloc replaces the C allocator for it, too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
        Command::Config(show) => show_config(&show),
        Command::Demo(arguments) => demonstrate(arguments),
    }
}

fn relay(settings: &Settings) -> anyhow::Result<ExitCode> {
    let config = Config::judge(&gather(settings), Needs::Everything)?;
    logging::start(&config.log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), table = %config.outbox.table, "outboxd starts");
    let ended = block_on(async { daemon::run(config, Shutdown::on_signals()?).await })??;
    match ended {
        Ended::Graceful => tracing::info!("stopped: everything published is recorded"),
        Ended::CutOff => tracing::warn!("cut off: some published records are not recorded and will come again"),
    }
    Ok(exit_code(ended))
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Graceful => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::from(CUT_OFF),
    }
}

fn migrate(migration: &Migrate) -> anyhow::Result<ExitCode> {
    let needs = if migration.print { Needs::Nothing } else { Needs::Database };
    let config = Config::judge(&gather_database(&migration.settings), needs)?;
    let outbox = config.outbox;
    let grants = migration.grants.as_ref().map(|roles| (roles.application.as_str(), roles.relay.as_str()));
    if migration.print {
        print!("{}", backends::migration_sql(&outbox.url, &outbox.table, grants)?);
    } else if migration.check {
        block_on(backends::check(&outbox.url, &outbox.table))??;
        println!("the tables of {} are what this version needs", outbox.table);
    } else {
        println!("{}", block_on(backends::migrate(&outbox.url, &outbox.table, grants))??);
    }
    Ok(ExitCode::SUCCESS)
}

fn show_config(show: &Show) -> anyhow::Result<ExitCode> {
    let raw = gather(&show.settings);
    if !show.check {
        print!("{}", config::show(&raw));
    }
    let config = Config::judge(&raw, Needs::Everything)?;
    backends::judge(&config)?;
    Ok(ExitCode::SUCCESS)
}

fn demonstrate(arguments: outboxd::cli::Demo) -> anyhow::Result<ExitCode> {
    let settings = demo::Settings {
        messages: (!arguments.keep_running).then_some(arguments.messages),
        seed: arguments.seed,
        kill: arguments.kill,
        http: arguments.http,
        sabotage: arguments.sabotage,
    };
    let passed = block_on(demo::run(settings))??;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
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
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let output = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(output)
}
