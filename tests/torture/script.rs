//! What a round does, drawn from its seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::torture::mode::{MODES, Mode};

/// How long the writers write once records flow.
const WRITING: Duration = Duration::from_millis(2_000);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL of a relay, which is started again later.
    KillRelay,
    /// SIGTERM of a relay, which is started again.
    StopRelay,
    /// SIGSTOP of a relay, and SIGCONT later.
    PauseRelay,
    /// SIGKILL of a broker, which is started again later, and is back some seconds after that.
    KillBroker,
    /// A broker stops in order, handing its partitions over, and is started again.
    StopBroker,
    /// Other brokers lead the partitions.
    MoveLeaders,
    /// The database stops, breaking its connections, and is started again.
    RestartDatabase,
    /// SIGKILL of the postmaster right after work was rolled back; its transaction ids come again.
    KillDatabase,
    /// A relay's connections to the database are cut, and new ones refused for a while.
    SeverDatabase,
    /// No byte passes between a relay and the database for a while.
    StallDatabase,
    /// Everything between a relay and the database takes longer.
    SlowDatabase,
    /// A topic's `max.message.bytes` is lowered below what a batch takes.
    LowerLimit,
    /// Writers write a record now and then that no topic takes.
    OversizedRecords,
    /// A topic is deleted under load and created again.
    RecreateTopic,
    /// The relays' role loses a right that they need, and gets it back.
    RevokeRight,
    /// The lease looks as if the database's clock had been stepped by an hour, again and again.
    StepClock,
    /// A large record makes the leader build its Kafka client anew while its link to the database stalls past its lease.
    RebuildClient,
    /// Rows commit late for a topic that is held by then; it appears while others are still to commit.
    LateRows,
    /// Rows for a misspelt topic are corrected, and its lane released.
    CorrectRows,
    /// Rows are taken out into an archive before they were seen, and put back as they were, later.
    MoveRows,
    /// A broker hangs: its connections stay, and nothing comes through them.
    FreezeBroker,
    /// An operator's transaction locks settled rows, the lease and the checkpoint.
    LockRows,
    /// Rows for thousands of topics that do not exist, which are thought better of later.
    CrowdOfTopics,
    /// Rows that cannot be read as records, which are deleted later.
    UnreadableRows,
    /// The database goes on from a backup that was made some seconds before.
    RestoreBackup,
    /// The database goes on as a standby of it that was behind.
    PromoteStandby,
    /// An operator pauses everything, and resumes it.
    PauseAll,
    /// An operator pauses a topic by a pattern, and resumes it.
    PauseTopics,
    /// An operator asks the leader to step down.
    StepDown,
    /// An operator has a topic's rows sent again, and thinks better of it every other time.
    Replay,
    /// Dead letters are put back, before more is written to their lane.
    Requeue,
    /// Dead letters are deleted.
    Discard,
    /// What waits in a lane that is held because a record was rejected is given up.
    Skip,
    /// Rows that were sent a moment ago are removed.
    Purge,
}

/// All kinds, in the order in which rounds take their first fault. With one of the first half comes the one half of all
/// away, which is of those that a round has at most once: one that the other leaves alone, and that a relay does not halt at.
pub(crate) const KINDS: &[Kind] = &[
    Kind::KillRelay,
    Kind::PauseRelay,
    Kind::KillDatabase,
    Kind::SeverDatabase,
    Kind::StopRelay,
    Kind::MoveLeaders,
    Kind::StallDatabase,
    Kind::LowerLimit,
    Kind::RestartDatabase,
    Kind::LockRows,
    Kind::SlowDatabase,
    Kind::RevokeRight,
    Kind::StepClock,
    Kind::CorrectRows,
    Kind::UnreadableRows,
    Kind::KillBroker,
    Kind::OversizedRecords,
    Kind::CrowdOfTopics,
    Kind::LateRows,
    Kind::MoveRows,
    Kind::FreezeBroker,
    Kind::StopBroker,
    Kind::RecreateTopic,
    Kind::RestoreBackup,
    Kind::PromoteStandby,
    Kind::RebuildClient,
];

/// What operators do meanwhile, two a round in turn, by the place of its first fault.
pub(crate) const DEEDS: &[Kind] = &[
    Kind::PauseAll,
    Kind::Requeue,
    Kind::StepDown,
    Kind::Replay,
    Kind::PauseTopics,
    Kind::Discard,
    Kind::Skip,
    Kind::Purge,
];

/// Deeds of operators that a round has at least.
const DEEDS_A_ROUND: usize = 2;

impl Kind {
    /// Whether an operator does it, and nothing breaks.
    pub(crate) fn is_deed(self) -> bool {
        DEEDS.contains(&self)
    }

