//! What arrived against what was committed: lost, twice, out of order, never committed. Pure, and bounded by
//! the number of orders, however long the demo runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::demo::plan::Plan;

/// The state of an order as a consumer got to know it: the versions of an order are 1, 2, 3 …
#[derive(Debug, Default)]
struct Lane {
    highest: u64,
    missing: BTreeSet<u64>,
}

/// Follows what arrives.
#[derive(Debug)]
pub(crate) struct Audit {
    plan: Plan,
    lanes: HashMap<u64, Lane>,
    received: u64,
    duplicates: u64,
    violations: u64,
    uncommitted: u64,
}

/// A change of an order, as its message tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Change {
    pub(crate) order: u64,
    pub(crate) version: u64,
    pub(crate) transaction: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Messages that the application committed, by its own table.
    pub(crate) committed: u64,
    /// Different messages that arrived.
    pub(crate) received: u64,
    /// Committed messages that did not arrive.
    pub(crate) lost: u64,
    /// Arrivals of a message that had arrived already.
    pub(crate) duplicates: u64,
    /// Messages that arrived for the first time after a later one of their order.
    pub(crate) violations: u64,
    /// Arrivals of messages whose transaction rolled back.
    pub(crate) uncommitted: u64,
}

impl Audit {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, lanes: HashMap::new(), received: 0, duplicates: 0, violations: 0, uncommitted: 0 }
    }

    /// Takes note of an arrival.
    pub(crate) fn arrived(&mut self, change: Change) {
        if !self.plan.commits(change.transaction) {
            self.uncommitted += 1;
            return;
        }
        let lane = self.lanes.entry(change.order).or_default();
        if change.version > lane.highest {
            lane.missing.extend(lane.highest + 1..change.version);
            lane.highest = change.version;
            self.received += 1;
        } else if lane.missing.remove(&change.version) {
            self.violations += 1;
            self.received += 1;
        } else {
            self.duplicates += 1;
        }
    }

    /// Takes note of an arrival that is no change of an order.
    pub(crate) fn arrived_unreadable(&mut self) {
        self.uncommitted += 1;
    }

    /// How many different messages have arrived.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Compares with the versions that the application's own table holds.
    pub(crate) fn findings(&self, committed: &BTreeMap<u64, u64>) -> Findings {
        let lost = |(order, version): (&u64, &u64)| match self.lanes.get(order) {
            Some(lane) => version.saturating_sub(lane.highest) + lane.missing.len() as u64,
            None => *version,
        };
        Findings {
            committed: committed.values().sum(),
            received: self.received,
            lost: committed.iter().map(lost).sum(),
            duplicates: self.duplicates,
            violations: self.violations,
            uncommitted: self.uncommitted,
        }
    }
}

impl Findings {
    /// Whether the promise was kept. Duplicates are allowed: it says at least once.
    pub(crate) fn kept(&self) -> bool {
        self.lost == 0 && self.violations == 0 && self.uncommitted == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audited(versions: &[u64]) -> Findings {
        let plan = Plan::new(0);
        let transaction = (0..).find(|number| plan.commits(*number)).expect("most commit");
        let mut audit = Audit::new(plan);
        for version in versions {
            audit.arrived(Change { order: 1, version: *version, transaction });
        }
        audit.findings(&BTreeMap::from([(1, 5)]))
    }

    #[test]
    fn a_rewind_is_duplicates_and_no_violation() {
        let findings = audited(&[1, 2, 3, 2, 3, 4, 5]);
        assert_eq!((findings.received, findings.duplicates, findings.violations, findings.lost), (5, 2, 0, 0));
        assert!(findings.kept());
    }

    #[test]
    fn a_gap_is_a_loss_until_it_is_filled_and_then_a_violation() {
        let findings = audited(&[1, 2, 4, 5]);
        assert_eq!((findings.lost, findings.violations), (1, 0));
        let findings = audited(&[1, 2, 4, 3, 5]);
        assert_eq!((findings.lost, findings.violations), (0, 1));
        assert!(!findings.kept());
    }

    #[test]
    fn what_never_arrived_at_all_is_lost() {
        assert_eq!(audited(&[]).lost, 5);
        assert_eq!(audited(&[1, 2]).lost, 3);
    }

    #[test]
    fn a_message_of_a_transaction_that_rolled_back_is_found() {
        let plan = Plan::new(0);
        let transaction = (0..).find(|number| !plan.commits(*number)).expect("some roll back");
        let mut audit = Audit::new(plan);
        audit.arrived(Change { order: 1, version: 1, transaction });
        assert!(!audit.findings(&BTreeMap::new()).kept());
    }
}
