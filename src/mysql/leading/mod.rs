//! The lease, and waking up.

pub(crate) mod lease;
pub(crate) mod wake;