    /// What an operator does instead where that cannot be done.
    fn possible(self, mode: Mode, takes_back: bool) -> Self {
        match self {
            // Lanes wait for an operator in that mode alone.
            Kind::Skip if !mode.blocks() => Kind::StepDown,
            // Their rows would be of two histories.
            Kind::Requeue | Kind::Discard | Kind::Skip if takes_back => Kind::PauseTopics,
            // Nothing is left of what was sent.
            Kind::Replay | Kind::Purge if mode.settle == "delete" => Kind::PauseAll,
            kind => kind,
        }
    }

    /// Whether a round has at most one such. A broker takes seconds to come back; what was published before a topic
    /// was deleted is gone, so that the audit begins anew, and so it does when the database is taken back. Oversized
    /// records come all the time. The others write rows of their own and take some steps.
    fn is_for_once(self) -> bool {
        let writes = matches!(self, Kind::RebuildClient | Kind::LateRows | Kind::CorrectRows | Kind::MoveRows)
            || matches!(self, Kind::CrowdOfTopics | Kind::UnreadableRows);
        let breaks = matches!(self, Kind::KillBroker | Kind::StopBroker | Kind::FreezeBroker | Kind::RecreateTopic);
        writes || breaks || self == Kind::OversizedRecords || self.takes_back()
    }

    /// Whether the database forgets what it had committed.
    pub(crate) fn takes_back(self) -> bool {
        matches!(self, Kind::RestoreBackup | Kind::PromoteStandby)
    }
}

/// A fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// How long after records flow in every topic.
    pub(crate) at: Duration,
    /// How long it lasts.
    pub(crate) lasting: Duration,
    /// Which relay, broker or topic it hits, modulo their number. Two of three that hit a relay hit the leader.
    pub(crate) whom: usize,
}

/// A round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    /// How many outboxes the database has, each with relays of its own.
    pub(crate) outboxes: usize,
    /// Writers of each outbox.
    pub(crate) writers: u64,
    /// Aggregates of each outbox.
    pub(crate) keys: u64,
    pub(crate) writing: Duration,
    pub(crate) faults: Vec<Fault>,
}

/// The seed of a later round of a run. Its remainder says the mode and the kind of the first fault, so that rounds in
/// a row have each in turn and a seed still tells all.
pub(crate) fn seed(first: u64, round: u64) -> u64 {
    let (modes, kinds) = (MODES.len() as u64, KINDS.len() as u64);
    let drawn: u64 = SmallRng::seed_from_u64(first ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)).random();
    // Kept short, and readable by programs that count in doubles.
    let drawn = drawn >> 24;
    drawn - drawn % (modes * kinds) + (round % kinds) * modes + round % modes
}

/// The next round of a run from this one on that has something of this kind.
pub(crate) fn next_with(first: u64, kind: Kind, round: u64) -> u64 {
    let has = |round: &u64| Script::draw(seed(first, *round)).faults.iter().any(|fault| fault.kind == kind);
    (round..).find(has).expect("every kind has its turn")
}

impl Script {
    /// Draws the round of this seed.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mode = MODES[(seed % MODES.len() as u64) as usize];
        let place = (seed / MODES.len() as u64 % KINDS.len() as u64) as usize;
        let second = KINDS.get(place + KINDS.len() / 2).copied();
        let allowed = |kind| match kind {
            // That would end the round, as it should.
            Kind::OversizedRecords | Kind::UnreadableRows if mode.halts() => Kind::LowerLimit,
            kind => kind,
        };
        let mut faults = vec![Fault::draw(&mut rng, allowed(KINDS[place]))];
        let others: Vec<Kind> = (0..rng.random_range(0..=2)).map(|_| KINDS[rng.random_range(0..KINDS.len())]).collect();
        for kind in second.into_iter().chain(others).map(allowed) {
            let is_there = |what: fn(Kind) -> bool| faults.iter().any(|fault: &Fault| what(fault.kind));
            // Not the record that must come through.
            let spoils = kind == Kind::LowerLimit && is_there(|kind| kind == Kind::RebuildClient)
                || kind == Kind::RebuildClient && is_there(|kind| kind == Kind::LowerLimit);
            if !(spoils || kind.is_for_once() && is_there(Kind::is_for_once)) {
                faults.push(Fault::draw(&mut rng, kind));
            }
        }
        faults.extend(deeds(seed, mode, place, faults.iter().any(|fault| fault.kind.takes_back())));
        faults.sort_by_key(|fault| fault.at);
        Self {
            seed,
            mode,
            outboxes: if rng.random_ratio(1, 5) { 2 } else { 1 },
            writers: rng.random_range(4..=12),
            keys: rng.random_range(5..=200),
            writing: WRITING,
            faults,
        }
    }
}

