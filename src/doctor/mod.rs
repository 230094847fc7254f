//! `outboxd doctor`: the named checks from outside, before a relay runs or beside one.
//!
//! Everything is asked as a relay with this configuration would ask it, within a bounded time, and nothing is changed. What
//! rests on something that is not well is `unknown`, so that the first fault is seen and not its consequences.

mod brokers;
mod database;
mod depth;

use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;

use crate::admin::checks::{self, Check, CheckStatus};
use crate::backends;
use crate::config::{Config, NamedCertificates};
use crate::contract::StoreError;
use crate::doctor::database::Found;

pub use depth::Depth;

/// How long all of the checks may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the quick ones may take: an init container waits for them.
const QUICK_PATIENCE: Duration = Duration::from_secs(5);

/// How everything stands.
#[derive(Debug)]
pub struct Examined {
    /// The checks, as they were made.
    pub checks: Vec<Check>,
}

impl Examined {
    /// Whether no check has failed.
    pub fn is_well(&self) -> bool {
        self.checks.iter().all(|check| check.status != CheckStatus::Failed)
    }
}

/// Makes the checks. What does not answer is told as a check that failed.
///
/// # Errors
/// When no database is to be had at the URL.
pub async fn examine(config: &Config, depth: Depth) -> Result<Examined, StoreError> {
    let database = backends::database(&config.outbox.database)?;
    let deadline = Instant::now() + if depth == Depth::Quick { QUICK_PATIENCE } else { PATIENCE };
    // Kafka may be asked for the topics that wait only once the database has told them.
    let (found, probe) =
        tokio::join!(database::examine(&*database, config, depth, deadline), brokers::ask(config, deadline));
    let Found { mut checks, held, waiting } = found;
    if depth == Depth::Quick {
        checks.push(probe.check);
        return Ok(Examined { checks });
    }
    checks.push(brokers::topics(config, &probe, held.as_deref(), &waiting, deadline).await);
    checks.push(probe.check);
    checks.push(checks::producer_unseen(config.http.listen.as_deref()));
    checks.extend(config.canary.as_ref().map(|_| checks::canary_unseen(config.http.listen.as_deref())));
    checks.extend(certificates(config.certificates()).await);
    Ok(Examined { checks })
}

async fn certificates(named: Vec<NamedCertificates>) -> Option<Check> {
    let read = tokio::task::spawn_blocking(move || {
        named.iter().map(|named| (named.setting, named.valid_until())).collect::<Vec<_>>()
    });
    checks::certificates(&read.await.unwrap_or_default(), Utc::now())
}
