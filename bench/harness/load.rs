//! What contestants are put through.

use std::time::Duration;

/// A load, by the name it has in reports and on the command line.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    /// The load, by its name, that it is held against: a round has them one right after the other.
    pub(crate) beside: &'static str,
    /// Whether every mode of a contestant is measured, or only its default one.
    pub(crate) all_modes: bool,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    Drain(Drain),
    Steady(Steady),
    Idle(Idle),
    Writers(Writers),
    Stages(Stages),
    Inserts(Inserts),
}

/// A backlog that is there when the contestant starts.
pub(crate) struct Drain {
    pub(crate) rows: u64,
    /// Bytes of a payload.
    pub(crate) bytes: usize,
    pub(crate) keys: u64,
    pub(crate) topics: u64,
}

/// Transactions at a rate that is kept.
pub(crate) struct Steady {
    /// Rows a second.
    pub(crate) rate: u64,
    /// Rows of a transaction.
    pub(crate) rows: u64,
    pub(crate) warm_up: Duration,
    pub(crate) lasting: Duration,
    /// Whether another session holds an old snapshot all the while.
    pub(crate) held_snapshot: bool,
    /// Rows that were published before and are still there.
    pub(crate) history: u64,
}

/// Nothing at all.
pub(crate) struct Idle {
    pub(crate) lasting: Duration,
}

/// Writers that commit one row after the other as fast as they can.
pub(crate) struct Writers {
    pub(crate) writers: usize,
    pub(crate) lasting: Duration,
}

/// Transactions of one connection, each of some messages.
pub(crate) struct Inserts {
    pub(crate) messages: usize,
    pub(crate) warm_up: Duration,
    pub(crate) lasting: Duration,
}

/// Reading, publishing and settling alone.
pub(crate) struct Stages {
    pub(crate) rows: u64,
}

/// A million rows as most outboxes have them.
pub(crate) const BACKLOG: Drain = Drain { rows: 1_000_000, bytes: 300, keys: 10_000, topics: 1 };

/// What is drained before anything is measured where time is short.
pub(crate) const WARM_UP: Drain = Drain { rows: 300_000, ..BACKLOG };

const STEADY: Steady = Steady {
    rate: 1_000,
    rows: 1,
    warm_up: Duration::from_secs(10),
    lasting: Duration::from_secs(30),
    held_snapshot: false,
    history: 0,
};

/// Rows that come one at a time, as most services write them.
const TRICKLE: Steady = Steady { lasting: Duration::from_secs(60), ..STEADY };

/// What a disk gets to finish history: gigabytes that were just written slow down commits long after they are synced.
pub(crate) const REST: Duration = Duration::from_secs(120);

const INSERTS: Inserts = Inserts { messages: 1, warm_up: Duration::from_secs(1), lasting: Duration::from_secs(5) };

/// Every load, or short ones for the main ratios. Those that are measured beside each other are neighbours.
pub(crate) fn all(quick: bool) -> Vec<Load> {
    let all_modes = |name, work| Load { name, beside: name, all_modes: true, work };
    let default_mode = |name, work| Load { all_modes: false, ..all_modes(name, work) };
    let beside_steady = |name, work| Load { beside: "steady-1k", ..default_mode(name, work) };
    if quick {
        let (warm_up, lasting) = (Duration::from_secs(3), Duration::from_secs(8));
        return vec![
            default_mode("drain", Work::Drain(Drain { rows: 500_000, ..BACKLOG })),
            default_mode("steady-1k", Work::Steady(Steady { warm_up, lasting, ..STEADY })),
            default_mode("idle", Work::Idle(Idle { lasting })),
        ];
    }
    vec![
        all_modes("drain", Work::Drain(BACKLOG)),
        all_modes("stages", Work::Stages(Stages { rows: 500_000 })),
        beside_steady(
            "held-snapshot",
            Work::Steady(Steady { held_snapshot: true, lasting: Duration::from_secs(120), ..STEADY }),
        ),
        all_modes("steady-1k", Work::Steady(STEADY)),
        beside_steady("big-table", Work::Steady(Steady { history: 10_000_000, ..STEADY })),
        default_mode("trickle-1", Work::Steady(Steady { rate: 1, lasting: Duration::from_secs(200), ..TRICKLE })),
        default_mode("trickle-10", Work::Steady(Steady { rate: 10, ..TRICKLE })),
        default_mode("trickle-50", Work::Steady(Steady { rate: 50, ..TRICKLE })),
        default_mode("trickle-200", Work::Steady(Steady { rate: 200, ..TRICKLE })),
        default_mode("steady-10k", Work::Steady(Steady { rate: 10_000, rows: 10, ..STEADY })),
        default_mode("idle", Work::Idle(Idle { lasting: Duration::from_secs(120) })),
        all_modes("writers", Work::Writers(Writers { writers: 32, lasting: Duration::from_secs(10) })),
        all_modes("inserts-1", Work::Inserts(Inserts { messages: 1, ..INSERTS })),
        all_modes("inserts-10", Work::Inserts(Inserts { messages: 10, ..INSERTS })),
        default_mode("wide-payloads", Work::Drain(Drain { rows: 2_000, bytes: 1_000_000, keys: 100, topics: 1 })),
        default_mode("wide-topics", Work::Drain(Drain { rows: 500_000, topics: 1_000, ..BACKLOG })),
        default_mode("wide-key", Work::Drain(Drain { rows: 500_000, keys: 1, ..BACKLOG })),
        default_mode("growth-10k", Work::Drain(Drain { rows: 10_000, ..BACKLOG })),
        default_mode("growth-100k", Work::Drain(Drain { rows: 100_000, ..BACKLOG })),
        default_mode("growth-10M", Work::Drain(Drain { rows: 10_000_000, ..BACKLOG })),
        default_mode("hour-5k", Work::Steady(Steady { rate: 5_000, lasting: Duration::from_secs(3_600), ..STEADY })),
    ]
}

impl Load {
    /// All that its figures depend on: figures of another load of this name are not mistaken for its own.
    pub(crate) fn parameters(&self) -> String {
        match &self.work {
            Work::Drain(Drain { rows, bytes, keys, topics }) => {
                format!("{rows} rows of {bytes} bytes, {keys} keys, {topics} topics")
            }
            Work::Steady(Steady { rate, rows, warm_up, lasting, held_snapshot, history }) => format!(
                "{rate} rows a second for {lasting:?} after {warm_up:?}{}{}{}",
                if *rows > 1 { format!(", {rows} a transaction") } else { String::new() },
                if *held_snapshot { ", an old snapshot held" } else { "" },
                if *history > 0 { format!(", {history} rows of history, {REST:?} old") } else { String::new() },
            ),
            Work::Idle(Idle { lasting }) => format!("nothing for {lasting:?}"),
            Work::Stages(Stages { rows }) => format!("{rows} rows of 300 bytes, each stage alone"),
            Work::Inserts(Inserts { messages, lasting, .. }) => {
                format!("one connection, {messages} messages of 300 bytes a transaction, for {lasting:?}")
            }
            Work::Writers(Writers { writers, lasting }) => format!("{writers} writers for {lasting:?}"),
        }
    }
}
