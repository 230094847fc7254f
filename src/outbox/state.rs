//! Where a message is.

use crate::outbox::word::words;

words! {
    /// Where a message is, as far as the database tells.
    pub enum MessageState else "no state of a message" {
        /// It waits in the outbox to be sent.
        Unsent = "unsent",
        /// The relay that led last had read it when it stored its last checkpoint, about once a second, and had not recorded that
        /// it was sent.
        InFlight = "in-flight",
        /// It was sent, and the database says so.
        Sent = "sent",
        /// It waits in the outbox, and its lane is held.
        Held = "held",
        /// It was given up, and is kept among the dead letters.
        Dead = "dead",
    }
}
