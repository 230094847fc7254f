//! The named checks of a relay at work: from what it knows anyway, and from looks at the database that cost little.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::admin::checks::{self, Check, CheckName, CheckStatus};
use crate::canary::View;
use crate::config::{Config, NamedCertificates};
use crate::contract::{Backlog, Contact, Database, Leader, StoreError, VitalsQuestion};
use crate::observe::metrics;
use crate::outbox::{Held, Table};
use crate::relay::{Phase, Status};

/// How often the database is looked at: a handful of small statements.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// After so many looks tables, rights and certificates are looked at again.
const LOOKS_TO_THE_FOUNDATION: u32 = 4;

/// Over how long it is counted how often the Kafka client was built anew.
const REBUILDS_WINDOW: Duration = Duration::from_secs(600);

/// What is checked.
pub(super) struct Checking {
    database: Arc<dyn Database>,
    contact: Arc<dyn Contact>,
    certificates: Vec<NamedCertificates>,
    retention: Duration,
    table: Table,
    /// From when on a row of the canary is lost, where there is one.
    lost_after: Option<Duration>,
}

/// What is known of the flow of messages.
pub(super) struct Flow {
    /// What the relay is doing.
    pub(super) status: watch::Receiver<Status>,
    /// How much waits, as measured last.
    pub(super) backlog: watch::Receiver<Backlog>,
    /// How the rows of the canary fare, if there is one.
    pub(super) canary: watch::Receiver<View>,
}

/// What the looks at the database came to.
#[derive(Default)]
struct Looked {
    looks: u32,
    database: Vec<Check>,
    foundation: Vec<Check>,
    upkeep: Vec<Check>,
    certificates: Option<Check>,
    leader: Option<Leader>,
}

impl Checking {
    /// Looks at this database, through this client, as the configuration says.
    pub(super) fn new(database: Arc<dyn Database>, contact: Arc<dyn Contact>, config: &Config) -> Self {
        let (retention, table) = (config.outbox.retention, config.outbox.database.table.clone());
        let lost_after = config.canary.as_ref().map(|canary| canary.lost_after);
        Self { database, contact, certificates: config.certificates(), retention, table, lost_after }
    }

