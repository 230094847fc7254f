//! The ways in which a relay can work that a round chooses from.

use std::fmt;

use crate::support::daemon::Daemon;

/// How a relay settles, delivers, and deals with what can never be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// `outbox.settle`.
    pub(crate) settle: &'static str,
    /// `relay.delivery`.
    pub(crate) delivery: &'static str,
    /// `relay.on_reject`.
    pub(crate) on_reject: &'static str,
}

/// Every mode.
pub(crate) const MODES: &[Mode] = &[
    Mode { settle: "mark", delivery: "at-least-once", on_reject: "halt" },
    Mode { settle: "delete", delivery: "at-least-once", on_reject: "halt" },
    Mode { settle: "checkpoint", delivery: "at-least-once", on_reject: "halt" },
];

impl Mode {
    /// A relay that works like this.
    pub(crate) fn set(self, daemon: Daemon) -> Daemon {
        let daemon = daemon.with("outbox.settle", self.settle);
        daemon.with("relay.delivery", self.delivery).with("relay.on_reject", self.on_reject)
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
