//! `outboxd run` and `outboxd migrate`.

use std::process::ExitCode;

use crate::backends;
use crate::cli::{self, Migrate, Settings};
use crate::commands::configured::{gather, gather_database, judge};
use crate::commands::runtime::{block_on, block_on_one_thread};
use crate::config::{Config, Needs};
use crate::contract::{Migrated, Roles};
use crate::daemon::{self, Shutdown};
use crate::observe::logging::LevelSwitch;
use crate::observe::{chain, logging};
use crate::outbox::Table;
use crate::relay::Ended;

/// The exit code of what failed.
const FAILED: u8 = 1;

/// The exit code of a relay that was cut off.
const CUT_OFF: u8 = 3;

/// Relays until told to stop.
pub(super) fn relay(settings: &Settings) -> anyhow::Result<ExitCode> {
    let config = judge(&gather(settings), Needs::Everything)?;
    let switch = logging::start(&config.log);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), table = %config.outbox.database.table, "outboxd starts");
    let ended = block_on_one_thread(async {
        tokio::select! {
            ended = daemon::run(config, Shutdown::on_signals()?) => ended,
            failed = daemon::at_each_hangup(|| reread_level(settings, &switch)) => match failed? {},
        }
    });
    let ended = ended.flatten();
    match &ended {
        Ok(Ended::Graceful) => tracing::info!("stopped: everything published is recorded"),
        Ok(Ended::CutOff) => tracing::warn!("cut off: some published records are not recorded and will come again"),
        // An operator who reads the log as JSON gets the end of it as JSON, too.
        Err(error) => tracing::error!(error = %chain(error.as_ref()), "outboxd ends"),
    }
    Ok(ended.map_or(ExitCode::from(FAILED), exit_code))
}

/// Reads the configuration anew for its log level, and for nothing else.
fn reread_level(settings: &Settings, switch: &LevelSwitch) {
    let level = match judge(&gather(settings), Needs::Everything) {
        Ok(config) => config.log.level,
        Err(error) => {
            tracing::warn!(error = %chain(error.as_ref()), "SIGHUP: the configuration is refused, the log level stays");
            return;
        }
    };
    // Said by whichever of the two levels lets it pass.
    let say = || tracing::info!(level, "SIGHUP: the log level is read anew; no other setting is");
    let is_told = tracing::enabled!(tracing::Level::INFO);
    if is_told {
        say();
    }
    match switch.set(&level) {
        Ok(()) if is_told => {}
        Ok(()) => say(),
        Err(error) => tracing::warn!(error, "SIGHUP: the log level stays"),
    }
}

/// The exit code that tells how a relay ended.
pub(super) fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Graceful => ExitCode::SUCCESS,
        Ended::CutOff => ExitCode::from(CUT_OFF),
    }
}

/// Creates, upgrades, prints or judges the tables.
pub(super) fn migrate(migration: &Migrate) -> anyhow::Result<ExitCode> {
    let needs = if migration.print { Needs::Nothing } else { Needs::Database };
    let config = judge(&gather_database(&migration.settings), needs)?;
    if migration.check {
        return check(&config);
    }
    let database = config.outbox.database;
    let roles = migration.grants.as_ref();
    let relay_inserts = database.inserts;
    let roles = roles.map(|cli::Roles { application, relay }| Roles {
        application: application.clone(),
        relay: relay.clone(),
        relay_inserts,
    });
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
    let granted = roles.map_or_else(String::new, |Roles { application, relay, .. }| {
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