    /// Checks until `stop` is cancelled, and tells `checked` and the metrics.
    pub(super) async fn run(self, flow: Flow, checked: watch::Sender<Vec<Check>>, stop: CancellationToken) {
        let Flow { status, mut backlog, canary } = flow;
        let (mut looked, mut rebuilds) = (Looked::default(), Rebuilds::default());
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.look(&mut looked) => {}
                }
                next = Instant::now() + LOOK_INTERVAL;
            }
            rebuilds.count(self.contact.rebuilds());
            let now = status.borrow().clone();
            let mut checks = self.judge(&now, &backlog.borrow_and_update(), &looked, rebuilds.lately());
            checks.extend(self.lost_after.map(|after| checks::canary(&canary.borrow(), after, Instant::now())));
            show_metrics(&checks);
            checked.send_replace(checks);
            // Each measurement of the backlog tells something new.
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
                Ok(()) = backlog.changed() => {}
            }
        }
    }

    /// Looks at the database, and now and then at what hardly ever changes.
    async fn look(&self, looked: &mut Looked) {
        let question = VitalsQuestion { retention: self.retention, shows_queries: false };
        let seen = async {
            let vitals = self.database.vitals(question).await?;
            Ok::<_, StoreError>((vitals, self.database.leader().await?))
        };
        match seen.await {
            Ok((vitals, leader)) => {
                looked.database = vec![checks::database(Ok("it answers"))];
                looked.upkeep = checks::upkeep(&vitals, self.retention);
                looked.leader = leader;
            }
            Err(error) => {
                looked.database = vec![checks::database(Err(&error))];
                looked.leader = None;
                unknown(&mut looked.upkeep);
            }
        }
        if looked.looks.is_multiple_of(LOOKS_TO_THE_FOUNDATION) {
            let (schema, rights) = (self.database.schema().await, self.database.rights().await);
            looked.foundation = vec![checks::schema(schema.as_ref().copied()), checks::rights(rights.as_ref())];
            looked.certificates = self.look_at_certificates().await;
        }
        looked.looks = looked.looks.wrapping_add(1);
    }

    async fn look_at_certificates(&self) -> Option<Check> {
        let named = self.certificates.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = named.iter().map(|named| (named.setting, named.valid_until()));
            read.collect::<Vec<(&'static str, Result<DateTime<Utc>, String>)>>()
        });
        let read = read.await.unwrap_or_default();
        for (setting, until) in &read {
            if let Ok(until) = until {
                metrics::set_certificate_end(setting, until.timestamp());
            }
        }
        checks::certificates(&read, Utc::now())
    }

    fn judge(&self, status: &Status, backlog: &Backlog, looked: &Looked, rebuilds: u64) -> Vec<Check> {
        let leads = matches!(status.phase, Phase::Leading | Phase::Draining);
        let held: &[Held] = &status.held;
        let mut checks = looked.database.clone();
        checks.extend(looked.foundation.iter().cloned());
        checks.push(match looked.database.first().map(|check| check.status) {
            Some(CheckStatus::Ok) | None => checks::lease(looked.leader.as_ref(), backlog),
            Some(_) => Check::unknown(CheckName::Lease, "the database does not answer"),
        });
        checks.push(checks::reader_of(status, Instant::now()));
        checks.push(checks::brokers_by(self.contact.answers().filter(|_| leads)));
        checks.push(if leads { checks::producer(rebuilds) } else { checks::producer_unseen(None) });
        checks.extend(match leads {
            true => [checks::topics(held.iter(), &[]), checks::held_lanes(held.iter())],
            false => [CheckName::Topics, CheckName::HeldLanes].map(|name| Check::unknown(name, "the leader knows")),
        });
        checks.extend(looked.upkeep.iter().cloned());
        checks.extend(looked.certificates.clone());
        checks.push(checks::dead_letters(backlog, &self.table));
        checks
    }
}

/// Shows how checks came out.
pub(super) fn show_metrics(checks: &[Check]) {
    let came_out: Vec<_> = checks.iter().map(|check| (check.name.as_str(), check.status.as_str())).collect();
    metrics::set_checks(&came_out, &CheckStatus::ALL.map(CheckStatus::as_str));
}

/// What was known of these is old news.
fn unknown(checks: &mut [Check]) {
    for check in checks {
        *check = Check::unknown(check.name, "the database does not answer");
    }
}

/// How often the Kafka client was built anew, by when that was seen.
#[derive(Default)]
struct Rebuilds {
    seen: VecDeque<(Instant, u64)>,
}

impl Rebuilds {
    fn count(&mut self, rebuilds: u64) {
        let now = Instant::now();
        if self.seen.back().is_none_or(|(_, before)| *before != rebuilds) {
            self.seen.push_back((now, rebuilds));
        }
        // The last count from before the window stays, to count from.
        while self.seen.get(1).is_some_and(|(at, _)| now - *at >= REBUILDS_WINDOW) {
            self.seen.pop_front();
        }
    }

    /// How often within the window.
    fn lately(&self) -> u64 {
        let counts = self.seen.front().zip(self.seen.back());
        counts.map_or(0, |((_, first), (_, last))| last.saturating_sub(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn clients_that_were_built_anew_long_ago_are_forgotten() {
        let mut rebuilds = Rebuilds::default();
        for (count, lately) in [(0, 0), (2, 2), (2, 2), (5, 5)] {
            rebuilds.count(count);
            assert_eq!(rebuilds.lately(), lately);
            tokio::time::advance(REBUILDS_WINDOW / 4).await;
        }
        for (quarters, lately) in [(1, 5), (2, 3), (3, 3), (4, 0)] {
            rebuilds.count(5);
            assert_eq!(rebuilds.lately(), lately, "after {quarters} quarters");
            tokio::time::advance(REBUILDS_WINDOW / 4).await;
        }
    }
}
