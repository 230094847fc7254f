//! Where a message is.

use crate::outbox::word::words;

words! {
    /// Where a message is, as far as the database tells. Which of the unsent ones is being sent only their relay knows.
    pub enum MessageState else "no state of a message" {
        /// It waits in the outbox to be sent.
        Unsent = "unsent",
        /// It was sent, and the database says so.
        Sent = "sent",
        /// It waits in the outbox, and its lane is held.
        Held = "held",
        /// It was given up, and is kept among the dead letters.
        Dead = "dead",
    }
}
