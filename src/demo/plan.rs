//! What the demo's writer does, as a function of the seed: an audit that knows the seed knows which transactions
//! roll back, without keeping a list. Pure.

/// How many orders there are: each is a key, and so a lane.
const ORDERS: u64 = 500;

/// The most orders that one transaction changes.
const CHANGES: u64 = 4;

/// One transaction in so many rolls back.
const ROLLBACKS: u64 = 10;

/// The writer's plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    seed: u64,
}

/// One transaction of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    /// Its number, from 0.
    pub(crate) number: u64,
    /// The orders that it changes, each once.
    pub(crate) orders: Vec<u64>,
    /// Whether it commits.
    pub(crate) commits: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The transaction of this number.
    pub(crate) fn transaction(self, number: u64) -> Transaction {
        let mut random = Random(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let commits = !random.below(ROLLBACKS).eq(&0);
        let first = random.below(ORDERS);
        let orders = (0..=random.below(CHANGES)).map(|step| 1 + (first + step * 37) % ORDERS).collect();
        Transaction { number, orders, commits }
    }

    /// Whether the transaction of this number commits.
    pub(crate) fn commits(self, number: u64) -> bool {
        self.transaction(number).commits
    }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan_and_about_a_tenth_rolls_back() {
        let (plan, other) = (Plan::new(7), Plan::new(8));
        let rolled_back = (0..10_000).filter(|number| !plan.commits(*number)).count();
        assert!((800..1200).contains(&rolled_back), "{rolled_back}");
        assert_eq!(plan.transaction(41), Plan::new(7).transaction(41));
        assert!((0..100).any(|number| plan.transaction(number) != other.transaction(number)));
    }

    #[test]
    fn a_transaction_changes_no_order_twice() {
        for number in 0..1000 {
            let orders = Plan::new(1).transaction(number).orders;
            let distinct: BTreeSet<&u64> = orders.iter().collect();
            assert_eq!(distinct.len(), orders.len());
            assert!(orders.iter().all(|order| (1..=ORDERS).contains(order)));
        }
    }
}