/// What operators do in the round of this seed, each at most once.
fn deeds(seed: u64, mode: Mode, place: usize, takes_back: bool) -> Vec<Fault> {
    // A draw of their own: what breaks in a round is the same without them.
    let mut rng = SmallRng::seed_from_u64(!seed);
    let turn = DEEDS.chunks(DEEDS_A_ROUND).cycle().nth(place).expect("a cycle").iter();
    let drawn = DEEDS[rng.random_range(0..DEEDS.len())];
    let mut deeds: Vec<Fault> = Vec::new();
    for kind in turn.chain([&drawn]).map(|kind| kind.possible(mode, takes_back)) {
        if deeds.iter().all(|deed| deed.kind != kind) {
            deeds.push(Fault::draw(&mut rng, kind));
        }
    }
    deeds
}

impl Script {
    /// Whether the writers write records that no topic takes.
    pub(crate) fn has_oversized_records(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind == Kind::OversizedRecords)
    }

    /// Whether the database forgets what it had committed.
    pub(crate) fn takes_back(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind.takes_back())
    }

    /// Whether a relay may refuse to go on: what the broker remembers is of a history that the database forgot.
    pub(crate) fn may_refuse(&self) -> bool {
        self.takes_back() && self.mode.is_exact()
    }

    /// Whether this outbox is one whose rows wait for a topic that appears late.
    pub(crate) fn has_late_topic(&self, outbox: usize) -> bool {
        self.faults.iter().any(|fault| fault.kind == Kind::LateRows && fault.whom % self.outboxes == outbox)
    }
}

impl Fault {
    fn draw(rng: &mut SmallRng, kind: Kind) -> Self {
        let latest = if kind.is_for_once() { 1_000 } else { WRITING.as_millis() as u64 - 500 };
        let at = Duration::from_millis(rng.random_range(300..latest));
        let lasting = Duration::from_millis(rng.random_range(100..1_500));
        Self { kind, at, lasting, whom: rng.random_range(0..60) }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, mode, outboxes, writers, keys, .. } = self;
        write!(f, "seed {seed}: {mode}; {outboxes} outboxes, {writers} writers, {keys} keys;")?;
        for Fault { kind, at, lasting, whom } in &self.faults {
            write!(f, " {kind:?}({whom}) {}+{} ms", at.as_millis(), lasting.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_tells_all_of_a_round() {
        for round in 0..50 {
            let seed = seed(7, round);
            assert_eq!(Script::draw(seed), Script::draw(seed));
        }
    }

    #[test]
    fn a_kind_has_its_next_round() {
        for round in 0..30 {
            for kind in KINDS.iter().chain(DEEDS) {
                let next = next_with(7, *kind, round);
                assert!(
                    (round..round + 2 * KINDS.len() as u64).contains(&next),
                    "{kind:?} in round {next} after {round}"
                );
                assert!(Script::draw(seed(7, next)).faults.iter().any(|fault| fault.kind == *kind));
            }
        }
    }

    #[test]
    fn operators_do_what_can_be_done() {
        for round in 0..200 {
            let script = Script::draw(seed(7, round));
            let does = |kind| script.faults.iter().filter(|fault| fault.kind == kind).count();
            assert!(DEEDS.iter().all(|kind| does(*kind) <= 1), "{script}");
            assert!(script.faults.iter().filter(|fault| fault.kind.is_deed()).count() >= 1, "{script}");
            assert!(script.mode.blocks() || does(Kind::Skip) == 0, "{script}");
            assert!(script.mode.settle != "delete" || does(Kind::Replay) + does(Kind::Purge) == 0, "{script}");
            assert!(
                !script.takes_back() || does(Kind::Requeue) + does(Kind::Discard) + does(Kind::Skip) == 0,
                "{script}"
            );
        }
    }

    #[test]
    fn rounds_in_a_row_settle_and_deliver_in_every_way_and_suffer_every_fault() {
        let scripts: Vec<Script> = (0..crate::torture::ROUNDS).map(|round| Script::draw(seed(7, round))).collect();
        let pairs: HashSet<_> = scripts.iter().map(|script| (script.mode.settle, script.mode.delivery)).collect();
        let others: HashSet<_> = scripts.iter().map(|script| script.mode.on_reject).collect();
        assert_eq!((pairs.len(), others.len()), (9, 3));
        for kind in KINDS.iter().chain(DEEDS) {
            assert!(scripts.iter().any(|script| script.faults.iter().any(|fault| fault.kind == *kind)), "{kind:?}");
        }
    }
}
