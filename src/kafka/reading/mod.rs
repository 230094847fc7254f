//! Reading topics back, for audits, tests and the demo; and asking brokers from outside.

pub(crate) mod client;
pub(crate) mod consumer;
pub(crate) mod probe;
pub(crate) mod tail;
pub(crate) mod watermarks;
