//! How a commit wakes the relay.

use crate::outbox::word::words;

words! {
    /// When writers notify the relay.
    #[derive(Default)]
    pub enum Notify else "no way to notify" {
        /// Never: the relay polls, and writers may use prepared transactions.
        Off = "off",
        /// While the relay waits for commits, which it does as long as they come one at a time and not in a rush.
        #[default]
        Gated = "gated",
        /// At each statement.
        Always = "always",
    }
}

words! {
    /// Whether applications prepare transactions that write to the outbox (`PREPARE TRANSACTION`). A transaction that
    /// notified cannot be prepared.
    #[derive(Default)]
    pub enum PreparedTransactions else "no answer to whether transactions are prepared" {
        /// They may, where the server allows it.
        #[default]
        Possible = "possible",
        /// They do not, whatever the server allows.
        Never = "never",
    }
}
