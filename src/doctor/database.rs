//! What the database is asked.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::admin::checks::{self, Check, CheckName};
use crate::config::Config;
use crate::contract::{Database, Rights, StoreError, VitalsQuestion};
use crate::doctor::depth::Depth;
use crate::observe::chain;
use crate::outbox::Held;

/// Messages that are counted at most.
const COUNT_LIMIT: u64 = 100_000;

/// What the database told.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The checks that are about it.
    pub(super) checks: Vec<Check>,
    /// What is held, where that could be asked.
    pub(super) held: Option<Vec<Held>>,
    /// Topics of which messages wait.
    pub(super) waiting: Vec<String>,
}

/// What is seen of the flow of messages, and of how the outbox is kept.
const OF_THE_FLOW: [CheckName; 6] = [
    CheckName::Setup,
    CheckName::Lease,
    CheckName::Reader,
    CheckName::HeldLanes,
    CheckName::DeadLetters,
    CheckName::Retention,
];

/// Asks one thing after the other, until something is not there on which the rest stands.
pub(super) async fn examine(database: &dyn Database, config: &Config, depth: Depth, deadline: Instant) -> Found {
    let mut found = Found::default();
    let server = within(deadline, database.server()).await;
    found.checks.push(checks::database(server.as_deref()));
    if server.is_err() {
        found.unknown([CheckName::Schema, CheckName::Rights], "the database does not answer");
        found.unknown_flow(depth, "the database does not answer");
        return found;
    }
    let rights = within(deadline, database.rights()).await;
    let schema = within(deadline, database.schema()).await;
    found.take_foundation(schema.as_ref().copied(), rights.as_ref());
    if depth == Depth::Quick {
        return found;
    }
    if schema.is_err() || rights.is_err() {
        found.unknown_flow(depth, "the tables cannot be used");
        return found;
    }
    let setup = within(deadline, database.setup()).await;
    found.checks.push(checks::setup(setup.as_deref()));
    if let Err(error) = within(deadline, found.take_flow(database, config)).await {
        found.unknown_flow(depth, &chain(&error));
    }
    found
}

impl Found {
    /// Without rights the tables may not be there to be seen, and without tables there are no rights on them: then both are
    /// refused, by the same words in the second case.
    fn take_foundation(&mut self, schema: Result<(), &StoreError>, rights: Result<&Rights, &StoreError>) {
        match (schema, rights) {
            (Err(unseen), Err(refused)) if unseen.to_string() != refused.to_string() => {
                self.unknown([CheckName::Schema], "the role may not look at the tables");
                self.checks.push(checks::rights(Err(refused)));
            }
            (Err(missing), Err(_)) => {
                self.checks.push(checks::schema(Err(missing)));
                self.unknown([CheckName::Rights], "there are no tables to have rights on");
            }
            (schema, rights) => self.checks.extend([checks::schema(schema), checks::rights(rights)]),
        }
    }

    async fn take_flow(&mut self, database: &dyn Database, config: &Config) -> Result<(), StoreError> {
        let retention = config.outbox.retention;
        let vitals = database.vitals(VitalsQuestion { retention, shows_queries: true }).await?;
        let leader = database.leader().await?;
        let backlog = database.backlog(COUNT_LIMIT).await?;
        let held: Vec<Held> = database.held_lanes().await?.into_iter().map(|lane| lane.held).collect();
        self.checks.extend([
            checks::lease(leader.as_ref(), &backlog),
            checks::reader(leader.as_ref(), &backlog, held.iter(), vitals.checkpoint_age),
            checks::held_lanes(held.iter()),
            checks::dead_letters(&backlog, &config.outbox.database.table),
        ]);
        self.checks.extend(checks::upkeep(&vitals, retention));
        self.waiting = backlog.topics.into_iter().map(|topic| topic.topic).collect();
        self.held = Some(held);
        Ok(())
    }

    fn unknown<const N: usize>(&mut self, names: [CheckName; N], why: &str) {
        self.checks.extend(names.into_iter().map(|name| Check::unknown(name, why)));
    }

    /// Says of the checks that could not be made that they were not.
    fn unknown_flow(&mut self, depth: Depth, why: &str) {
        if depth == Depth::Full {
            let made: Vec<CheckName> = self.checks.iter().map(|check| check.name).collect();
            let missing = OF_THE_FLOW.into_iter().filter(|name| !made.contains(name));
            self.checks.extend(missing.map(|name| Check::unknown(name, why)));
        }
    }
}

/// What takes longer counts as not answered.
async fn within<T>(deadline: Instant, asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let began = Instant::now();
    timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(silent(began.elapsed())))
}

fn silent(waited: Duration) -> StoreError {
    StoreError::Unavailable {
        doing: "examining it",
        source: format!("no answer within {} ms", waited.as_millis()).into(),
    }
}
