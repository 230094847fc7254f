//! Faults that take the database back to an earlier time: commits are gone, and ids of rows and transactions come again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use crate::support::ledger::Ledger;
use crate::support::throwaway::{Backup, Postgres};
use crate::support::wait;
use crate::torture::rig::{aside, aside_for};
use crate::torture::script::{Fault, Kind};
use crate::torture::stage::Stage;

/// The letter of the history that follows.
const SECOND: char = 'y';

/// How long writers may take to end their transactions.
const WRITERS: Duration = Duration::from_secs(20);

/// How long the relays may take to publish what the database is about to forget.
const PUBLISHED: Duration = Duration::from_secs(5);

/// Between what the database forgot and what is written next: times of records have no more than milliseconds.
const GAP: Duration = Duration::from_millis(20);

/// What an audit needs to know of a database that was taken back.
#[derive(Clone)]
pub(crate) struct TakenBack {
    /// A time between the last commit that is gone and the next one.
    pub(crate) at: DateTime<Utc>,
    /// What had committed and is still there.
    pub(crate) shared: Ledger,
    /// That, and what is gone.
    pub(crate) all: Ledger,
}

impl TakenBack {
    /// Whether anything is gone.
    pub(crate) fn forgets(&self) -> bool {
        self.all.lanes().any(|(topic, key, last)| last > self.shared.last(topic, key))
    }
}

/// Where the database will go on.
enum Past {
    Backup(Backup),
    Standby(Postgres),
}

/// Takes the database back to where it was when the fault began, while the relays are at work. No writer is, so that
/// everything that was written is of one history or of the other.
///
/// # Errors
/// When a writer does not come to an end.
pub(crate) async fn take_back(stage: &Stage<'_>, fault: Fault) -> Result<TakenBack, String> {
    let postgres = Arc::clone(&stage.rig.postgres).lock_owned().await;
    let (postgres, past) = aside_for(postgres, move |postgres| match fault.kind {
        Kind::RestoreBackup => Past::Backup(postgres.back_up()),
        _ => Past::Standby(postgres.standby()),
    })
    .await;
    sleep(fault.lasting / 2).await;
    let (postgres, past) = aside_for(postgres, move |_| {
        if let Past::Standby(standby) = &past {
            standby.detach();
        }
        past
    })
    .await;
    // Of what is written and published from now on the database will know nothing.
    sleep(fault.lasting).await;
    let mut histories = Vec::new();
    for outbox in &stage.outboxes {
        let alone = timeout(WRITERS, Arc::clone(&outbox.workload.history).write_owned()).await;
        histories.push(alone.map_err(|_| format!("a transaction of a writer took longer than {WRITERS:?}"))?);
    }
    let all = stage.ledger().await;
    if fault.whom.is_multiple_of(2) {
        // So that consumers know of it.
        let _not_all = timeout(PUBLISHED, publishes(stage, &all)).await;
    }
    drop(aside(postgres, move |postgres| go_on(postgres, past)).await);
    let shared = stage.ledger().await;
    sleep(GAP).await;
    let at = Utc::now();
    sleep(GAP).await;
    histories.iter_mut().for_each(|history| **history = SECOND);
    Ok(TakenBack { at, shared, all })
}

/// Waits until the topics hold as many records as there are rows.
async fn publishes(stage: &Stage<'_>, all: &Ledger) {
    let rows: u64 = all.lanes().map(|(_, _, last)| last).sum();
    wait::until_true("all is published", wait::PATIENCE, async || {
        let held = block_in_place(|| stage.topics().iter().filter_map(|topic| topic.count().ok()).sum::<u64>());
        held >= rows
    })
    .await;
}

fn go_on(postgres: &Postgres, past: Past) {
    match past {
        Past::Backup(backup) => postgres.restore(&backup),
        Past::Standby(standby) => postgres.fail_over(standby),
    }
}
