//! The ways in which a relay can work that a round chooses from.

use std::fmt;

use crate::support::daemon::Daemon;

/// How a relay settles, delivers, and deals with what can never be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    /// `outbox.settle`.
    pub(crate) settle: &'static str,
    /// `relay.delivery`.
    pub(crate) delivery: &'static str,
    /// `relay.on_reject`.
    pub(crate) on_reject: &'static str,
}

/// Every mode.
pub(crate) const MODES: [Mode; SETTLE.len() * DELIVERY.len() * ON_REJECT.len()] = every_mode();

const SETTLE: [&str; 3] = ["mark", "delete", "checkpoint"];
const DELIVERY: [&str; 3] = ["at-least-once", "fenced", "exactly-once"];
const ON_REJECT: [&str; 3] = ["dead-letter", "block-key", "halt"];

/// One after the other, so that rounds in a row differ in everything.
const fn every_mode() -> [Mode; SETTLE.len() * DELIVERY.len() * ON_REJECT.len()] {
    let mut modes = [Mode { settle: SETTLE[0], delivery: DELIVERY[0], on_reject: ON_REJECT[0] }; _];
    let mut number = 0;
    while number < modes.len() {
        let (settle, rest) = (number % SETTLE.len(), number / SETTLE.len());
        let (delivery, rest) = ((number + rest) % DELIVERY.len(), rest / DELIVERY.len());
        modes[number] = Mode {
            settle: SETTLE[settle],
            delivery: DELIVERY[delivery],
            on_reject: ON_REJECT[(number + rest) % ON_REJECT.len()],
        };
        number += 1;
    }
    modes
}

impl Mode {
    /// A relay that works like this.
    pub(crate) fn set(self, daemon: Daemon) -> Daemon {
        let daemon = daemon.with("outbox.settle", self.settle);
        daemon.with("relay.delivery", self.delivery).with("relay.on_reject", self.on_reject)
    }

    /// Whether a record that can never be published stops the relay.
    pub(crate) fn halts(self) -> bool {
        self.on_reject == "halt"
    }

    /// Whether lanes wait for an operator behind such a record.
    pub(crate) fn blocks(self) -> bool {
        self.on_reject == "block-key"
    }

    /// Whether a consumer of committed records sees none twice.
    pub(crate) fn is_exact(self) -> bool {
        self.delivery == "exactly-once"
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.settle, self.delivery, self.on_reject)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::MODES;

    #[test]
    fn every_combination_is_there_once() {
        assert_eq!(MODES.iter().collect::<HashSet<_>>().len(), MODES.len());
    }
}
